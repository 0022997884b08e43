"""Intel's signed documents as JSON: what is signed is cut out, byte by byte, and read as types.

Source: Intel PCS API version 4. What is signed are the exact bytes of the inner JSON value as
received, so they are never written again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from attestation.errors import MalformedError

MAX_DOCUMENT_SIZE: Final = 512 * 1024  # bytes; real ones have up to 20 KiB
MAX_LEVELS: Final = 256
CODE: Final = "tdx.collateral.format"

T = TypeVar("T")


def split_document(data: bytes, name: str) -> tuple[bytes, bytes]:
    """What of a document is signed, byte by byte, and the signature (64 bytes).

    Raises:
        MalformedError: `tdx.collateral.format`.
    """
    signed, signature, _ = read_document(data, name)
    return signed, signature


def read_document(data: bytes, name: str) -> tuple[bytes, bytes, dict[str, Any]]:
    """The inner value's exact bytes, the signature, and the value.

    The layout is the service's own, byte by byte: with anything else between the parts, what is
    signed and what is read could be two things.
    """
    data = data.strip(b" \t\r\n")
    head, tail = b'{"' + name.encode() + b'":', b',"signature":"'
    if len(data) > MAX_DOCUMENT_SIZE:
        raise wrong(f"{len(data)} bytes")
    end = len(data) - len(tail) - 128 - 2
    if not data.startswith(head) or data[end : end + len(tail)] != tail or data[-2:] != b'"}':
        raise wrong(f'not {{"{name}":{{…}},"signature":"…"}}')
    signed = data[len(head) : end]
    try:
        signature = bytes.fromhex(data[end + len(tail) : -2].decode("ascii"))
        value = json.loads(signed, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise wrong(f"not JSON: {error}") from None
    if len(signature) != 64 or not isinstance(value, dict):
        raise wrong("the signature has not 64 bytes, or what is signed is no object")
    return signed, signature, value


def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """An object for `json.loads`, in which no name stands twice: readers differ in which they take.

    Raises:
        ValueError: one does.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is given twice")
        found[name] = value
    return found


class Fields:
    """Typed access to an object; every mismatch names the field."""

    def __init__(self, value: dict[str, Any], where: str) -> None:
        self._value, self._where = value, where

    def _take(self, name: str, kind: type[T]) -> T:
        value = self._value.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise wrong(f"{self._where}.{name} is missing or of another type")
        return value

    def text(self, name: str) -> str:
        return self._take(name, str)

    def number(self, name: str, most: int) -> int:
        number = self._take(name, int)
        if not 0 <= number <= most:
            raise wrong(f"{self._where}.{name} is not between 0 and {most}")
        return number

    def octets(self, name: str, size: int) -> bytes:
        text = self.text(name)
        try:
            raw = bytes.fromhex(text)
        except ValueError:
            raw = b""
        if len(raw) != size or len(text) != 2 * size:
            raise wrong(f"{self._where}.{name} is not hex of {size} bytes")
        return raw

    def time(self, name: str) -> datetime:
        text = self.text(name)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is not UTC or moment.isoformat()[:19] + "Z" != text:
            raise wrong(f"{self._where}.{name} is not a time like 2026-01-31T00:00:00Z")
        return moment

    def table(self, name: str) -> Fields:
        found: dict[str, Any] = self._take(name, dict)
        return Fields(found, f"{self._where}.{name}")

    def tables(self, name: str, *, optional: bool = False) -> list[Fields]:
        if optional and name not in self._value:
            return []
        items: list[Any] = self._take(name, list)
        if len(items) > MAX_LEVELS or not all(isinstance(item, dict) for item in items):
            raise wrong(f"{self._where}.{name} is not a list of up to {MAX_LEVELS} objects")
        return [Fields(item, f"{self._where}.{name}[{n}]") for n, item in enumerate(items)]

    def items(self, name: str) -> list[Any]:
        return self._take(name, list)

    def levels(self, read: Callable[[Fields], T]) -> tuple[T, ...]:
        return tuple(read(item) for item in self.tables("tcbLevels"))

    def strings(self, name: str) -> tuple[str, ...]:
        items: list[Any] = self._take(name, list) if name in self._value else []
        if len(items) > MAX_LEVELS or not all(isinstance(item, str) for item in items):
            raise wrong(f"{self._where}.{name} is not a list of strings")
        return tuple(items)


def wrong(what: str) -> MalformedError:
    return MalformedError(CODE, f"Intel's document cannot be read: {what}")
