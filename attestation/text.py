"""Times and names of certificates for people. Both may be hostile: bounded and printable."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509


def utc(moment: datetime) -> str:
    """Seconds, in UTC, and says so."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def name_text(name: x509.Name) -> str:
    """A distinguished name in quotes, cut after 160 characters."""
    return repr(name.rfc4514_string()[:160])
