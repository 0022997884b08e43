"""Event streams are decoded the same across any chunking and line end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcement.content.sse import COMMENT, MAX_EVENT, Event, MalformedStreamError, SseDecoder

WIRE = (
    'data: {"a": "é"}\n\n: ping\ndata: one\ndata: two\nid: 7\n\n'
    "event: x\ndata:y\n\ndata: [DONE]\n\n"
)
EVENTS = [Event('{"a": "é"}'), COMMENT, Event("one\ntwo"), Event("y", "x"), Event("[DONE]")]


def decode(pieces: list[bytes]) -> list[Event]:
    decoder = SseDecoder()
    found = [event for piece in pieces for event in decoder.feed(piece)]
    assert not decoder.pending
    return found


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_of_the_standard_is_understood(end: str) -> None:
    wire = WIRE.replace("\n", end).encode()
    assert decode([wire, b"\n"]) == EVENTS
    assert decode([wire[i : i + 1] for i in range(len(wire))] + [b"\n"]) == EVENTS


@given(st.lists(st.integers(0, len(WIRE.encode())), max_size=12), st.booleans())
def test_borders_make_no_difference(cuts: list[int], bom: bool) -> None:
    wire = (b"\xef\xbb\xbf" if bom else b"") + WIRE.encode()
    places = [0, *sorted(cuts), len(wire)]
    assert decode([wire[a:b] for a, b in pairwise(places)]) == EVENTS


@pytest.mark.parametrize("wire", [b"data: \xff\n\n", b"datum: x\n\n", b"HTTP/1.1 200 OK\n\n"])
def test_what_is_no_event_stream_is_malformed(wire: bytes) -> None:
    with pytest.raises(MalformedStreamError):
        SseDecoder().feed(wire)


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: " + b"x" * 60_000 + b"\n"])
def test_an_event_without_end_is_refused(piece: bytes) -> None:
    decoder = SseDecoder()
    decoder.feed(b"data: ")

    def endless() -> None:
        for _ in range(MAX_EVENT // 50_000 + 2):
            decoder.feed(piece)

    with pytest.raises(MalformedStreamError):
        endless()


def test_an_event_that_is_not_finished_is_pending() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: x\n") == []
    assert decoder.pending
