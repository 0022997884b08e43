"""What may be configured about tokens: algorithms, and where an issuer's keys may come from.

Apart from what judges tokens, so that a configuration can be checked without a JWT library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

# Algorithms by what their keys are: (kty, crv).
ALGORITHMS: Final[Mapping[str, tuple[str, str | None]]] = {
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "PS256": ("RSA", None),
    "PS384": ("RSA", None),
    "PS512": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def check_url(url: str) -> None:
    """Raises ValueError: not HTTPS, or HTTP to this machine alone."""
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not parts.hostname or parts.username or not (parts.scheme == "https" or local):
        raise ValueError(f"{url!r} is not an https:// address (http:// only on this machine)")
