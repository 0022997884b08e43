"""Captured streams of real model servers, cut anywhere, give the client the same text.

Every capture in the vectors is taken, whatever it is called: a new one is tested from then on.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcement.content.redact import mask
from enforcement.outcome import Outcome
from tests.enforcement.exchanges import ALL, guard, route, run, when_found
from tests.leaks.streams import read

MASK = when_found(Outcome.REDACT, *ALL)
ROUTES = {
    "completions": "/v1/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}
STRIDE = (
    17  # bytes; every byte is `test_every_byte_boundary_of_every_capture`, of `make test-leaks`
)


def captures(vectors: Path) -> list[Path]:
    found = sorted((vectors / "sse").glob("*.sse"))
    assert len(found) >= 12
    return found


def path_of(name: str) -> str:
    for word, path in ROUTES.items():
        if f"-{word}-" in name:
            return path
    return "/v1/chat/completions"


def guarded(name: str, pieces: list[bytes], **kwargs: object) -> bytes:
    made, _ = guard(MASK, on=route(path_of(name)), **kwargs)
    out = run(made, pieces)
    assert not made.denied, made.record.reasons
    return out


def test_each_capture_gives_its_text_masked(vectors: Path) -> None:
    masks = 0
    for capture in captures(vectors):
        wire = capture.read_bytes()
        given_text = read(wire)
        for mode in ("window", "buffer"):
            out = read(guarded(capture.name, [wire], mode=mode))
            assert out == {place: mask(text, ALL) for place, text in given_text.items()}
            masks += "[EMAIL]" in "".join(out.values())
        watched = guarded(capture.name, [wire], mode="observe")
        assert watched == wire
    assert masks >= 4


def test_each_capture_gives_the_same_bytes_byte_by_byte_and_at_every_cut(vectors: Path) -> None:
    for capture in captures(vectors):
        wire = capture.read_bytes()
        expected = guarded(capture.name, [wire])
        assert guarded(capture.name, [wire[i : i + 1] for i in range(len(wire))]) == expected
        for cut in range(len(capture.name) % STRIDE, len(wire), STRIDE):
            assert guarded(capture.name, [wire[:cut], wire[cut:]]) == expected


@pytest.mark.leaks
def test_every_byte_boundary_of_every_capture(vectors: Path) -> None:
    for capture in captures(vectors):
        wire = capture.read_bytes()
        expected = guarded(capture.name, [wire])
        for cut in range(len(wire) + 1):
            assert guarded(capture.name, [wire[:cut], wire[cut:]]) == expected


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_cut_anywhere_makes_a_difference(vectors: Path, data: st.DataObject) -> None:
    capture = data.draw(st.sampled_from(captures(vectors)))
    wire = capture.read_bytes()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=40)))
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    mode = data.draw(st.sampled_from(("window", "buffer")))
    assert guarded(capture.name, pieces, mode=mode) == guarded(capture.name, [wire], mode=mode)
