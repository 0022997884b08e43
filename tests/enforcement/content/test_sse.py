"""Event streams are decoded the same across any chunking and line end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcement.content.sse import COMMENT, MAX_EVENT, Event, MalformedStreamError, SseDecoder
from tests.enforcement import whatwg

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


PIECES = st.sampled_from(
    [
        *(
            "data",
            "data:",
            "data: ",
            "data:  ",
            " data: x",
            "event: ",
            "event",
            "event: e",
            "id: 1",
        ),
        *(
            "id: \0",
            "retry: 5",
            "retry: x",
            ":",
            ": c",
            "x",
            "x: y",
            ": ",
            " ",
            "é",
            "\u2028",
            "\0",
        ),
        *("\x85", "\x0b", "\x0c", "\x1c", "\ufeff", "\n", "\n\n", "\r", "\r\n", "\r\n\r\n", "\r\r"),
    ]
)


@given(st.lists(PIECES, max_size=24), st.lists(st.integers(0, 200), max_size=8))
@settings(max_examples=500)
def test_what_is_taken_a_browser_reads_the_same(pieces: list[str], cuts: list[int]) -> None:
    # A stream is closed with a line end: where a CR is the very last octet, we wait for its LF.
    wire = ("".join(pieces) + "\n").encode()
    places = [0, *sorted(cut for cut in cuts if cut <= len(wire)), len(wire)]
    decoder = SseDecoder()
    try:
        taken = [event for a, b in pairwise(places) for event in decoder.feed(wire[a:b])]
    except MalformedStreamError:
        return
    read = [(event.name or "message", event.data) for event in taken if event.data is not None]
    assert read == whatwg.events(wire)


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
