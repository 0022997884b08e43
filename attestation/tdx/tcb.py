"""Which status Intel's documents give a platform: pure comparison, of documents already verified.

Source: Intel PCS API version 4, "Get TDX TCB Info" (the algorithm), and Intel's quote verification
library. Levels are looked through in the documents' order, which is descending. Where no level
matches there is no status, and the platform is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from attestation.errors import VerificationError
from attestation.tdx.abi import QeReport, TdReport
from attestation.tdx.collateral import (
    EnclaveLevel,
    Level,
    ModuleIdentity,
    PlatformLevel,
    QeIdentity,
    TcbInfo,
    TcbStatus,
)
from attestation.tdx.pck import PckExtensions

_S = TcbStatus
# What an old module or quoting enclave makes of the platform's own status. Intel's library looks
# for the one word `OutOfDate`; here every part that is not up to date counts as old, so that no
# whole is called better than one of its parts.
_WITH_OLD_PART: Final = {
    _S.UP_TO_DATE: _S.OUT_OF_DATE,
    _S.SW_HARDENING_NEEDED: _S.OUT_OF_DATE,
    _S.CONFIGURATION_NEEDED: _S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    _S.CONFIGURATION_AND_SW_HARDENING_NEEDED: _S.OUT_OF_DATE_CONFIGURATION_NEEDED,
}


# What a TD should do whose launch was out of date while the same machine is not any more.
_RELAUNCH: Final = {
    _S.UP_TO_DATE: _S.TD_RELAUNCH_ADVISED,
    _S.SW_HARDENING_NEEDED: _S.TD_RELAUNCH_ADVISED,
    _S.CONFIGURATION_NEEDED: _S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
    _S.CONFIGURATION_AND_SW_HARDENING_NEEDED: _S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
}
# What a machine must not have become since a launch.
_WORSE: Final = frozenset({_S.OUT_OF_DATE, _S.OUT_OF_DATE_CONFIGURATION_NEEDED, _S.REVOKED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What Intel says of a platform, its TDX module and its quoting enclave together.

    Attributes:
        status: of the three together.
        date: the earliest of the three; from then on the next level was known to be better.
        advisories: of the three together, sorted.
        platform, module, enclave: the rows that matched; no module row before modules had numbers.
    """

    status: TcbStatus
    date: datetime
    advisories: tuple[str, ...]
    platform: PlatformLevel
    module: EnclaveLevel | None
    enclave: EnclaveLevel


def check_platform(pck: PckExtensions, tcb_info: TcbInfo) -> tuple[str, None]:
    """The TCB info is for this kind of platform.

    Raises:
        VerificationError: `tdx.tcb.platform`: it is for another.
    """
    if tcb_info.fmspc != pck.fmspc or tcb_info.pceid != pck.pceid:
        raise VerificationError(
            "tdx.tcb.platform",
            f"the TCB info is for the platform {tcb_info.fmspc.hex()}/{tcb_info.pceid.hex()}, the"
            f" quote is from {pck.fmspc.hex()}/{pck.pceid.hex()}",
            remedy="fetch the TCB info for the quote's FMSPC",
        )
    return f"FMSPC {pck.fmspc.hex()}, PCE {pck.pceid.hex()}", None


def check_module(report: TdReport, tcb_info: TcbInfo) -> tuple[str, None]:
    """The TDX module is one of Intel's.

    Raises:
        VerificationError: `tdx.module.identity`.
    """
    number = report.tee_tcb_svn[1]
    identity = _module(number, tcb_info)
    masked = _masked(report.seam_attributes, identity.attributes_mask)
    if report.mrsignerseam != identity.mrsigner or masked != identity.attributes:
        raise VerificationError(
            "tdx.module.identity", "the TDX module is not signed or configured as Intel's"
        )
    return f"TDX_{number:02X}, version {report.tee_tcb_svn[0]}", None


def check_enclave(report: QeReport, identity: QeIdentity) -> tuple[str, None]:
    """The quoting enclave is Intel's: without this anybody's could sign (CVE-2026-22696).

    Raises:
        VerificationError: `tdx.qe.identity`.
    """
    for what, holds in (
        ("MRSIGNER", report.mrsigner == identity.mrsigner),
        ("ISVPRODID", report.isvprodid == identity.isvprodid),
        ("MISCSELECT", report.miscselect & identity.miscselect_mask == identity.miscselect),
        ("attributes", _masked(report.attributes, identity.attributes_mask) == identity.attributes),
    ):
        if not holds:
            raise VerificationError(
                "tdx.qe.identity", f"{what} of the quoting enclave is not that of Intel's"
            )
    return f"Intel's quoting enclave, version {report.isvsvn}", None


def assess(
    report: TdReport,
    qe_report: QeReport,
    pck: PckExtensions,
    tcb_info: TcbInfo,
    qe_identity: QeIdentity,
) -> Assessment:
    """The status of a quote's platform, where module, enclave and TCB info are the right ones.

    Raises:
        VerificationError: `tdx.tcb.level`: no level matches.
    """
    launch = _assess(report.tee_tcb_svn, qe_report, pck, tcb_info, qe_identity)
    if report.tee_tcb_svn2 is None:
        return launch
    current = _assess(report.tee_tcb_svn2, qe_report, pck, tcb_info, qe_identity)
    found = replace(launch, status=relaunch(launch.status, current.status))
    if current.status not in _WORSE:
        return found
    return replace(
        found,
        date=min(launch.date, current.date),
        advisories=tuple(sorted({*launch.advisories, *current.advisories})),
    )


def _assess(
    svn: bytes,
    qe_report: QeReport,
    pck: PckExtensions,
    tcb_info: TcbInfo,
    qe_identity: QeIdentity,
) -> Assessment:
    number = svn[1]
    module = None
    if number:  # older modules are judged by the platform's own rows
        module = _by_isvsvn(_module(number, tcb_info).levels, svn[0], f"the TDX module {svn.hex()}")
    enclave = _by_isvsvn(
        qe_identity.levels, qe_report.isvsvn, f"the quoting enclave's version {qe_report.isvsvn}"
    )
    platform = _platform_level(svn, pck, tcb_info.levels)
    parts: list[Level] = [platform, enclave] if module is None else [platform, module, enclave]
    return Assessment(
        status=converge(platform.status, [part.status for part in parts[1:]]),
        date=min(part.date for part in parts),
        advisories=tuple(sorted({name for part in parts for name in part.advisories})),
        platform=platform,
        module=module,
        enclave=enclave,
    )


def converge(platform: TcbStatus, parts: Sequence[TcbStatus]) -> TcbStatus:
    """The status of a platform with the statuses of its module and quoting enclave."""
    if _S.REVOKED in (platform, *parts):
        return _S.REVOKED
    if any(part is not _S.UP_TO_DATE for part in parts):
        return _WITH_OLD_PART.get(platform, platform)
    return platform


def relaunch(launch: TcbStatus, current: TcbStatus) -> TcbStatus:
    """The status of a TD by what its machine was at the launch and is now (TD 1.5).

    Source: Intel's quote verification library, `checkForRelaunch`. It keeps the launch's status
    where the machine is worse now, which a host may have brought about; here that counts.
    """
    if current in _WORSE:
        return converge(launch, [current])
    if current not in _RELAUNCH:
        return launch
    if launch is _S.OUT_OF_DATE:
        return _RELAUNCH[current]
    if launch is _S.OUT_OF_DATE_CONFIGURATION_NEEDED:
        return _S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    return launch


def _module(number: int, tcb_info: TcbInfo) -> ModuleIdentity:
    if not number:
        return tcb_info.module
    found = [module for module in tcb_info.modules if module.number == number]
    if len(found) != 1:
        raise VerificationError(
            "tdx.module.identity", f"the TCB info names no TDX module TDX_{number:02X}"
        )
    return found[0]


def _masked(value: bytes, mask: bytes) -> bytes:
    return bytes(a & b for a, b in zip(value, mask, strict=True))


def _platform_level(
    svn: bytes, pck: PckExtensions, levels: Sequence[PlatformLevel]
) -> PlatformLevel:
    # With a numbered module its own rows judge the first two TDX levels.
    first = 2 if svn[1] else 0
    for level in levels:
        if (
            _covers(pck.components, level.sgx)
            and pck.pcesvn >= level.pcesvn
            and _covers(svn[first:], level.tdx[first:])
        ):
            return level
    raise _not_supported(
        f"the platform: SGX {pck.components.hex()}, PCE {pck.pcesvn}, TDX {svn.hex()}"
    )


def _covers(have: bytes, need: bytes) -> bool:
    return all(a >= b for a, b in zip(have, need, strict=True))


def _by_isvsvn(levels: Sequence[EnclaveLevel], isvsvn: int, what: str) -> EnclaveLevel:
    for level in levels:
        if isvsvn >= level.isvsvn:
            return level
    raise _not_supported(what)


def _not_supported(what: str) -> VerificationError:
    return VerificationError(
        "tdx.tcb.level",
        f"no TCB level of Intel's matches {what}",
        remedy="the platform's owner has to update it; or the documents are of another time",
    )
