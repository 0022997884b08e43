"""The language of the tables in `enforcement/apis`: what a JSON body may hold, and what is text.

A shape says of each field what it is: a text that detectors read, a name, a number, free JSON, a
copy of text token by token, a picture. Reading a body by its shape gives every text with the place
it stands at, so that it can be masked there, and the kinds of other content, so that a policy can
refuse them. What a shape does not name is refused, except that an object marked `more` may hold
unknown fields without text: null, true, false, numbers, and empty strings, lists and objects.

Numbers of 13 digits and more are read as texts, because a card number is a number too.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from enforcement.content.json_escapes import unescape
from enforcement.content.reading import BodyError, Reading, Streamed, Text, is_name, is_plain_key
from enforcement.detectors import DETECTORS, scan

MAX_DEPTH: Final = 64  # of free JSON
MAX_INDEX: Final = 1024  # of a choice, a tool call, a content block

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


def _wrong(expected: str) -> BodyError:
    return BodyError("invalid_request", f"is not {expected}")


class _Text(Shape):
    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not str:
            raise _wrong("a text")
        if value:
            reading.texts.append(Text(value, holder, key))


class _JsonText(Shape):
    """JSON written as a text (arguments of a tool call): escapes in it are resolved first."""

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not str:
            raise _wrong("a text")
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
            raise _wrong("a text or a list of texts")
        reading.count(len(value))
        for index, item in enumerate(value):
            if type(item) is not str:
                if type(item) in (int, list):
                    raise BodyError("token_ids_not_supported", "token ids are refused; send text")
                raise _wrong("a text or a list of texts")
            reading.texts.append(Text(item, value, index))


class _Piece(Shape):
    """A piece of a text that goes on in later events."""

    def __init__(self, name: str, *, is_json: bool = False) -> None:
        self._name = name
        self._is_json = is_json

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not str:
            raise _wrong("a text")
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
            _read_scalar(holder, key, value, reading)


class _Words(Shape):
    """One of a few words that say nothing; any other is a text."""

    def __init__(self, words: str) -> None:
        self._words = frozenset(("", *words.split()))

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not str:
            raise _wrong("a word")
        if value not in self._words:
            reading.texts.append(Text(value, holder, key))


def _read_scalar(holder: Any, key: Any, value: Any, reading: Reading) -> None:
    kind = type(value)
    if kind is bool:
        return
    if kind is int or kind is float:
        if value >= _LARGE or value <= -_LARGE:
            digits = str(int(value)) if kind is int or value.is_integer() else repr(value)
            reading.texts.append(Text(digits, holder, key))
        return
    raise _wrong("a number, true, false or a name")


class _Scalar(Shape):
    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        _read_scalar(holder, key, value, reading)


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
        _read_scalar(holder, key, value, reading)


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
                raise _wrong("made of numbers")


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
                raise _wrong("a list of numbers") from None


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
            raise _wrong("base64")


class _Url(Shape):
    """A `data:` URL holds the content itself; any other is a text and fetched by the server."""

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not str:
            raise _wrong("a URL")
        if not value.startswith("data:"):
            reading.media.add("remote")
            reading.texts.append(Text(value, holder, key))


class Obj(Shape):
    """An object. `more`: unknown fields may stand here if they hold no text."""

    def __init__(
        self, *groups: dict[str, Shape], more: bool = False, media: str = "", **fields: Shape
    ) -> None:
        self.fields: dict[str, Shape] = {}
        for group in (*groups, fields):
            self.fields.update(group)
        self.more = more
        self._media = media

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not dict:
            raise _wrong("an object")
        if self._media:
            reading.media.add(self._media)
        fields = self.fields
        name = ""
        try:
            for name, item in value.items():
                shape = fields.get(name)
                if shape is None:
                    self._unknown(value, name, item, reading)
                elif item is not None:
                    shape.read(value, name, item, reading)
        except BodyError as error:
            if is_plain_key(name):
                error.path.insert(0, f".{name}")
            raise

    def _unknown(self, holder: Any, name: str, item: Any, reading: Reading) -> None:
        """A field that the table does not name. What it holds may be a text, and so may its name;
        the error tells the name only where it is a plain word.
        """
        if not self.more or not is_plain_key(name):
            raise BodyError("unknown_field", "this field is not known, so it is refused")
        reading.count(1)
        if type(item) in (int, float, bool):
            _read_scalar(holder, name, item, reading)
        elif item is not None and item not in ("", [], {}):
            raise BodyError("unknown_field", "this field is not known, so it is refused")


class Many(Shape):
    """A list, every item of one shape. `indexed`: items say by `index` which text they go on."""

    def __init__(self, item: Shape, *, indexed: bool = False) -> None:
        self.item = item
        self._indexed = indexed

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not list:
            raise _wrong("a list")
        reading.count(len(value))
        shape = self.item
        number = 0
        try:
            for number, item in enumerate(value):
                if item is None:
                    raise _wrong("what it must be: it is null")
                if self._indexed:
                    self._indexed_item(value, number, item, reading)
                else:
                    shape.read(value, number, item, reading)
        except BodyError as error:
            error.path.insert(0, f"[{number}]")
            raise

    def _indexed_item(self, holder: Any, number: int, item: Any, reading: Reading) -> None:
        index = item.get("index", number) if type(item) is dict else None
        if type(index) is not int or not 0 <= index < MAX_INDEX:
            raise _wrong("an object with an index")
        place = reading.place
        reading.place = (*place, index)
        self.item.read(holder, number, item, reading)
        reading.place = place


class Tagged(Shape):
    """An object whose field `type` says which it is. `untagged`: where it says nothing.

    `otherwise`: the code with which any other type is refused.
    """

    def __init__(
        self, shapes: dict[str, Shape], *, otherwise: str, untagged: Shape | None = None
    ) -> None:
        self.shapes = shapes
        self._otherwise = otherwise
        self._untagged = untagged

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not dict:
            raise _wrong("an object")
        tag = value.get("type")
        shape = self.shapes.get(tag) if type(tag) is str else None
        if tag is None:
            shape = self._untagged
        if shape is None:
            raise BodyError(self._otherwise, "content of a kind that is not supported")
        shape.read(holder, key, value, reading)


class Either(Shape):
    """By JSON type: a text, an object, or a list."""

    def __init__(
        self, *, text: Shape | None = None, many: Shape | None = None, obj: Shape | None = None
    ) -> None:
        self._by_type: dict[type, Shape | None] = {str: text, list: many, dict: obj}
        self.options = [shape for shape in self._by_type.values() if shape is not None]

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        shape = self._by_type.get(type(value))
        if shape is None:
            raise BodyError("invalid_request", "has another type than this field may have")
        shape.read(holder, key, value, reading)


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


def each(shape: Shape, names: str) -> dict[str, Shape]:
    """The same shape for several fields, named with spaces between."""
    return dict.fromkeys(names.split(), shape)
