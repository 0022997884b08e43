"""The firmware's event log: what it explains, and what is no log."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.checks import CheckStatus
from attestation.errors import MalformedError, VerificationError
from attestation.tdx.event_log import (
    MAX_EVENTS,
    MAX_LOG_SIZE,
    Event,
    check_log,
    extend,
    parse_log,
    replay,
)
from attestation.tdx.verify import VerifiedQuote
from tests.attestation.tdx.real_log import EVENTS, REGISTERS
from tests.attestation.tdx.synthetic import REPORT_DATA, intel, verify

SHA1, SHA256, SHA384 = (4, 20), (0xB, 32), (0xC, 48)
NO_ACTION, SEPARATOR, ACTION = 3, 4, 0x80000007
REAL = tuple((r, kind, bytes.fromhex(d), bytes.fromhex(data or "")) for r, kind, d, data in EVENTS)
TWICE = b"\x0c\0" + bytes(48)
RTMR = tuple(bytes.fromhex(value) for value in REGISTERS)


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


def spec_id(*algorithms: tuple[int, int], signature: bytes = b"Spec ID Event03\0") -> bytes:
    sizes = b"".join(number(name, 2) + number(size, 2) for name, size in algorithms)
    body = signature + bytes(4) + b"\0\2\1\2" + number(len(algorithms)) + sizes + b"\0"
    return number(0) + number(NO_ACTION) + bytes(20) + number(len(body)) + body


def event(
    register: int,
    kind: int,
    digest: bytes,
    data: bytes = b"",
    *,
    others: bytes = b"",
    count: int = 1,
) -> bytes:
    digests = others + number(0xC, 2) + digest
    return number(register + 1) + number(kind) + number(count) + digests + number(len(data)) + data


def log(events: Iterable[tuple[int, int, bytes, bytes]], padding: bytes = b"\xff" * 1000) -> bytes:
    return spec_id(SHA384) + b"".join(event(*item) for item in events) + padding


def digest(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def refused(data: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        replay(parse_log(data))
    assert caught.value.code == "tdx.log.format"
    return str(caught.value)


def quoted(rtmr: tuple[bytes, ...]) -> VerifiedQuote:
    return verify(intel().quote(REPORT_DATA, rtmr=rtmr))


# --- what it explains


def test_the_log_of_a_real_machine_explains_its_registers() -> None:
    assert replay(parse_log(log(REAL))) == RTMR


def test_of_a_real_log_only_data_that_hash_to_the_digest_are_proven() -> None:
    events = parse_log(log(REAL))
    proven = [event.proven for event in events if event.proven is not None]
    assert proven == [data for _, _, _, data in REAL if data]
    assert b"Exit Boot Services Invocation" in proven


def test_an_empty_log_leaves_the_registers_at_zero() -> None:
    assert replay(parse_log(log([]))) == (bytes(48),) * 4
    assert replay(parse_log(log([], padding=b""))) == (bytes(48),) * 4


@pytest.mark.parametrize("padding", [b"", b"\0" * 64, b"\xff" * 64, b"\xff", b"\0"])
def test_padding_ends_a_log(padding: bytes) -> None:
    assert len(parse_log(log(REAL, padding))) == len(REAL)


def test_what_was_not_measured_is_listed_and_not_replayed() -> None:
    events = parse_log(log([(0, NO_ACTION, digest(b"x"), b"x"), (-1, NO_ACTION, bytes(48), b"")]))
    assert [event.register for event in events] == [None, None]
    assert replay(events) == (bytes(48),) * 4


def test_other_algorithms_beside_sha384_are_read_over() -> None:
    item = event(2, ACTION, digest(b"a"), b"a", others=number(4, 2) + bytes(20), count=2)
    (found,) = parse_log(spec_id(SHA1, SHA384) + item)
    assert found == Event(register=2, kind=ACTION, digest=digest(b"a"), data=b"a")


def test_a_quote_whose_registers_the_log_explains_passes() -> None:
    found = check_log(quoted(RTMR), log(REAL))
    names = [check.name for check in found.checks if check.name.startswith("tdx.log")]
    assert names == ["tdx.log.format", *(f"tdx.log.rtmr{n}" for n in range(4))]
    assert all(check.status is CheckStatus.PASSED for check in found.checks)


def test_a_register_of_run_time_that_the_firmware_knows_nothing_of_is_skipped() -> None:
    boot = [item for item in REAL if item[0] != 3]
    found = check_log(quoted(RTMR), log(boot))
    assert found.checks[-1].status is CheckStatus.SKIPPED


@pytest.mark.parametrize("register", [0, 1, 2, 3])
def test_a_log_that_does_not_explain_a_register_is_refused_for_that_one(register: int) -> None:
    wrong = tuple(extend(v, bytes(48)) if n == register else v for n, v in enumerate(RTMR))
    with pytest.raises(VerificationError) as caught:
        check_log(quoted(wrong), log(REAL))
    bad = [check.name for check in caught.value.checks if check.status is CheckStatus.FAILED]
    assert bad == [f"tdx.log.rtmr{register}"]


def test_boot_registers_have_to_be_explained_by_an_empty_log_too() -> None:
    with pytest.raises(VerificationError) as caught:
        check_log(quoted(RTMR), log([]))
    bad = [check.name for check in caught.value.checks if check.status is CheckStatus.FAILED]
    assert bad == ["tdx.log.rtmr0", "tdx.log.rtmr1", "tdx.log.rtmr2"]


def test_a_log_that_cannot_be_read_explains_nothing() -> None:
    with pytest.raises(MalformedError) as caught:
        check_log(quoted(RTMR), b"")
    ended = {check.name: check.status for check in caught.value.checks}
    assert ended["tdx.log.format"] is CheckStatus.FAILED
    assert ended["tdx.log.rtmr0"] is CheckStatus.SKIPPED


@given(st.integers(0, len(REAL) - 1), st.integers(0, len(REAL) - 1))
def test_no_two_different_events_can_change_places(one: int, two: int) -> None:
    events = list(REAL)
    events[one], events[two] = events[two], events[one]
    orders = [
        [item[2] for item in those if item[0] == n] for those in (REAL, events) for n in range(4)
    ]
    same = orders[:4] == orders[4:]
    assert (replay(parse_log(log(events))) == RTMR) is same


@pytest.mark.parametrize("left_out", range(len(REAL)))
def test_no_event_can_be_left_out(left_out: int) -> None:
    assert replay(parse_log(log(REAL[:left_out] + REAL[left_out + 1 :]))) != RTMR


# --- what is no log


def test_a_log_cut_off_anywhere_is_refused_or_lacks_whole_events() -> None:
    whole = log(REAL, padding=b"")
    lengths = set()
    for end in range(len(whole)):
        try:
            events = parse_log(whole[:end])
        except MalformedError:
            continue
        lengths.add(end)
        assert replay(events) != RTMR
    assert len(lengths) == len(REAL)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "ends"),
        (b"\xff" * 100, "begin"),
        (spec_id(SHA384, signature=b"Spec ID Event02\0"), "crypto-agile"),
        (spec_id(SHA1, SHA256), "no SHA-384"),
        (spec_id(), "no SHA-384"),
        (spec_id((0xC, 47)), "47 bytes"),
        (spec_id((0xC, 0xFFFF)), "65535 bytes"),
        (spec_id(SHA384, SHA384), "0x000c"),
        (spec_id(SHA384, (0x99, 32)), "0x0099"),
        (spec_id(SHA384)[:-1] + b"\xff", "ends"),
        (spec_id(SHA384) + event(4, ACTION, bytes(48)), "register 5"),
        (spec_id(SHA384) + event(-1, ACTION, bytes(48)), "register 0"),
        (spec_id(SHA384) + event(0, ACTION, bytes(48), count=2), "2 digests"),
        (spec_id(SHA384) + event(0, ACTION, bytes(48), count=0xFFFFFFFF), "digests"),
        (spec_id(SHA384) + event(0, ACTION, bytes(48))[:-4] + b"\xff" * 4, "ends"),
        (spec_id(SHA1, SHA384) + event(0, 5, bytes(48), others=TWICE, count=2), "algorithm"),
        (spec_id(SHA384) + b"\xff" * 10 + b"\0" * 10, "digests"),
    ],
)  # fmt: skip
def test_what_is_no_log_is_refused_and_says_why(data: bytes, why: str) -> None:
    assert why in refused(data)


def test_a_second_separator_is_refused() -> None:
    separator = (1, SEPARATOR, digest(bytes(4)), bytes(4))
    assert len(parse_log(log([separator]))) == 1
    assert "RTMR1 has more than one separator" in refused(log([separator, separator]))


def test_size_and_number_of_events_are_bounded() -> None:
    assert "bytes" in refused(bytes(MAX_LOG_SIZE + 1))
    many = spec_id(SHA384) + event(0, ACTION, bytes(48)) * (MAX_EVENTS + 1)
    assert "more than" in refused(many)


@pytest.mark.parametrize("padding", [b"\0", b"\xff"])
def test_the_padding_of_a_full_log_is_looked_at_once(padding: bytes) -> None:
    full = spec_id(SHA384) + event(0, ACTION, bytes(48)) * MAX_EVENTS
    full += padding * (MAX_LOG_SIZE - len(full))
    began = time.process_time()
    assert len(parse_log(full)) == MAX_EVENTS
    # Some 0.03 s; 5 s where every event looks at all that follows.
    assert time.process_time() - began < 1


@given(st.binary(max_size=400), st.integers(0, 200))
def test_whatever_comes_only_our_error_comes_out(data: bytes, position: int) -> None:
    base = log(REAL[:3], padding=b"")
    for hostile in (data, spec_id(SHA384) + data, base[:position] + data + base[position:]):
        with suppress(MalformedError):
            replay(parse_log(hostile))
