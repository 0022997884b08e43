"""Escapes in JSON that is written as a text, in tool calls: resolved, whole or as it streams.

A model may write `bob\\u0040example.org` in the arguments of a call. Whoever parses the arguments
reads an address; whoever looks at the text sees none. So what can be written plainly is, before
anything looks: the result is the same JSON. Quotes, backslashes and control characters stay as they
are, and so do halves of surrogate pairs that have no other half.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Final

_ESCAPE: Final = re.compile(
    r"\\(?:u([Dd][89ABab][0-9A-Fa-f]{2})\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|(/)|.)",
    re.DOTALL,
)
# The beginning of an escape, or of a pair of them, at the end of a text.
_UNFINISHED: Final = re.compile(
    r"\\(?:u[0-9A-Fa-f]{0,3}|u[Dd][89ABab][0-9A-Fa-f]{2}(?:\\(?:u[0-9A-Fa-f]{0,3})?)?)?\Z"
)


def unescape(text: str) -> str:
    """The same JSON with every escape written plainly that can be."""
    return _ESCAPE.sub(_plain, text) if "\\" in text else text


class Places:
    """`unescape` of a text that comes in pieces, and where in it each character stood."""

    __slots__ = ("_after", "_kept", "_plain", "_shifts", "_size")

    def __init__(self) -> None:
        self._after: list[int] = []  # offsets in `plain`, each behind a character that was escaped
        self._shifts: list[int] = []  # how much further on the text is from there
        self._plain = ""
        self._kept = ""  # the beginning of an escape
        self._size = 0  # of the text, without what is kept

    @property
    def plain(self) -> str:
        """The text so far, resolved as far as its escapes are complete."""
        return self._plain + self._kept

    def add(self, text: str) -> None:
        """More of the text. Costs what is added, not what was there before."""
        text, self._kept = self._kept + text, ""
        if "\\" in text:
            cut = _unfinished_from(text)
            text, self._kept = text[:cut], text[cut:]
            for match in _ESCAPE.finditer(text):
                saved = len(match.group()) - len(_plain(match))
                if saved:
                    shift = (self._shifts[-1] if self._shifts else 0) + saved
                    self._after.append(self._size + match.end() - shift)
                    self._shifts.append(shift)
        self._size += len(text)
        self._plain += unescape(text)

    def place(self, offset: int) -> int:
        """The offset in the text of an offset in `plain`."""
        before = bisect_right(self._after, offset)
        return offset + self._shifts[before - 1] if before else offset


def _plain(match: re.Match[str]) -> str:
    high, low, single, slash = match.groups()
    if high is not None:
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + (int(low, 16) - 0xDC00))
    if slash is not None:
        return "/"
    if single is None:
        return match.group()
    code = int(single, 16)
    if code < 0x20 or code in {0x22, 0x5C, 0x7F} or 0xD800 <= code < 0xE000:
        return match.group()
    return chr(code)


class Unescaper:
    """`unescape` over a text that comes in pieces: keeps back an escape that is not complete."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = ""

    def add(self, text: str, *, last: bool = False) -> str:
        """The next piece, resolved as far as it is complete. `last`: nothing more will come."""
        if not self._kept and "\\" not in text:
            return text
        text = self._kept + text
        self._kept = ""
        if not last:
            cut = _unfinished_from(text)
            text, self._kept = text[:cut], text[cut:]
        return unescape(text)


def _unfinished_from(text: str) -> int:
    """Where an incomplete escape at the end begins. A backslash that is itself escaped begins
    none: so escapes are counted from the start of the run of backslashes.
    """
    for back in range(12, 0, -1):
        place = len(text) - back
        if place < 0 or text[place] != "\\":
            continue
        run = place
        while run > 0 and text[run - 1] == "\\":
            run -= 1
        if (place - run) % 2 == 0 and _UNFINISHED.fullmatch(text, place):
            return place
    return len(text)
