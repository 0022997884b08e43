"""Who asks: the principal of a request, from an API key, a token, or a client certificate.

API keys are held as SHA-256 only. The digest of what the client sent is looked up in a table, so
the time taken says nothing about how much of a key was right. A credential with two dots is a
token (`enforcement/tokens.py`); what is not a known key and no valid token is nobody.

Two credentials in one request are refused: which one counts must not be a matter of parsers. Where
anonymous clients are let in, one with an unknown key is anonymous (many libraries cannot do without
a key), but one with a token that is not valid is refused: it meant to be somebody.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

MAX_KEYS_FILE: Final = 4 * 1024 * 1024  # bytes: some 40,000 keys
_LINE: Final = re.compile(r"(?P<name>\S.{0,127}?)[ \t]+(?P<sha256>[0-9a-f]{64})")

Kind = Literal["User", "Agent", "APIKey"]
Principal = tuple[str, str]  # entity type without namespace, id
Header = tuple[bytes, bytes]  # name in lower case, value


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Somebody who may ask.

    Attributes:
        principal: entity type without namespace, and id.
        groups: ids of the `Lucid::Group`s that it is in, by its token; sorted. Those of
            `entities.json` come beside them.
        anonymous: it showed nothing; the bundle must let such clients in.
    """

    principal: Principal
    groups: tuple[str, ...] = ()
    anonymous: bool = False


ANONYMOUS: Final = Caller(("User", "anonymous"), anonymous=True)


class Tokens(Protocol):
    """What tells who a token is for (`enforcement.tokens.TokenVerifier` is one)."""

    def caller(self, token: bytes, /) -> Caller | None:
        """Whom it names, or None: it is not valid."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One API key."""

    name: str
    sha256: bytes
    kind: Kind = "User"
    groups: tuple[str, ...] = ()


class Identifier:
    """Maps the headers of a request to a caller, or None: it must be refused (401).

    Args:
        anonymous: a client that shows nothing is `User::"anonymous"`; the bundle must say so, too.
    """

    def __init__(
        self, keys: Iterable[Key] = (), *, tokens: Tokens | None = None, anonymous: bool = False
    ) -> None:
        self._keys: Mapping[bytes, Caller] = {
            key.sha256: Caller((key.kind, key.name), tuple(sorted(key.groups))) for key in keys
        }
        self._tokens = tokens
        self._fallback = ANONYMOUS if anonymous else None

    def __call__(self, headers: Sequence[Header]) -> Caller | None:
        """`Authorization: Bearer …` (OpenAI) and `x-api-key: …` (Anthropic) are understood."""
        found = [
            value
            for name, value in headers
            if name == b"x-api-key"
            or (name == b"authorization" and value[:7].lower() == b"bearer ")
        ]
        if len(found) > 1:
            return None
        if not found:
            return self._fallback
        shown = found[0][7:] if found[0][:7].lower() == b"bearer " else found[0]
        shown = shown.strip()
        known = self._keys.get(hashlib.sha256(shown).digest())
        if known is not None:
            return known
        if self._tokens is not None and shown.count(b".") == 2:
            return self._tokens.caller(shown)
        return self._fallback


def read_keys(path: Path) -> list[Key]:
    """The keys of a file: `NAME SHA256` a line, the digest as 64 lower-case hex digits, `#` begins
    a comment. Blocking.

    Raises:
        ValueError: it cannot be read, or a line is not as it should be. The message names the line
            by its number, never by what is in it.
    """
    try:
        if path.stat().st_size > MAX_KEYS_FILE:
            raise ValueError(f"{path}: larger than {MAX_KEYS_FILE} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8") from None
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        if not (found := _LINE.fullmatch(content)):
            raise ValueError(f"{path}: line {number} is not NAME SHA256 (64 lower-case hex digits)")
        keys.append(Key(name=found["name"], sha256=bytes.fromhex(found["sha256"])))
    if not keys:
        raise ValueError(f"{path}: there is no key in it")
    return keys
