"""The decision record: one outcome with everything that led to it, as deterministic CBOR.

The bytes that `encode_record` makes are what is chained, stored, streamed and shown; nobody
re-serialises them. A record is a map with text keys, the keys in the order of RFC 8949 4.2.1
(shorter first, then bytewise). It holds claims, sizes and hashes, never the text of a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import cbor2
import msgspec

from attestation import cbor
from attestation.errors import MalformedError

RECORD_VERSION: Final = 1
MAX_RECORD_SIZE: Final = 64 * 1024  # bytes; a guess: typical records are 600 to 900 bytes

PHASES: Final = frozenset({"request", "response", "artifact", "execution"})
OUTCOMES: Final = frozenset({"proceed", "warn", "redact", "deny"})

PLATFORM_FIELDS: Final = ("tee_type", "hardware_attested", "tcb_status", "simulated")

ClaimValue = bool | int | str | tuple[str, ...]

_EMPTY: Final[MappingProxyType[str, Any]] = MappingProxyType({})


class TextDigest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One text that was looked at: SHA-256 over (boot salt ‖ UTF-8 text), and its size in bytes."""

    sha256: bytes
    size: int


class Coverage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was really looked at. Bytes are decoded text in UTF-8, not wire bytes."""

    seen: int = 0
    released: int = 0
    windows: int = 0
    fields: int = 0
    complete: bool = True  # False: the exchange ended before everything was seen


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A decision before the journal gives it a place (agent, boot, seq and time are added there).

    Attributes:
        decision_id: shown to the client in `Lucid-Decision-Id`; `dec-` and 24 hex digits.
        request_id: one for both phases of an exchange.
        trace_id: the client's W3C trace id, or one made here; 32 hex digits.
        reasons: stable strings: policy ids, `claim_missing:<name>`, `policy_error:<id>`, …
        obligations: what the door had to do, e.g. `{"redact": ("card", "email")}`.
        latency_us: microseconds per step, e.g. `{"detect": 40, "policy": 31}`.
        auditors: status per auditor, e.g. `{"injection": "ok"}`.
        groups: of the principal's credential, those that the bundle names; None where it names
            none, or the principal can be in none (and in records of older agents).
        platform: what policies saw of it: tee_type, hardware_attested, tcb_status, simulated; None
            where no policy of the bundle asks (and in records of older agents).
    """

    decision_id: str
    request_id: str
    trace_id: str
    phase: str
    route: str
    model: str
    principal: tuple[str, str]
    action: str
    resource: tuple[str, str]
    outcome: str
    reasons: tuple[str, ...]
    bundle: tuple[str, str, bytes]  # name, version, SHA-256 digest
    passport: str
    obligations: MappingProxyType[str, tuple[str, ...]] | dict[str, tuple[str, ...]] = _EMPTY
    claims: MappingProxyType[str, ClaimValue] | dict[str, ClaimValue] = _EMPTY
    texts: tuple[TextDigest, ...] = ()
    coverage: Coverage = msgspec.field(default_factory=Coverage)
    latency_us: dict[str, int] = msgspec.field(default_factory=dict)
    auditors: dict[str, str] = msgspec.field(default_factory=dict)
    shadow: str | None = None
    groups: tuple[str, ...] | None = None
    platform: tuple[str, bool, str, bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A decoded record with its place in the journal. Times are nanoseconds."""

    agent: str
    boot: bytes
    seq: int
    wall_ns: int
    boot_ns: int
    record: DecisionRecord


@lru_cache(maxsize=256)  # the hot path has a few sets of keys, always the same
def _in_order(keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(keys, key=lambda k: (len(k.encode()), k.encode())))


def _sorted_map(value: Any) -> dict[str, Any]:
    return {k: value[k] for k in _in_order(tuple(value))} if value else {}


def encode_record(
    record: DecisionRecord, *, agent: str, boot: bytes, seq: int, wall_ns: int, boot_ns: int
) -> bytes:
    """The one encoding of a record. The literal below is already in RFC 8949 order, which spares
    the hot path a generic sort; `tests/attestation/test_records.py` holds it to `cbor.encode`.
    """
    coverage = record.coverage
    name, version, digest = record.bundle
    return cbor2.dumps(
        {
            "v": RECORD_VERSION,
            "id": record.decision_id,
            "seq": seq,
            "boot": boot,
            "agent": agent,
            "model": record.model,
            "phase": record.phase,
            "route": record.route,
            "texts": [[t.sha256, t.size] for t in record.texts],
            "action": record.action,
            "bundle": [name, version, digest],
            "claims": _sorted_map(record.claims),
            **({} if record.groups is None else {"groups": list(record.groups)}),
            "shadow": record.shadow,
            "boot_ns": boot_ns,
            "outcome": record.outcome,
            "reasons": list(record.reasons),
            "wall_ns": wall_ns,
            "auditors": _sorted_map(record.auditors),
            "coverage": [
                coverage.seen,
                coverage.released,
                coverage.windows,
                coverage.fields,
                coverage.complete,
            ],
            "passport": record.passport,
            **({} if record.platform is None else {"platform": list(record.platform)}),
            "resource": list(record.resource),
            "trace_id": record.trace_id,
            "principal": list(record.principal),
            "latency_us": _sorted_map(record.latency_us),
            "request_id": record.request_id,
            "obligations": _sorted_map(record.obligations),
        }
    )


class _Fields:
    """Typed access to a decoded map; every mismatch is a MalformedError that names the field."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise MalformedError("record.type", "a decision record is a CBOR map")
        self._map = value
        self._used = 0

    def take(self, name: str, kind: type | tuple[type, ...]) -> Any:
        try:
            value = self._map[name]
        except KeyError:
            raise MalformedError("record.missing", f"the record has no {name!r}") from None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise MalformedError(
                "record.field", f"{name!r} of the record is a {type(value).__name__}"
            )
        self._used += 1
        return value

    def sized(self, name: str, size: int) -> bytes:
        value: bytes = self.take(name, bytes)
        if len(value) != size:
            raise MalformedError("record.field", f"{name!r} of the record has {len(value)} bytes")
        return value

    def number(self, name: str) -> int:
        value: int = self.take(name, int)
        if not _is_count(value):
            raise MalformedError("record.field", f"{name!r} of the record is negative")
        return value

    def strings(self, name: str, count: int | None = None) -> tuple[str, ...]:
        value = self.take(name, list)
        if not _is_texts(value):
            raise MalformedError("record.field", f"{name!r} of the record is not a list of strings")
        if count is not None and len(value) != count:
            raise MalformedError("record.field", f"{name!r} of the record needs {count} strings")
        return tuple(value)

    def has(self, name: str) -> bool:
        return name in self._map

    def table(self, name: str, kind: type | tuple[type, ...]) -> dict[str, Any]:
        value = self.take(name, dict)
        for key, item in value.items():
            bad = isinstance(item, list) and not _is_texts(item)
            if bad or not isinstance(key, str) or not isinstance(item, kind):
                raise MalformedError("record.field", f"{name!r} of the record has a bad entry")
        return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}

    def finish(self) -> None:
        if self._used != len(self._map):
            raise MalformedError("record.unknown", "the record has unknown fields")


def _is_count(value: object) -> bool:
    """A number that is not negative; Python takes true for one."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_texts(value: list[Any]) -> bool:
    return all(isinstance(item, str) for item in value)


def _texts(value: list[Any]) -> tuple[TextDigest, ...]:
    for item in value:
        match item:
            case [bytes(digest), size] if len(digest) == 32 and _is_count(size):
                pass
            case _:
                raise MalformedError("record.field", "'texts' of the record has a bad entry")
    return tuple(TextDigest(sha256=digest, size=size) for digest, size in value)


def _coverage(value: list[Any]) -> Coverage:
    match value:
        case [seen, released, windows, fields, bool(complete)] if all(map(_is_count, value[:4])):
            return Coverage(
                seen=seen, released=released, windows=windows, fields=fields, complete=complete
            )
    raise MalformedError("record.field", "'coverage' of the record is malformed")


def _bundle(value: list[Any]) -> tuple[str, str, bytes]:
    match value:
        case [str(name), str(version), bytes(digest)] if len(digest) == 32:
            return name, version, digest
    raise MalformedError("record.field", "'bundle' of the record is malformed")


def _platform(value: list[Any]) -> tuple[str, bool, str, bool]:
    match value:
        case [str(tee), bool(attested), str(tcb), bool(simulated)]:
            return tee, attested, tcb, simulated
    raise MalformedError("record.field", "'platform' of the record is malformed")


def decode_record(data: bytes) -> Placed:
    """Decode and check one record (attacker input: bounds, types, no unknown fields).

    Raises:
        MalformedError: not a version-1 record in deterministic CBOR.
    """
    fields = _Fields(
        cbor.decode(
            data,
            max_size=MAX_RECORD_SIZE,
            max_depth=4,
            max_items=MAX_RECORD_SIZE,  # whatever was recorded can be read
            deterministic=True,
        )
    )
    if fields.take("v", int) != RECORD_VERSION:
        raise MalformedError("record.version", "only version-1 records are understood")
    principal, resource = fields.strings("principal", 2), fields.strings("resource", 2)
    record = DecisionRecord(
        decision_id=fields.take("id", str),
        request_id=fields.take("request_id", str),
        trace_id=fields.take("trace_id", str),
        phase=fields.take("phase", str),
        route=fields.take("route", str),
        model=fields.take("model", str),
        principal=(principal[0], principal[1]),
        action=fields.take("action", str),
        resource=(resource[0], resource[1]),
        outcome=fields.take("outcome", str),
        reasons=fields.strings("reasons"),
        bundle=_bundle(fields.take("bundle", list)),
        passport=fields.take("passport", str),
        obligations=fields.table("obligations", list),
        claims=fields.table("claims", (bool, int, str, list)),
        texts=_texts(fields.take("texts", list)),
        coverage=_coverage(fields.take("coverage", list)),
        latency_us=fields.table("latency_us", int),
        auditors=fields.table("auditors", str),
        shadow=fields.take("shadow", (str, type(None))),
        groups=fields.strings("groups") if fields.has("groups") else None,
        platform=_platform(fields.take("platform", list)) if fields.has("platform") else None,
    )
    if record.phase not in PHASES or record.outcome not in OUTCOMES:
        raise MalformedError("record.field", "unknown phase or outcome in the record")
    placed = Placed(
        agent=fields.take("agent", str),
        boot=fields.sized("boot", 16),
        seq=fields.number("seq"),
        wall_ns=fields.number("wall_ns"),
        boot_ns=fields.number("boot_ns"),
        record=record,
    )
    fields.finish()
    return placed
