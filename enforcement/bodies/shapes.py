"""The language of the tables in `enforcement/apis`: what a JSON body may hold, and what is text.

A shape says of each field what it is, down to the leaves (`leaves`). Reading a body by its shape
gives every text with the place it stands at, so that it can be masked there, and the kinds of other
content, so that a policy can refuse them. What a shape does not name is refused, except that an
object marked `more` may hold unknown fields without text: null, true, false, numbers, and empty
strings, lists and objects.
"""

from __future__ import annotations

from typing import Any, Final

from enforcement.bodies.leaves import Shape, read_scalar, wrong
from enforcement.bodies.reading import BodyError, Reading, is_plain_key

MAX_INDEX: Final = 1024  # of a choice, a tool call, a content block


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
            raise wrong("an object")
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
            read_scalar(holder, name, item, reading)
        elif item is not None and item not in ("", [], {}):
            raise BodyError("unknown_field", "this field is not known, so it is refused")


class Many(Shape):
    """A list, every item of one shape. `indexed`: items say by `index` which text they go on."""

    def __init__(self, item: Shape, *, indexed: bool = False) -> None:
        self.item = item
        self._indexed = indexed

    def read(self, holder: Any, key: Any, value: Any, reading: Reading) -> None:
        if type(value) is not list:
            raise wrong("a list")
        reading.count(len(value))
        shape = self.item
        number = 0
        try:
            for number, item in enumerate(value):
                if item is None:
                    raise wrong("what it must be: it is null")
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
            raise wrong("an object with an index")
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
            raise wrong("an object")
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


def each(shape: Shape, names: str) -> dict[str, Shape]:
    """The same shape for several fields, named with spaces between."""
    return dict.fromkeys(names.split(), shape)
