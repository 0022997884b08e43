"""Who asks: the principal of a request, from its API key.

Keys are held as SHA-256 only. The digest of what the client sent is looked up in a table, so the
time taken says nothing about how much of a key was right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from agent.config import IdentityTable

ANONYMOUS = ("User", "anonymous")

Header = tuple[bytes, bytes]  # name in lower case, value


class Identifier:
    """Maps the headers of a request to a principal (entity type, id), or None: nobody known."""

    def __init__(self, table: IdentityTable) -> None:
        self._keys = {bytes.fromhex(key.sha256): key.name for key in table.keys}
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
