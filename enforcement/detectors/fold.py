"""A text as the detectors read it: one ASCII byte for each character, whatever it was written in.

Full-width and other scripts' digits become ASCII digits, letters that look like Latin ones become
these (Unicode TR39, "confusables"; only those that can stand for a character of a secret), every
space a blank, every dash a hyphen. Invisible characters and combining marks vanish. So one set of
small patterns sees through all of it, and no pattern needs Unicode.

What is left of other characters is their kind: LETTER; UNSPACED, a letter of a script that writes
no blanks between words (or glues particles to them), next to which a number still stands alone;
OTHER, everything else.
"""

from __future__ import annotations

import codecs
import contextlib
import re
import unicodedata
from bisect import bisect_right
from typing import Final

LETTER: Final = "\xe9"
UNSPACED: Final = "\xe3"
OTHER: Final = "\xb7"

# Latin letters and the Cyrillic, Greek, Armenian, Cherokee and other letters drawn like them.
_LOOK_ALIKES: Final = {
    "A": "АΑᎪ", "B": "ВΒᏴ", "C": "СϹᏟ", "D": "Ꭰ", "E": "ЕΕᎬ", "F": "Ϝ", "G": "ԌᏀ", "H": "НΗᎻ",
    "I": "ІΙӀ", "J": "ЈͿᎫ", "K": "КΚᏦ", "L": "Ꮮ", "M": "МΜᎷ", "N": "Ν", "O": "ОΟՕ", "P": "РΡᏢ",
    "Q": "Ԛ", "R": "Ꭱ", "S": "ЅՏᏚ", "T": "ТΤᎢ", "U": "Ս", "V": "ѴᏙ", "W": "ԜᎳ", "X": "ХΧ",
    "Y": "ҮΥ", "Z": "ΖᏃ",
    "a": "аα", "b": "Ь", "c": "сϲ", "d": "ԁ", "e": "еҽ", "f": "ք", "g": "ɡց", "h": "һհ",
    "i": "іιɩı", "j": "јϳ", "k": "кκ", "l": "ӏ", "m": "м", "n": "ո", "o": "оοօσ", "p": "рρ",
    "q": "ԛգ", "r": "г", "s": "ѕꜱ", "t": "т", "u": "υս", "v": "νѵ", "w": "ԝա", "x": "хχ",
    "y": "уγү", "z": "ᴢ",
    "-": "−⁃", ".": "․۔", "@": "﹫",
}  # fmt: skip
_CONFUSABLE: Final = {ord(c): latin for latin, alike in _LOOK_ALIKES.items() for c in alike}
# Drawn as nothing, though not of a category that says so (Default_Ignorable_Code_Point).
_IGNORABLE: Final = frozenset("\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800")
# Thai to Myanmar, Khmer, Hangul, kana, ideographs. Letters only; their digits become digits.
_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u318f\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_STOPS: Final = frozenset("\u3002\uff61")  # IDNA reads them as dots (UTS 46)
_MAX_KEPT: Final = 20_000  # entries of the table below, which an attacker could fill


def fold_character(character: str) -> str:
    """What one character is read as: one character below U+0100, or nothing."""
    code = ord(character)
    if code < 0x80:
        return character
    if code in _CONFUSABLE:
        return _CONFUSABLE[code]
    category = unicodedata.category(character)
    if category in ("Cf", "Mn", "Me") or character in _IGNORABLE:
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Pd":
        return "-"
    if category[0] == "Z":
        return " " if category == "Zs" else "\n"
    plain = unicodedata.normalize("NFKC", character)
    # Superscripts are marks of footnotes: `555-2671²` ends before its mark.
    if len(plain) == 1 and plain.isascii() and not (category == "No" and plain.isdigit()):
        return plain
    if category[0] in "LM":
        return UNSPACED if _UNSPACED.match(character) else LETTER
    return OTHER


_GONE: Final = 0xFF


class _Table(dict[int, int]):
    """Code points to what they are read as, or _GONE; looked up once."""

    def __missing__(self, code: int) -> int:
        read = fold_character(chr(code))
        folded = ord(read) if read else _GONE
        if len(self) < _MAX_KEPT:
            self[code] = folded
        return folded


_TABLE: Final = _Table()

# The usual characters of European texts are folded by two passes in C: each has a byte of its own,
# which the second pass turns into what it is read as. What has none is folded in runs, below.
_KEPT: Final = (ord(LETTER), ord(UNSPACED), ord(OTHER), _GONE)
_USUAL: Final = (
    "\u00a0–—‘’“”„«»…•·°№€£§©×абвгдежзийклмнопрстуфхцчшщъыьэюяАБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЩЭЮЯё"
    "áàâäãåæçéèêëíîïñóôöøœßúùûüÉÄÖÜąćęłńśźżčřšž"
)
_CODES: Final = [code for code in range(0x80, 0x100) if code not in _KEPT]
_BYTES: Final = dict(zip(_USUAL, _CODES, strict=False))
_ENCODING: Final = codecs.charmap_build(
    "".join(map(chr, range(0x80)))
    + "".join({code: c for c, code in _BYTES.items()}.get(n, "\ufffe") for n in range(0x80, 0x100))
)
_DECODING: Final = bytes(
    {code: ord(fold_character(c)) for c, code in _BYTES.items()}.get(n, n) for n in range(0x100)
)
_ERRORS: Final = "lucid.detectors.fold"
# By the first byte of UTF-16: pages of nothing but ideographs or Hangul; 0: look at each character.
_PAGES: Final = bytes(
    ord(UNSPACED) if 0x4E <= page <= 0x9F or 0xAC <= page <= 0xD6 or 0x34 <= page <= 0x4C else 0
    for page in range(0x100)
)
_GONE_BYTE: Final = re.compile(rb"\xff")


def _fold_run(error: UnicodeError) -> tuple[bytes, int]:
    """For `codecs`: a run of characters that have no byte of their own, folded."""
    assert isinstance(error, UnicodeEncodeError)
    text, start, end = error.object, error.start, error.end
    run, table = text[start:end], _TABLE
    if end - start == 1 and run in _STOPS and _inside_a_name(text, start):
        return b".", end
    wide = b""
    if end - start >= 8:
        with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate
            wide = run.encode("utf-16-be")
    if len(wide) != 2 * len(run):  # short, or beyond the first 65,536 characters
        return bytes([table[ord(character)] for character in run]), end
    folded = bytearray(wide[::2].translate(_PAGES))
    place = folded.find(0)
    while place >= 0:
        folded[place] = table[ord(run[place])]
        place = folded.find(0, place + 1)
    return bytes(folded), end


def _inside_a_name(text: str, place: int) -> bool:
    around = text[max(place - 1, 0) : place] + text[place + 1 : place + 2]
    return len(around) == 2 and around.isascii() and around.isalnum()


codecs.register_error(_ERRORS, _fold_run)


class Folded:
    """A folded text. Offsets in `data` are not those of the text: `place` gives these.

    Attributes:
        data: one byte a character; what is invisible is left out.
    """

    __slots__ = ("_gone", "data")

    def __init__(self, text: str) -> None:
        # For each character that vanished, the offset in `data` before which it stood.
        self._gone: list[int] = []
        if text.isascii():
            self.data = text.encode()
        else:
            coded, _ = codecs.charmap_encode(text, _ERRORS, _ENCODING)
            self.data = coded.translate(_DECODING, b"\xff")
            if len(self.data) != len(text):
                self._gone = [gone.start() - n for n, gone in enumerate(_GONE_BYTE.finditer(coded))]

    def place(self, offset: int) -> int:
        """Where the character at an offset of `data` stands in the text (its length at the end).

        What vanished before it belongs to the character before.
        """
        return offset + bisect_right(self._gone, offset)
