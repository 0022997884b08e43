"""The agent's side of the stream, without I/O: what the Observer may say, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.journal.reader import Boot, Segment
from agent.stream.protocol import (
    MAX_BOOTS,
    MAX_CREDITS,
    MAX_HELLO,
    Acked,
    Challenge,
    SetAside,
    State,
    StreamClosedError,
    StreamProtocol,
)
from attestation.wire import observer_pb2 as pb

OLD, NEW = b"o" * 16, b"n" * 16
CHALLENGE = b"c" * 32


def boot(boot_id: bytes = NEW, *, acked: int = 0, last: int = 10, size: int = 1) -> Boot:
    return Boot(
        boot_id=boot_id,
        seed=b"s" * 32,
        passport=b"p" * size,
        acked_seq=acked,
        acked_head=b"h" * 32,
        last_seq=last,
        pruned_seq=0,
        signed_seq=0,
    )


def made(*boots: Boot) -> StreamProtocol:
    return StreamProtocol(agent_id="a", version="1", epoch=7, boots=list(boots) or [boot()])


def message(**fields: Any) -> bytes:
    return pb.ObserverMessage(**fields).SerializeToString()


def welcome(*accepted: tuple[bytes, int], credits: int = 2, challenge: bytes = CHALLENGE) -> bytes:  # noqa: A002 - the field's name
    return message(
        welcome=pb.Welcome(
            challenge=challenge,
            credits=credits,
            accepted=[pb.Accepted(boot_id=b, next_seq=n) for b, n in accepted],
        )
    )


def ack(boot_id: bytes, seq: int) -> bytes:
    return message(ack=pb.Ack(boot_id=boot_id, through_seq=seq, head=b"h" * 32))


def nack(code: Any, **fields: Any) -> bytes:
    return message(nack=pb.Nack(code=code, **fields))


def segment(boot_id: bytes, first: int, last: int) -> Segment:
    return Segment(
        boot_id=boot_id,
        first_seq=first,
        previous_head=b"a" * 32,
        head=b"b" * 32,
        records=(b"r",) * (last - first + 1),
    )


def opened(*boots: Boot, accepted: tuple[tuple[bytes, int], ...] = ((NEW, 1),)) -> StreamProtocol:
    protocol = made(*boots)
    assert protocol.receive(welcome(*accepted)) == Challenge(CHALLENGE)
    return protocol


def closed_by(protocol: StreamProtocol, data: bytes) -> StreamClosedError:
    with pytest.raises(StreamClosedError) as caught:
        protocol.receive(data)
    assert protocol.state is State.CLOSED
    assert protocol.wanted == []
    return caught.value


def test_the_hello_offers_the_running_boot_last_and_not_too_many() -> None:
    old = [boot(bytes([n]) * 16) for n in range(MAX_BOOTS + 20)]
    hello = pb.AgentMessage.FromString(made(*old, boot()).hello()).hello
    assert len(hello.boots) == MAX_BOOTS
    assert hello.boots[0].boot_id == old[0].boot_id, "the oldest go first"
    assert hello.boots[-1].boot_id == hello.boot_id == NEW
    assert hello.epoch == 7


@pytest.mark.parametrize(
    ("size", "offered"),
    [(8 * 1024, 31), (40 * 1024, 5), (120 * 1024, 1), (128 * 1024, 1), (10 * MAX_HELLO, 1)],
)
def test_the_hello_has_few_large_passports(size: int, offered: int) -> None:
    """One earlier boot always: what does not fit beside others must come at last, too."""
    old = [boot(bytes([n]) * 16, size=size) for n in range(40)]
    protocol = made(*old, boot(size=size))
    hello = pb.AgentMessage.FromString(protocol.hello()).hello
    assert [one.boot_id for one in hello.boots] == [one.boot_id for one in old[:offered]] + [NEW]
    assert protocol.left_out == hello.left_out == len(old) - offered


def test_nothing_is_wanted_before_the_welcome() -> None:
    assert made().wanted == []


def test_what_is_sent_moves_on_and_credits_bound_it() -> None:
    protocol = opened()
    assert protocol.wanted == [(NEW, 1)]
    protocol.batch(segment(NEW, 1, 4))
    assert protocol.wanted == [(NEW, 5)]
    protocol.batch(segment(NEW, 5, 6))
    assert protocol.wanted == [], "two credits, two in flight"
    assert protocol.receive(ack(NEW, 4)) == Acked(NEW, 4, b"h" * 32)
    assert protocol.wanted == [(NEW, 7)]
    assert protocol.sent_through(NEW) == 6


def test_what_the_observer_has_without_our_ack_is_sent_once_more() -> None:
    assert opened(boot(acked=3), accepted=((NEW, 9),)).wanted == [(NEW, 8)]
    assert opened(boot(acked=3), accepted=((NEW, 4),)).wanted == [(NEW, 4)]


def test_after_a_gap_sending_goes_back_once_nothing_is_in_flight() -> None:
    protocol = opened()
    protocol.batch(segment(NEW, 1, 4))
    protocol.batch(segment(NEW, 5, 8))
    protocol.receive(nack(pb.Nack.GAP, boot_id=NEW, want_seq=3))
    assert protocol.wanted == []
    protocol.receive(nack(pb.Nack.GAP, boot_id=NEW, want_seq=3))
    assert protocol.wanted == [(NEW, 3)]


def test_credits_are_bounded() -> None:
    protocol = opened()
    protocol.receive(message(credit=pb.Credit(batches=2**31)))
    for number in range(MAX_CREDITS):
        assert protocol.wanted
        protocol.batch(segment(NEW, number + 1, number + 1))
    assert protocol.wanted == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xff", "not an ObserverMessage"),
        (ack(NEW, 1), "no place in state hello"),
        (message(credit=pb.Credit(batches=1)), "no place in state hello"),
        (message(), "no place"),
        (welcome((OLD, 1)), "a boot that was not offered"),
        (welcome((NEW, 1), challenge=b"short"), "wrong challenge"),
        (welcome((NEW, 1), credits=0), "no credits"),
        (welcome(), "without the running boot"),
        (welcome((NEW, 1), credits=10**7), "no credits"),
    ],
)
def test_what_has_no_place_before_the_welcome_is_an_alarm(data: bytes, words: str) -> None:
    error = closed_by(made(), data)
    assert (error.code, error.alarm) == ("protocol", True)
    assert words in str(error)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (welcome((NEW, 1)), "no place in state open"),
        (ack(OLD, 1), "an Ack for nothing that was sent"),
        (ack(NEW, 5), "an Ack for records that were not sent"),
        (nack(pb.Nack.GAP, boot_id=OLD, want_seq=1), "a gap in nothing"),
        (nack(pb.Nack.GAP, boot_id=NEW, want_seq=0), "a gap in nothing"),
    ],
)
def test_what_has_no_place_afterwards_is_an_alarm(data: bytes, words: str) -> None:
    protocol = opened()
    protocol.batch(segment(NEW, 1, 4))
    error = closed_by(protocol, data)
    assert (error.code, error.alarm) == ("protocol", True)
    assert words in str(error)


def test_an_ack_with_nothing_in_flight_is_an_alarm() -> None:
    assert closed_by(opened(), ack(NEW, 0)).alarm


@pytest.mark.parametrize(
    ("code", "ours", "alarm"),
    [
        (pb.Nack.FORK, "fork", True),
        (pb.Nack.INVALID, "invalid", True),
        (pb.Nack.SUPERSEDED, "superseded", True),
        (pb.Nack.UNTRUSTED, "untrusted", True),
        (99, "refused", True),
    ],
)
@pytest.mark.parametrize("start", [made, opened])
def test_a_refusal_closes_with_its_code_and_without_control_characters(
    start: Callable[[], StreamProtocol], code: Any, ours: str, alarm: bool
) -> None:
    error = closed_by(start(), nack(code, detail="no\x1b[31m\n" + "x" * 1000))
    assert (error.code, error.alarm) == (ours, alarm)
    assert str(error).isprintable()
    assert len(str(error)) < 400


def test_an_observer_that_wants_time_is_no_alarm_and_bounded() -> None:
    error = closed_by(made(), nack(pb.Nack.RETRY_AFTER, retry_after_ms=2**32 - 1))
    assert (error.alarm, error.retry_after) == (False, 600)


@pytest.mark.parametrize("place", [12, 2**64 - 1])
def test_an_observer_that_has_more_of_this_boot_than_we_shows_a_rollback(place: int) -> None:
    error = closed_by(made(boot(OLD, last=5), boot()), welcome((OLD, 1), (NEW, place)))
    assert error.code == "rollback"
    assert f"{place - 1} records" in str(error)


def test_an_earlier_boot_that_was_cut_or_is_not_accepted_is_set_aside() -> None:
    """And this one goes on."""
    third = b"t" * 16
    protocol = made(boot(OLD, last=5), boot(third), boot())
    assert protocol.receive(welcome((OLD, 9), (NEW, 1))) == Challenge(CHALLENGE)
    cut, left = protocol.aside
    assert (cut.boot_id, cut.code) == (OLD, "rollback")
    assert "8 records" in cut.detail
    assert (left.boot_id, left.code) == (third, "untrusted")
    assert protocol.accepted == [NEW]
    assert protocol.wanted == [(NEW, 1)]


def both() -> StreamProtocol:
    """Two batches of each boot are in flight."""
    protocol = made(boot(OLD), boot())
    protocol.receive(welcome((OLD, 1), (NEW, 1), credits=8))
    for boot_id in (OLD, NEW):
        protocol.batch(segment(boot_id, 1, 2))
        protocol.batch(segment(boot_id, 3, 4))
    return protocol


@pytest.mark.parametrize(
    ("code", "ours"), [(pb.Nack.FORK, "fork"), (pb.Nack.INVALID, "invalid"), (pb.Nack.GAP, "gap")]
)
def test_a_boot_that_is_refused_alone_gets_no_more_answers(code: Any, ours: str) -> None:
    protocol = both()
    protocol.receive(ack(OLD, 2))
    refusal = nack(code, boot_id=OLD, boot_only=True, detail="two\nhistories")
    aside = protocol.receive(refusal)
    assert isinstance(aside, SetAside)
    assert (aside.boot_id, aside.code) == (OLD, ours)
    assert "two histories" in aside.detail
    assert protocol.in_flight == 2, "those of the other boot"
    assert protocol.accepted == [NEW]
    assert protocol.receive(ack(NEW, 2)) is not None
    protocol.receive(ack(NEW, 4))
    assert (protocol.in_flight, protocol.answered) == (0, 4)
    assert closed_by(protocol, ack(OLD, 4)).code == "protocol"


def test_a_gap_beside_a_boot_that_is_refused_still_goes_back() -> None:
    protocol = both()
    protocol.receive(nack(pb.Nack.GAP, boot_id=NEW, want_seq=1))
    protocol.receive(nack(pb.Nack.GAP, boot_id=NEW, want_seq=1))
    assert protocol.wanted == []
    protocol.receive(nack(pb.Nack.FORK, boot_id=OLD, boot_only=True))
    assert protocol.wanted == [(NEW, 1)]


@pytest.mark.parametrize("boot_id", [NEW, b"x" * 16, b""])
def test_only_an_earlier_boot_can_be_refused_alone(boot_id: bytes) -> None:
    error = closed_by(both(), nack(pb.Nack.FORK, boot_id=boot_id, boot_only=True))
    assert error.code == "protocol"


def test_boots_that_were_not_taken_before_are_offered_last() -> None:
    old = [boot(bytes([n]) * 16) for n in range(MAX_BOOTS + 20)]
    aside = {one.boot_id for one in old[:70]}
    protocol = StreamProtocol(agent_id="a", version="1", epoch=7, boots=[*old, boot()], aside=aside)
    hello = pb.AgentMessage.FromString(protocol.hello()).hello
    assert [one.boot_id for one in hello.boots[:14]] == [one.boot_id for one in old[70:]]
    assert hello.left_out == 21
    assert protocol.waiting == 0


def test_after_a_gap_only_what_was_sent_can_be_acknowledged() -> None:
    protocol = opened()
    protocol.batch(segment(NEW, 1, 4))
    protocol.batch(segment(NEW, 5, 8))
    protocol.receive(nack(pb.Nack.GAP, boot_id=NEW, want_seq=3))
    assert closed_by(protocol, ack(NEW, 2**64 - 1)).alarm


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_close_or_be_understood(data: bytes) -> None:
    for protocol in (made(), opened()):
        try:
            protocol.receive(data)
        except StreamClosedError:
            assert protocol.state is State.CLOSED
