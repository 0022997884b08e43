"""Who asks: the principal of a request, from its API key.

Keys are held as SHA-256 only. The digest of what the client sent is looked up in a table, so the
time taken says nothing about how much of a key was right.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.config import IdentityTable

MAX_KEYS_FILE: Final = 4 * 1024 * 1024  # bytes: some 40,000 keys
_LINE: Final = re.compile(r"(?P<name>\S.{0,127}?)[ \t]+(?P<sha256>[0-9a-f]{64})")

ANONYMOUS = ("User", "anonymous")

Header = tuple[bytes, bytes]  # name in lower case, value


class Identifier:
    """Maps the headers of a request to a principal (entity type, id), or None: nobody known."""

    def __init__(self, table: IdentityTable) -> None:
        self._keys = {bytes.fromhex(key.sha256): key.name for key in table.keys}
        if table.keys_file:
            self._keys |= read_keys(Path(table.keys_file))
        self._fallback = ANONYMOUS if table.anonymous else None

    def __call__(self, headers: Sequence[Header]) -> tuple[str, str] | None:
        """The principal, or None where the request must be refused (401).

        `Authorization: Bearer KEY` (OpenAI) and `x-api-key: KEY` (Anthropic) are understood. Two
        credentials in one request are refused: which one counts must not be a matter of parsers.
        """
        found = [
            value
            for name, value in headers
            if name == b"x-api-key"
            or (name == b"authorization" and value[:7].lower() == b"bearer ")
        ]
        if len(found) > 1:
            return None
        if found:
            key = found[0][7:] if found[0][:7].lower() == b"bearer " else found[0]
            name = self._keys.get(hashlib.sha256(key.strip()).digest())
            if name is not None:
                return ("User", name)
        return self._fallback


def read_keys(path: Path) -> dict[bytes, str]:
    """The keys of a file: `NAME SHA256` a line, the digest as 64 lower-case hex digits, `#` begins
    a comment. Gives names by digest. Blocking.

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
    keys = {}
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        if not (found := _LINE.fullmatch(content)):
            raise ValueError(f"{path}: line {number} is not NAME SHA256 (64 lower-case hex digits)")
        keys[bytes.fromhex(found["sha256"])] = found["name"]
    if not keys:
        raise ValueError(f"{path}: there is no key in it")
    return keys
