"""Who asks: the principal of a request, from an API key, a token, or a client certificate.

API keys are held as SHA-256 only. The digest of what the client sent is looked up in a table, so
the time taken says nothing about how much of a key was right. A credential with two dots is a
token (`tokens`); what is not a known key and no valid token is nobody.

Two credentials in one request are refused: which one counts must not be a matter of parsers. Where
anonymous clients are let in, one with an unknown key is anonymous (many libraries cannot do without
a key), but one with a token that is not valid is refused: it meant to be somebody.

A client certificate comes with the connection and not with the request. What it means beside a key
or token is the operator's choice (`Certificates`); that it is not believed refuses in every case.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

MAX_KEYS_FILE: Final = 4 * 1024 * 1024  # bytes: some 40,000 keys
_NOTHING: Final = hashlib.sha256(b"").digest()
_LINE: Final = re.compile(r"(?P<name>\S.{0,127}?)[ \t]+(?P<sha256>[0-9a-f]{64})")

Kind = Literal["User", "Agent", "APIKey"]
# Who the caller is where the client has shown a certificate:
# certificate: its workload; a key or token that would name somebody, too, is refused.
# credential: whom the key or token names; the certificate only lets the connection in.
# either: whom the key or token names, and without one the certificate's workload.
Certificates = Literal["certificate", "credential", "either"]
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


class Stranger(msgspec.Struct, frozen=True, gc=False):
    """Somebody who may not ask (401).

    Attributes:
        code: told to the client.
        reason: for the record; says more than the code.
    """

    code: str
    message: str
    reason: str


UNKNOWN: Final = Stranger("unauthorized", "no valid API key or token", "unauthorized")
_TWO: Final = Stranger(
    "two_credentials",
    "the client shows a certificate and a key or token, too; one of them is to name the caller",
    "two_credentials",
)


class Shown(Protocol):
    """A certificate that a client has shown (`enforcement.identity.peer.Peer` is one)."""

    def caller(self) -> Caller | Stranger:
        """Whom it names now."""


class Tokens(Protocol):
    """What tells who a token is for (`enforcement.identity.tokens.TokenVerifier` is one)."""

    def caller(self, token: bytes, /) -> Caller | None:
        """Whom it names, or None: it is not valid."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One API key."""

    name: str
    sha256: bytes
    kind: Kind = "User"
    groups: tuple[str, ...] = ()


class Identifier:
    """Maps what a client has shown to a caller, or to somebody who must be refused (401).

    Args:
        anonymous: a client that shows nothing is `User::"anonymous"`; the bundle must say so, too.
        certificates: what a client certificate means beside a key or token.

    Raises:
        ValueError: keys that cannot be meant (`check_keys`).
    """

    def __init__(
        self,
        keys: Iterable[Key] = (),
        *,
        tokens: Tokens | None = None,
        anonymous: bool = False,
        certificates: Certificates = "certificate",
    ) -> None:
        self._keys: Mapping[bytes, Caller] = {
            key.sha256: Caller((key.kind, key.name), tuple(sorted(key.groups)))
            for key in check_keys(keys)
        }
        self._tokens = tokens
        self._fallback = ANONYMOUS if anonymous else UNKNOWN
        self._certificates = certificates

    def __call__(self, headers: Sequence[Header], shown: Shown | None = None) -> Caller | Stranger:
        """`Authorization: Bearer …` (OpenAI) and `x-api-key: …` (Anthropic) are understood.

        Args:
            shown: the client's certificate, if it has shown one.
        """
        found = [
            value
            for name, value in headers
            if name == b"x-api-key"
            or (name == b"authorization" and value[:7].lower() == b"bearer ")
        ]
        if shown is None:
            return self._named(found, self._fallback)
        workload = shown.caller()
        if isinstance(workload, Stranger):
            return workload
        if self._certificates == "credential":
            return self._named(found, self._fallback)
        if not found:
            return workload
        if self._certificates == "either":
            return self._named(found, UNKNOWN)
        # As for anonymous clients: a key that names nobody is what a library cannot do without.
        return workload if self._named(found, workload) is workload else _TWO

    def _named(self, found: list[bytes], fallback: Caller | Stranger) -> Caller | Stranger:
        """Whom the keys and tokens of a request name; `fallback` where there is none that could."""
        if len(found) > 1:
            return UNKNOWN
        if not found:
            return fallback
        value = found[0][7:] if found[0][:7].lower() == b"bearer " else found[0]
        value = value.strip()
        known = self._keys.get(hashlib.sha256(value).digest())
        if known is not None:
            return known
        if self._tokens is not None and value.count(b".") == 2:
            return self._tokens.caller(value) or UNKNOWN
        return fallback


def check_keys(keys: Iterable[Key]) -> list[Key]:
    """The keys, if each names one caller.

    Raises:
        ValueError: two have one digest, so that their order would say who is meant; one is the
            digest of nothing (of a variable that was not set), which every client can show; or one
            that is not a user's has groups, with which the engine would deny every request.
    """
    listed = list(keys)
    first: dict[bytes, str] = {}
    for key in listed:
        if key.sha256 == _NOTHING:
            raise ValueError(f"{key.name!r}: this is the SHA-256 of nothing, so no key at all")
        if key.sha256 in first:
            raise ValueError(f"{first[key.sha256]!r} and {key.name!r} have the same key")
        if key.groups and key.kind != "User":
            raise ValueError(f"{key.name!r}: only users have groups")
        first[key.sha256] = key.name
    return listed


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
        text = path.read_text(encoding="utf-8-sig")
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
