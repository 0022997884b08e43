"""What the certificates of all vendors have in common: how they fail to be read, and are shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

# What the X.509 library raises over hostile bytes, found by fuzzing it; TypeError comes from a name
# with a BIT STRING, UserWarning from an odd country where warnings are errors.
UNREADABLE: Final = (
    ValueError,
    IndexError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UserWarning,
)


def utc(moment: datetime) -> str:
    """Seconds, in UTC, and says so."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def name_text(name: x509.Name) -> str:
    """A distinguished name in quotes, cut after 160 characters: it may be hostile."""
    return repr(name.rfc4514_string()[:160])
