"""The firmware's event log (CCEL): what was measured into the run-time registers, in what order.

Source: TCG "PC Client Platform Firmware Profile" (crypto-agile log), Intel "Guest-Host
Communication Interface for TDX" (CCEL). The log is the host's and the guest's word, and proves
nothing: only its replay does, compared with the registers in a verified quote. Of an event's data
the replay proves nothing either: only its digest was measured (see `Event.proven`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from attestation.errors import MalformedError, VerificationError
from attestation.ledger import Ledger
from attestation.tdx.verify import VerifiedQuote

MAX_LOG_SIZE: Final = 1024 * 1024  # bytes; the firmware reserves 64 KiB
MAX_EVENTS: Final = 8192
REGISTERS: Final = 4

_NO_ACTION: Final = 3
_SEPARATOR: Final = 4
_SHA384: Final = 0x000C
_SIZES: Final = {0x0004: 20, 0x000B: 32, _SHA384: 48, 0x000D: 64, 0x0012: 32}  # SHA-1 to SM3
_SIGNATURE: Final = b"Spec ID Event03\0"
_RUN_TIME: Final = 3  # the register that the guest's own programs extend


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event.

    Attributes:
        register: 0 to 3; None: not measured at all (EV_NO_ACTION).
        kind: TCG event type.
        digest: 48 bytes: what the register was extended with.
        data: not proven by the replay.
    """

    register: int | None
    kind: int
    digest: bytes
    data: bytes = field(repr=False)

    @property
    def proven(self) -> bytes | None:
        """The data, where they are what the digest is of; for many types of events they are not."""
        return self.data if hashlib.sha384(self.data).digest() == self.digest else None


def parse_log(data: bytes) -> tuple[Event, ...]:
    """Read a log as the kernel gives it, with the padding behind it.

    Raises:
        MalformedError: `tdx.log.format`: too long, cut off, another kind of log, no SHA-384.
    """
    if len(data) > MAX_LOG_SIZE:
        raise _wrong(f"it has {len(data)} bytes")
    log = _Log(data)
    sizes = _header(log)
    events: list[Event] = []
    while not log.at_padding():
        if len(events) == MAX_EVENTS:
            raise _wrong(f"it has more than {MAX_EVENTS} events")
        events.append(_event(log, sizes))
    return tuple(events)


def replay(events: Iterable[Event]) -> tuple[bytes, ...]:
    """What the four registers contain (48 bytes each) after these events.

    Raises:
        MalformedError: `tdx.log.format`: a register was closed (EV_SEPARATOR) twice. No sound
            firmware does that, and what is before and after the end of boot would be ambiguous.
    """
    values = [bytes(48)] * REGISTERS
    closed: Counter[int] = Counter()
    for event in events:
        number = event.register
        if number is None:
            continue
        values[number] = extend(values[number], event.digest)
        closed[number] += event.kind == _SEPARATOR
        if closed[number] > 1:
            raise _wrong(f"RTMR{number} has more than one separator")
    return tuple(values)


def extend(value: bytes, digest: bytes) -> bytes:
    """A register's value (48 bytes) after it was extended with a digest (48 bytes)."""
    return hashlib.sha384(value + digest).digest()


def check_log(verified: VerifiedQuote, log: bytes) -> VerifiedQuote:
    """The log explains each register of the quote: one more check for each.

    The register for run time (RTMR3) is extended by programs that do not write into this log; where
    the log says nothing of it, it is skipped.

    Raises:
        MalformedError, VerificationError: `tdx.log.*`, with all checks.
    """
    ledger = Ledger()
    ledger.checks.extend(verified.checks)

    def read() -> tuple[str, tuple[tuple[Event, ...], tuple[bytes, ...]]]:
        events = parse_log(log)
        return f"{len(events)} events", (events, replay(events))

    found = ledger.run("tdx.log.format", read)
    for number, wanted in enumerate(verified.quote.report.rtmr):
        name = f"tdx.log.rtmr{number}"
        if found is None:
            ledger.skip(name, "the log cannot be read")
            continue
        events, values = found
        count = sum(event.register == number for event in events)
        if number == _RUN_TIME and not count:
            ledger.skip(name, "the log has no events of run time")
            continue
        ledger.run(name, partial(_compare, name, count, values[number], wanted))
    return replace(verified, checks=ledger.settle())


def _compare(name: str, count: int, found: bytes, wanted: bytes) -> tuple[str, None]:
    if found != wanted:
        raise VerificationError(
            name,
            f"{count} events of the log make {found.hex()}, the quote has {wanted.hex()}",
            remedy="the log is not of this boot, or was changed",
        )
    return f"{count} events", None


class _Log:
    """Takes fields off the front; never beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        # Where nothing but one value follows to the end: looked for once, not after each event.
        self._padding = min(len(data.rstrip(b"\xff")), len(data.rstrip(b"\0")))

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise _wrong(f"it ends after {len(self._data)} bytes, in the middle of an event")
        part, self._at = self._data[self._at : end], end
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def at_padding(self) -> bool:
        """Nothing follows but one value over and over: the rest of the reserved memory."""
        return self._at >= self._padding


def _header(log: _Log) -> dict[int, int]:
    """The first event, in the old format, which names the algorithms: their digests' sizes."""
    index, kind, digest, size = log.number(4), log.number(4), log.take(20), log.number(4)
    if index != 0 or kind != _NO_ACTION or any(digest):
        raise _wrong("it does not begin with a Spec ID event")
    body = _Log(log.take(size))
    if body.take(16) != _SIGNATURE:
        raise _wrong("it is not in the crypto-agile format")
    body.take(8)  # class of platform, version of the specification, size of UINTN
    sizes: dict[int, int] = {}
    for _ in range(body.number(4)):
        algorithm, length = body.number(2), body.number(2)
        if _SIZES.get(algorithm) != length or algorithm in sizes:
            raise _wrong(f"algorithm {algorithm:#06x} with {length} bytes")
        sizes[algorithm] = length
    body.take(body.number(1))  # what the vendor adds
    if not body.at_padding() or _SHA384 not in sizes:
        raise _wrong("its Spec ID event is not understood, or names no SHA-384")
    return sizes


def _event(log: _Log, sizes: dict[int, int]) -> Event:
    index, kind, count = log.number(4), log.number(4), log.number(4)
    if count != len(sizes):
        raise _wrong(f"an event has {count} digests, not {len(sizes)}")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = log.number(2)
        if algorithm not in sizes or algorithm in digests:
            raise _wrong(f"an event has a digest of algorithm {algorithm:#06x}")
        digests[algorithm] = log.take(sizes[algorithm])
    data = log.take(log.number(4))
    # 0 is MRTD, which is measured before there is a log; 1 to 4 are the run-time registers.
    measured = kind != _NO_ACTION
    if measured and not 1 <= index <= REGISTERS:
        raise _wrong(f"an event was measured into register {index}; 1 to 4 can be")
    return Event(
        register=index - 1 if measured else None, kind=kind, digest=digests[_SHA384], data=data
    )


def _wrong(what: str) -> MalformedError:
    return MalformedError("tdx.log.format", f"the event log cannot be used: {what}")
