"""What a relying party demands of a TDX quote, as a typed TOML file.

A key that is left out has the default of `TdxPolicy()`, which is what a newcomer gets without a
file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from attestation.policy_file import (
    expected,
    hex_set,
    items,
    number,
    read_policy,
    rules,
    texts,
)
from attestation.tdx.collateral import TcbStatus

CODE: Final = "tdx.policy.format"


@dataclass(frozen=True, slots=True, kw_only=True)
class TdRules:
    """What the TD may have been launched with.

    Attributes:
        allow_debug: the host may read and change the TD's memory. Nothing is secret then.
        allow_migration: a migration TD may move the TD to another machine.
        require_sept_ve_disable: the host cannot make the TD trip over pages that it took away.
            Kernels that switch this off by themselves (TD_CTLS) run without the attribute.
        allow_pks, allow_key_locker, allow_perfmon: features that the TD itself may use.
    """

    allow_debug: bool = False
    allow_migration: bool = False
    require_sept_ve_disable: bool = True
    allow_pks: bool = True
    allow_key_locker: bool = True
    allow_perfmon: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxPolicy:
    """All demands. Empty sets and zero demand nothing.

    Attributes:
        statuses: what Intel may say of platform, module and quoting enclave together.
        grace_days: a platform that is out of date counts as one that is not for so many days after
            the date of its level. 0: no grace.
        accepted_advisories: if any is named, every advisory that Intel names has to be among them.
        minimum_evaluation_number: of TCB info and quoting enclave's identity: keeps a host from
            handing out older documents that are still valid.
        mrtd, rtmr0–3, mrconfigid, mrowner, mrownerconfig, mrseam: 48 bytes each.
        mrservicetd: bound service TDs, 48 bytes each; none may be bound unless it is named.
        fmspcs: 6 bytes; platform_instances: 16 bytes.
    """

    statuses: frozenset[TcbStatus] = frozenset({TcbStatus.UP_TO_DATE})
    grace_days: int = 0
    accepted_advisories: frozenset[str] = frozenset()
    minimum_evaluation_number: int = 0
    td: TdRules = field(default_factory=TdRules)
    mrtd: frozenset[bytes] = frozenset()
    rtmr0: frozenset[bytes] = frozenset()
    rtmr1: frozenset[bytes] = frozenset()
    rtmr2: frozenset[bytes] = frozenset()
    rtmr3: frozenset[bytes] = frozenset()
    mrconfigid: frozenset[bytes] = frozenset()
    mrowner: frozenset[bytes] = frozenset()
    mrownerconfig: frozenset[bytes] = frozenset()
    mrseam: frozenset[bytes] = frozenset()
    mrservicetd: frozenset[bytes] = frozenset()
    fmspcs: frozenset[bytes] = frozenset()
    platform_instances: frozenset[bytes] = frozenset()

    @classmethod
    def parse(cls, data: bytes) -> TdxPolicy:
        """Read a policy file.

        Raises:
            MalformedError: `tdx.policy.format`: not TOML, an unknown key, a wrong type or size.
        """
        return cls(**read_policy(data, _READERS, CODE))


def _statuses(value: object) -> frozenset[TcbStatus]:
    try:
        return frozenset(TcbStatus(str(item)) for item in items(value))
    except ValueError:
        raise expected(f"a list of {', '.join(TcbStatus)}") from None


_MEASUREMENT: Final = hex_set(48)
_READERS: Final[dict[str, Callable[[object], Any]]] = {
    "statuses": _statuses,
    "grace_days": number(3650),
    "accepted_advisories": texts,
    "minimum_evaluation_number": number(2**31),
    "td": rules(TdRules, {}),
    "mrtd": _MEASUREMENT,
    "rtmr0": _MEASUREMENT,
    "rtmr1": _MEASUREMENT,
    "rtmr2": _MEASUREMENT,
    "rtmr3": _MEASUREMENT,
    "mrconfigid": _MEASUREMENT,
    "mrowner": _MEASUREMENT,
    "mrownerconfig": _MEASUREMENT,
    "mrseam": _MEASUREMENT,
    "mrservicetd": _MEASUREMENT,
    "fmspcs": hex_set(6),
    "platform_instances": hex_set(16),
}
