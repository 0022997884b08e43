"""The leaves of the tables in `enforcement/apis`: what a value may be, and what of it is text.

A text that detectors read, a name, a number, free JSON, a copy of text token by token, a picture.
Numbers of 13 digits and more are read as texts, because a card number is a number too.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from enforcement.bodies.json_escapes import unescape
from enforcement.bodies.reading import BodyError, Reading, Streamed, Text, is_name, is_plain_key
from enforcement.detectors import DETECTORS, scan

MAX_DEPTH: Final = 64  # of free JSON

_LARGE: Final = 10**12  # the shortest payment cards have 13 digits
_COPIES: Final = frozenset({"logprobs", "top_logprobs", "prompt_logprobs"})


class Shape:
    """What may stand at one place. `null` may stand anywhere and is never given to `read`."""

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        """Read `value`, which is `holder[key]`.

        Raises:
            BodyError: something else stands there.
        """
        raise NotImplementedError


def wrong(expected: str) -> BodyError:
    """The error for a value that is something else."""
    return BodyError("invalid_request", f"is not {expected}")


class _Text(Shape):
    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not str:
            raise wrong("a text")
        if value:
            reading.texts.append(Text(value, holder, key))


class _JsonText(Shape):
    """JSON written as a text (arguments of a tool call): escapes in it are resolved first."""

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not str:
            raise wrong("a text")
        if "\\" in value:
            value = holder[key] = unescape(value)
        if value:
            reading.texts.append(Text(value, holder, key))


class _Texts(Shape):
    """A text or a list of texts."""

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is str:
            reading.texts.append(Text(value, holder, key))
            return
        if type(value) is not list:
            raise wrong("a text or a list of texts")
        reading.count(len(value))
        for index, item in enumerate(value):
            if type(item) is not str:
                if type(item) in (int, list):
                    raise BodyError("token_ids_not_supported", "token ids are refused; send text")
                raise wrong("a text or a list of texts")
            reading.texts.append(Text(item, value, index))


class _Piece(Shape):
    """A piece of a text that goes on in later events."""

    def __init__(self, name: str, *, is_json: bool = False) -> None:
        self._name = name
        self._is_json = is_json

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not str:
            raise wrong("a text")
        channel = (*reading.place, self._name)
        reading.streamed.append(Streamed(value, holder, key, channel, is_json=self._is_json))


class _Name(Shape):
    """An identifier. What does not look like one is a text; so is what a detector would find."""

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        kind = type(value)
        if kind is str:
            if not is_name(value):
                reading.texts.append(Text(value, holder, key))
        else:
            read_scalar(holder, key, value, reading)


class _Words(Shape):
    """One of a few words that say nothing; any other is a text."""

    def __init__(self, words: str) -> None:
        self._words = frozenset(("", *words.split()))

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not str:
            raise wrong("a word")
        if value not in self._words:
            reading.texts.append(Text(value, holder, key))


def read_scalar(holder: Any, key: Any, value: Any, reading: Reading) -> None:
    """A number, true or false; a number that could be a card's is a text.

    Raises:
        BodyError: something else.
    """
    kind = type(value)
    if kind is bool:
        return
    if kind is int or kind is float:
        if value >= _LARGE or value <= -_LARGE:
            digits = str(int(value)) if kind is int or value.is_integer() else repr(value)
            reading.texts.append(Text(digits, holder, key))
        return
    raise wrong("a number, true, false or a name")


class _Scalar(Shape):
    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        read_scalar(holder, key, value, reading)


class _Free(Shape):
    """Any JSON. Every string, every key that is no plain word, and every large number is a text.

    `copies`: what is called `logprobs` in it are copies of text, token by token.
    """

    def __init__(self, *, copies: bool = False) -> None:
        self._copies = copies

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        _read_free(holder, key, value, reading, 0, copies=self._copies)


def _read_free(
    holder: Any, key: Any, value: Any, reading: Reading, depth: int, *, copies: bool = False
) -> None:
    kind = type(value)
    if kind is str:
        _read_free_text(holder, key, value, reading)
    elif kind is dict or kind is list:
        if depth >= MAX_DEPTH:
            raise BodyError("invalid_json", f"is nested deeper than {MAX_DEPTH}")
        reading.count(len(value))
        items: Any = value.items() if kind is dict else enumerate(value)
        for name, item in items:
            if kind is dict and not is_plain_key(name):
                reading.texts.append(Text(name, value, name, is_key=True))
            if copies and name in _COPIES and item is not None:
                COPY.read(value, name, item, reading)
            else:
                _read_free(value, name, item, reading, depth + 1, copies=copies)
    elif value is not None:
        read_scalar(holder, key, value, reading)


def _read_free_text(holder: Any, key: Any, value: str, reading: Reading) -> None:
    if "\\u" in value:  # JSON in JSON, perhaps: what it says counts where it says more
        plain = unescape(value)
        if plain != value and scan(plain, DETECTORS):
            value = holder[key] = plain
    if value:
        reading.texts.append(Text(value, holder, key))


class _Numbers(Shape):
    """Numbers by plain names, at any depth (`usage`, timings)."""

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        before = len(reading.texts)
        _read_free(holder, key, value, reading, 0)
        for text in reading.texts[before:]:
            if text.is_key or type(text.holder[text.key]) is str:
                raise wrong("made of numbers")


class _Vector(Shape):
    """An embedding: a list of numbers, or of lists of them; or these in base64, which is read as
    a text, because nothing says that it is what it claims to be.
    """

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is str:
            reading.texts.append(Text(value, holder, key))
            return
        rows = value if type(value) is list and value and type(value[0]) is list else [value]
        for row in rows:
            try:
                msgspec.convert(row, list[float])
            except msgspec.ValidationError:
                raise wrong("a list of numbers") from None


class _Copy(Shape):
    """Copies of a text, token by token. Whether they may pass is decided after the text is."""

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if value is not False:
            reading.copies.append((holder, key))


class _Dropped(Shape):
    """What nothing here can read and nobody needs to have: it does not pass (token ids)."""

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        holder[key] = None


class Refused(Shape):
    """What may only be absent, null, false or empty."""

    def __init__(self, code: str, message: str) -> None:
        self._code = code
        self._message = message

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if value is not False and value not in ("", [], {}):
            raise BodyError(self._code, self._message)


class _Blob(Shape):
    """Content that is not text, base64: never read. It stands only inside `Media`."""

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not str:
            raise wrong("base64")


class _Url(Shape):
    """A `data:` URL holds the content itself; any other is a text and fetched by the server."""

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not str:
            raise wrong("a URL")
        if not value.startswith("data:"):
            reading.media.add("remote")
            reading.texts.append(Text(value, holder, key))


TEXT: Final = _Text()
JSON_TEXT: Final = _JsonText()
TEXTS: Final = _Texts()
NAME: Final = _Name()
# A template writes the role where the model reads it, whatever it is.
ROLE: Final = _Words("system developer user assistant tool function ipython")
SCALAR: Final = _Scalar()
FREE: Final = _Free()
ECHO: Final = _Free(copies=True)  # an error's body, which may repeat a request or a reply
NUMBERS: Final = _Numbers()
VECTOR: Final = _Vector()
COPY: Final = _Copy()
DROPPED: Final = _Dropped()
BLOB: Final = _Blob()
URL: Final = _Url()


def piece(name: str, *, is_json: bool = False) -> Shape:
    """A piece of the text `name` of the present choice, tool call or block."""
    return _Piece(name, is_json=is_json)
