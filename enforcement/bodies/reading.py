"""What is read of one JSON body: its texts and where they stand, and what else it holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from enforcement.detectors import DETECTORS, scan

MAX_REMEMBERED: Final = 4096  # names
MAX_VALUES: Final = 65_536  # in one body; a text among them costs some 4 µs

_NAME: Final = re.compile(r"[A-Za-z0-9_.:/+-]{0,128}")
_PLAIN_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")


class BodyError(Exception):
    """A body that is not understood. `code` is stable; the message repeats none of its text.

    `path` leads to the place, outermost first; names of unknown fields are told only where they
    are plain words.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.path: list[str] = []

    def __str__(self) -> str:
        place = "".join(self.path).removeprefix(".")
        return f"{place}: {self.args[0]}" if place else str(self.args[0])


class Text:
    """One text and where it stands: `holder[key]`. `is_key`: the text is the key itself."""

    __slots__ = ("holder", "is_key", "key", "value")

    def __init__(self, value: str, holder: Any, key: Any, *, is_key: bool = False) -> None:
        self.value = value
        self.holder = holder
        self.key = key
        self.is_key = is_key

    def replace(self, value: str) -> None:
        """Put another text in its place.

        Raises:
            BodyError: the text is a key, which cannot be edited.
        """
        if self.is_key:
            raise BodyError("redaction_incomplete", "the name of a field cannot be masked")
        self.holder[self.key] = value
        self.value = value


class Streamed:
    """A piece of a text that goes on: `holder[key]`, of the text that `channel` names."""

    __slots__ = ("channel", "holder", "is_json", "key", "value")

    def __init__(
        self, value: str, holder: Any, key: str, channel: tuple[int | str, ...], *, is_json: bool
    ) -> None:
        self.value = value
        self.holder = holder
        self.key = key
        self.channel = channel
        self.is_json = is_json


class Reading:
    """What was read of one body.

    Attributes:
        texts: every text, in document order.
        media: kinds of content that are not text: `image`, `audio`, `video`, `file`, and `remote`
            for what the model server would fetch.
        copies: places of per-token copies of text (`logprobs`).
        streamed: pieces of texts that go on in later events.
        place: the indexes of the choice, tool call or block that is being read.
        values: what stands in lists and in free JSON, until now.
    """

    __slots__ = ("copies", "media", "place", "streamed", "texts", "values")

    def __init__(self) -> None:
        self.texts: list[Text] = []
        self.media: set[str] = set()
        self.copies: list[tuple[Any, Any]] = []
        self.streamed: list[Streamed] = []
        self.place: tuple[int | str, ...] = ()
        self.values = 0

    def count(self, values: int) -> None:
        """Take note of that many values, before they are looked at.

        Raises:
            BodyError: there are too many in this body; the others wait while it is read.
        """
        self.values += values
        if self.values > MAX_VALUES:
            raise BodyError("too_many_values", f"the body holds more than {MAX_VALUES} values")


class _Remembered(dict[str, bool]):
    """Answers about short texts, kept. Of a long one, which a client wrote, nothing is kept."""

    def __init__(self, pattern: re.Pattern[str], *, longest: int) -> None:
        super().__init__()
        self._pattern = pattern
        self._longest = longest

    def __missing__(self, text: str) -> bool:
        if len(text) > self._longest:
            return False
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        found = self._pattern.fullmatch(text) is not None and not scan(text, DETECTORS)
        self[text] = found
        return found


# Whether a value looks like an identifier and like nothing that a detector finds.
is_name: Final[Callable[[str], bool]] = _Remembered(_NAME, longest=128).__getitem__
# Whether the name of a field is a plain word and nothing that a detector finds.
is_plain_key: Final[Callable[[str], bool]] = _Remembered(_PLAIN_KEY, longest=41).__getitem__
