"""Folding: one ASCII byte for each visible character, and the way back to the text."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcement.detectors import DETECTORS, hold_from, scan
from enforcement.detectors.fold import Folded, fold_character


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("plain ASCII\tstays\n", b"plain ASCII\tstays\n"),
        ("４１１１ ＡＢ＠ｘ．ｙ", b"4111 AB@x.y"),
        ("٤١ ४१ 𝟜𝟙", b"41 41 41"),
        ("аеорсух АВЕКМНОРСТХ", b"aeopcyx ABEKMHOPCTX"),  # Cyrillic
        ("οανι ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", b"oavi ABEZHIKMNOPTYX"),  # Greek
        ("s\u200bk\u2060-\ufeffa\u00adb\u034fc\U000e0041", b"sk-abc"),
        ("4\u03361\u03361\u0336", b"411"),  # struck through
        ("a\u00a0b\u2007c\u202fd\u3000e\u2028f", b"a b c d e\nf"),
        ("1‐2‑3‒4–5—6−7", b"1-2-3-4-5-6-7"),
        ("é ж ق", b"\xe9 \xe9 \xe9"),
        ("人 あ 한 ก", b"\xe3 \xe3 \xe3 \xe3"),
        ("…€“”😀", b"\xb7\xb7\xb7\xb7\xb7"),
        ("a。com 你。好 a。", b"a.com \xe3\xb7\xe3 a\xb7"),
        ("2671²", b"2671\xb7"),
        ("\ud800", b"\xb7"),
        ("", b""),
    ],
)
def test_what_characters_are_read_as(text: str, folded: bytes) -> None:
    assert Folded(text).data == folded


def test_every_character_is_read_as_one_byte_or_none() -> None:
    for code in range(sys.maxunicode + 1):
        folded = fold_character(chr(code))
        assert len(folded) <= 1
        assert not folded or ord(folded) < 0x80 or ord(folded) in (0xE9, 0xE3, 0xB7)
        if code >= 0x80 and unicodedata.category(chr(code)) == "Nd":
            assert folded in "0123456789"


# The text's own alphabet: what has a byte of its own, what has none, what vanishes.
_MIXED = st.text(alphabet="a4@. é—б人。あ😀\u200b\u0301\ud800４", max_size=60)


@settings(max_examples=300)
@given(st.one_of(_MIXED, st.text(max_size=80)))
def test_the_fast_way_folds_as_character_by_character(text: str) -> None:
    folded = Folded(text)
    visible = [(i, fold_character(c)) for i, c in enumerate(text) if fold_character(c)]
    assert len(folded.data) == len(visible)
    assert [folded.place(n) for n in range(len(visible))] == [i for i, _ in visible]
    if text:
        assert folded.place(len(folded.data)) == len(text)
    for byte, (_, read) in zip(folded.data, visible, strict=True):
        assert byte == ord(read) or byte == ord(".")  # an ideographic stop inside a name


SECRETS = (
    ("card", "4539148803436467"),
    ("email", "alice@example.com"),
    ("ssn", "219-09-9999"),
    ("iban", "GB33BUKB20201555555555"),
    ("phone", "+14155552671"),
    ("api_key", "ghp_" + "q7Wm2Xk9Lp4Vb8Nc3Rf6Hy1Jt5Gd0SaZuEoq"),
)
_WIDE = {ord("!") + n: chr(0xFF01 + n) for n in range(94)}


@pytest.mark.parametrize(("label", "secret"), SECRETS)
def test_a_disguise_hides_nothing(label: str, secret: str) -> None:
    look_alikes = str.maketrans("aceopxyABEHKMOPCTXi", "асеорхуАВЕНКМОРСТХі")
    disguises = [
        secret,
        secret.translate(_WIDE),
        secret.translate(look_alikes),
        "\u200b".join(secret),
        "\u0336".join(secret) + "\u0336",
        "\ufeff\u2060".join(secret),
        secret.translate({ord(d): chr(0x660 + int(d)) for d in "0123456789"}),
        secret.replace("-", "\u2011"),
    ]
    for disguised in disguises:
        text = f"so: {disguised} and — so on"
        spans = [s for s in scan(text, DETECTORS) if s.label == label]
        assert spans, disguised
        span = spans[0]
        assert span.start <= 4
        assert span.end >= 4 + len(disguised.rstrip("\u0336"))


@pytest.mark.parametrize(("label", "secret"), SECRETS)
def test_invisible_characters_do_not_push_a_match_out_of_the_window(
    label: str, secret: str
) -> None:
    """Nothing of a match is settled while it is still to be recognised, however it is stretched."""
    stretched = ("\u200b" * 40).join(secret)
    for arrived in range(0, len(stretched), 13):
        assert hold_from(stretched[:arrived], DETECTORS) == 0


def test_a_number_stands_alone_next_to_scripts_without_blanks() -> None:
    assert [s.label for s in scan("电话415-555-2671。", DETECTORS)] == ["phone"]
    assert [s.label for s in scan("카드는 4539148803436467입니다", DETECTORS)] == ["card"]
    text = "联系alice@example.com请"
    assert [text[s.start : s.end] for s in scan(text, DETECTORS)] == ["alice@example.com"]
