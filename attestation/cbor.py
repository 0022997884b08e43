"""Strict CBOR: one encoding out, and only plain, bounded, unambiguous data in.

Source: RFC 8949, sections 3 (encoding), 4.2.1 (core deterministic encoding) and 5.6 (map keys).

Bytes that arrive here come from strangers. A general decoder gives meaning to tags (dates, regular
expressions, shared references), takes the last of two equal keys and stops at the first complete
item; each of these lets two readers see different things in the same signed bytes. So this one
reads the plain data model only: integers of 64 bits, byte and text strings, arrays, maps, false,
true, null, and floats unless deterministic form is asked for. Tags are kept as `cbor2.CBORTag` and
never interpreted. Map keys are integers, text or bytes, so no two keys compare equal by accident
(`1`, `1.0` and `True` do in Python).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from cbor2 import CBORTag

from attestation.errors import MalformedError

DEFAULT_MAX_SIZE: Final = 65_536  # bytes
DEFAULT_MAX_DEPTH: Final = 16  # arrays, maps and tags inside one another
DEFAULT_MAX_ITEMS: Final = 16_384  # in arrays and maps, together; one costs a microsecond
MAX_ENCODE_DEPTH: Final = 64  # turns a self-referential value into an error

_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_ARGUMENT_SIZES: Final = {24: 1, 25: 2, 26: 4, 27: 8}
_SMALLEST_FOR_SIZE: Final = {1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}
_FLOATS: Final = {25: (">e", 2), 26: (">f", 4), 27: (">d", 8)}
_LITERALS: Final[dict[int, bool | None]] = {20: False, 21: True, 22: None}


def encode(value: object) -> bytes:
    """The deterministic encoding of a value (RFC 8949 4.2.1).

    Shortest heads, definite lengths, map keys sorted by their encoded bytes. Takes int, bool, None,
    bytes, str, list or tuple, any Mapping, and `cbor2.CBORTag`.

    Raises:
        TypeError: a float or any other type; a map key that is not an int, a str or bytes.
        ValueError: an integer beyond 64 bits, a lone surrogate, or nesting deeper than 64.
    """
    out = bytearray()
    _encode(value, out, MAX_ENCODE_DEPTH)
    return bytes(out)


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes((major << 5 | argument,))
    for info, size in _ARGUMENT_SIZES.items():
        if argument < 1 << (8 * size):
            return bytes((major << 5 | info,)) + argument.to_bytes(size, "big")
    raise ValueError("a CBOR integer has at most 64 bits")


def _encode_integer(value: int) -> bytes:
    return _head(_UINT, value) if value >= 0 else _head(_NEGATIVE, -1 - value)


def _encode(value: object, out: bytearray, depth: int) -> None:
    if value is None or isinstance(value, bool):
        out.append(0xF6 if value is None else 0xF4 + value)
    elif isinstance(value, int):
        out += _encode_integer(value)
    elif isinstance(value, bytes):
        out += _head(_BYTES, len(value))
        out += value
    elif isinstance(value, str):
        text = value.encode()
        out += _head(_TEXT, len(text))
        out += text
    elif depth == 0:
        raise ValueError(f"a value nested deeper than {MAX_ENCODE_DEPTH} is not encoded")
    elif isinstance(value, (list, tuple)):
        out += _head(_ARRAY, len(value))
        for item in value:
            _encode(item, out, depth - 1)
    elif isinstance(value, Mapping):
        out += _head(_MAP, len(value))
        for key, item in sorted((_encode_key(key), item) for key, item in value.items()):
            out += key
            _encode(item, out, depth - 1)
    elif isinstance(value, CBORTag):
        out += _head(_TAG, value.tag)
        _encode(value.value, out, depth - 1)
    else:
        raise TypeError(f"{type(value).__name__} has no deterministic encoding here")


def _encode_key(key: object) -> bytes:
    if isinstance(key, bool) or not isinstance(key, (int, str, bytes)):
        raise TypeError(f"a map key is an int, a str or bytes, not {type(key).__name__}")
    out = bytearray()
    _encode(key, out, 0)
    return bytes(out)


def decode(
    data: bytes,
    *,
    max_size: int = DEFAULT_MAX_SIZE,
    max_depth: int = DEFAULT_MAX_DEPTH,
    max_items: int = DEFAULT_MAX_ITEMS,
    deterministic: bool = False,
) -> object:
    """Decode exactly one item: plain int, bytes, str, list, dict, bool, None, float, CBORTag.

    Refused: duplicate keys, indefinite lengths, trailing bytes, text that is not UTF-8, undefined
    and other simple values, more than `max_size` bytes, `max_depth` levels or `max_items` items.

    Args:
        deterministic: refuse also everything that `encode` does not make: longer heads than
            needed, unsorted keys, floats. Then `encode(decode(data)) == data`.

    Raises:
        MalformedError: `cbor.*`; the message names the byte offset.
    """
    if len(data) > max_size:
        raise MalformedError(
            "cbor.size", f"{len(data)} bytes of CBOR where at most {max_size} are read"
        )
    decoder = _Decoder(data, max_items=max_items, deterministic=deterministic)
    value, end = decoder.item(0, max_depth)
    if end != len(data):
        raise MalformedError(
            "cbor.trailing", f"{len(data) - end} bytes follow the CBOR item that ends at {end}"
        )
    return value


class _Decoder:
    """One pass over the bytes. Positions are offsets; every method returns (value, next)."""

    __slots__ = ("_data", "_deterministic", "_left")

    def __init__(self, data: bytes, *, max_items: int, deterministic: bool) -> None:
        self._data = data
        self._left = max_items
        self._deterministic = deterministic

    def _take(self, at: int, size: int) -> bytes:
        taken = self._data[at : at + size]
        if len(taken) != size:
            raise MalformedError(
                "cbor.truncated", f"{size} bytes are announced at {at}, {len(taken)} are there"
            )
        return taken

    def _argument(self, info: int, at: int) -> tuple[int, int]:
        """The head's argument. `at` is the offset after the initial byte."""
        if info < 24:
            return info, at
        size = _ARGUMENT_SIZES.get(info)
        if size is None:
            if info == 31:
                raise MalformedError(
                    "cbor.indefinite", f"indefinite length or stray break at {at - 1}"
                )
            raise MalformedError("cbor.reserved", f"reserved additional information at {at - 1}")
        argument = int.from_bytes(self._take(at, size), "big")
        if self._deterministic and argument < _SMALLEST_FOR_SIZE[size]:
            raise MalformedError("cbor.not_minimal", f"a longer head than needed at {at - 1}")
        return argument, at + size

    def item(self, at: int, depth: int) -> tuple[object, int]:
        """The item at an offset; `depth` levels of nesting may still be opened."""
        if at >= len(self._data):
            raise MalformedError("cbor.truncated", f"an item is missing at {at}")
        initial = self._data[at]
        major, info = initial >> 5, initial & 31
        if major == _SIMPLE:
            return self._simple(info, at)
        argument, next_ = self._argument(info, at + 1)
        if major == _UINT:
            return argument, next_
        if major == _NEGATIVE:
            return -1 - argument, next_
        if major == _BYTES:
            return self._take(next_, argument), next_ + argument
        if major == _TEXT:
            return self._text(next_, argument), next_ + argument
        if depth <= 0:
            raise MalformedError("cbor.depth", f"nesting is too deep at {at}")
        if major == _TAG:
            value, end = self.item(next_, depth - 1)
            return CBORTag(argument, value), end
        # Each element takes a byte at least: a count beyond what is left is refused unread.
        if argument > len(self._data) - next_:
            raise MalformedError("cbor.truncated", f"{argument} elements are announced at {at}")
        self._left -= argument if major == _ARRAY else 2 * argument
        if self._left < 0:
            raise MalformedError("cbor.items", f"too many items, with the {argument} at {at}")
        if major == _ARRAY:
            return self._array(next_, argument, depth - 1)
        return self._map(next_, argument, depth - 1)

    def _text(self, at: int, size: int) -> str:
        try:
            return self._take(at, size).decode()
        except UnicodeDecodeError:
            raise MalformedError("cbor.utf8", f"the text at {at} is not UTF-8") from None

    def _array(self, at: int, count: int, depth: int) -> tuple[list[object], int]:
        items: list[object] = []
        for _ in range(count):
            value, at = self.item(at, depth)
            items.append(value)
        return items, at

    def _map(self, at: int, count: int, depth: int) -> tuple[dict[object, object], int]:
        entries: dict[object, object] = {}
        previous = b""
        for _ in range(count):
            start = at
            key, at = self.item(at, 0)
            if isinstance(key, bool) or not isinstance(key, (int, str, bytes)):
                raise MalformedError(
                    "cbor.key_type", f"the map key at {start} is not an integer, text or bytes"
                )
            if key in entries:
                raise MalformedError("cbor.duplicate_key", f"the map key at {start} came before")
            if self._deterministic:
                encoded = self._data[start:at]
                if encoded < previous:
                    raise MalformedError("cbor.order", f"the map key at {start} is out of order")
                previous = encoded
            entries[key], at = self.item(at, depth)
        return entries, at

    def _simple(self, info: int, at: int) -> tuple[object, int]:
        if info in _LITERALS:
            return _LITERALS[info], at + 1
        if info in _FLOATS:
            if self._deterministic:
                raise MalformedError("cbor.float", f"a floating-point number at {at}")
            form, size = _FLOATS[info]
            return struct.unpack(form, self._take(at + 1, size))[0], at + 1 + size
        if info == 31:
            raise MalformedError("cbor.indefinite", f"a stray break at {at}")
        raise MalformedError("cbor.simple", f"an undefined or unassigned simple value at {at}")
