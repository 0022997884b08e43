"""The window: text is released when it is settled, and comes out the same however it came in."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enforcement.content.redact import apply
from enforcement.content.window import MAX_HELD, Window, WindowOverflowError
from enforcement.detectors import scan
from tests.enforcement.exchanges import ALL

PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "bob@example.org", "4111 1111 1111 1111", "123-45-6789", " ", ". ", "a", "1", "-",
                "DE89 3704 0044 0532 0130 00", "+1 202 555 0172", "@", "example", "tel: ", "é",
                "\n",
                "api_key = ", "aB3dE5fG7hJ9kL1mN2pQ4rS6aB3dE5fG7hJ9", "word " * 30, "x" * 90,
            ]
        ),
        st.text(max_size=12),
    ),
    max_size=40,
)  # fmt: skip


def pass_through(pieces: list[str], redact: frozenset[str], hold_back: int | None) -> str:
    window = Window(labels=ALL, hold_back=hold_back, salt=b"")
    out = ""
    for piece in pieces:
        window.add(piece)
        if window.full:
            out += "".join(window.release(redact))
    return out + "".join(window.release(redact, everything=True))


@settings(max_examples=150, deadline=None)
@given(pieces=PIECES, cuts=st.lists(st.integers(1, 40), max_size=20))
@example(pieces=["x" * 300, "bob@exam", "ple.org"], cuts=[3])
def test_however_text_is_cut_the_result_is_that_of_the_whole(
    pieces: list[str], cuts: list[int]
) -> None:
    text = "".join(pieces).encode(errors="replace").decode()
    whole = apply(text, scan(text, ALL))
    parts, place = [], 0
    for cut in cuts * 50:
        parts.append(text[place : place + cut])
        place += cut
    parts.append(text[place:])
    assert pass_through(parts, ALL, 256) == whole
    assert pass_through(parts, ALL, None) == whole


@settings(max_examples=60, deadline=None)
@given(pieces=PIECES)
def test_without_masks_nothing_changes(pieces: list[str]) -> None:
    pieces = [piece.encode(errors="replace").decode() for piece in pieces]
    assert pass_through(pieces, frozenset(), 64) == "".join(pieces)


def test_what_may_still_become_a_match_stays() -> None:
    window = Window(labels=ALL, hold_back=1, salt=b"")
    window.add("word " * 100 + "bob@exam")
    out = "".join(window.release(frozenset()))
    assert "bob" not in out
    assert out


def test_text_leaves_when_it_is_settled() -> None:
    window = Window(labels=ALL, hold_back=64, salt=b"")
    window.add("word " * 200)
    assert window.full
    left = "".join(window.release(frozenset()))
    assert len(left) > 600
    assert not window.full


def test_endless_text_in_a_held_window_is_refused() -> None:
    window = Window(labels=ALL, hold_back=None, salt=b"")
    window.add("x" * MAX_HELD)
    with pytest.raises(WindowOverflowError):
        window.add("x")


def test_the_digest_is_over_the_text_as_it_came() -> None:
    one, two = (Window(labels=ALL, hold_back=16, salt=b"s") for _ in range(2))
    for piece in ("bob@", "example.org"):
        one.add(piece)
    two.add("bob@example.org")
    one.release(ALL, everything=True)
    assert one.digest() == two.digest()
    assert one.digest().size == 15


@pytest.mark.parametrize("size", [1, 7, 500])
def test_invisible_characters_do_not_stretch_a_secret_out_of_the_window(size: int) -> None:
    secret = ("\u200b" * 60).join("4111111111111111")
    text = "word " * 100 + secret + " and so on" * 50
    masked = pass_through([text[i : i + size] for i in range(0, len(text), size)], ALL, 64)
    assert masked == "word " * 100 + "[CARD]" + " and so on" * 50
