"""What the certificates of all vendors have in common: how they are cut up, fail, and are shown.

Parts are cut out of the encoding where the X.509 library would encode them again: that takes 7 to
20 µs each, and evidence is verified on paths that count.
"""

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
_MOST_NAMES: Final = 64
_NAMES: Final[dict[bytes, x509.Name]] = {}


def why_unreadable(error: Exception) -> str:
    """What the X.509 library said, without the dump of its parser."""
    return str(error).partition(": ParseError")[0]


def elements(data: bytes, position: int, count: int) -> list[bytes]:
    """Encoded DER elements one after another, of data that the X.509 library has read.

    Raises:
        ValueError: not the structure that is expected; IndexError: it ends too early.
    """
    parts = []
    for _ in range(count):
        size, start = data[position + 1], position + 2
        if size >= 0x80:
            octets = size & 0x7F
            size, start = int.from_bytes(data[start : start + octets], "big"), start + octets
        if start + size > len(data):
            raise ValueError("a field reaches over the end")
        parts.append(data[position : start + size])
        position = start + size
    return parts


def header_size(element: bytes) -> int:
    """How many bytes the tag and the length of an encoded element take."""
    return 2 + (element[1] & 0x7F if element[1] >= 0x80 else 0)


def issuer_subject_key(signed: bytes) -> tuple[bytes, bytes, bytes]:
    """Issuer, subject and SubjectPublicKeyInfo as encoded in a TBSCertificate (RFC 5280, 4.1).

    Raises:
        ValueError, IndexError: not the structure that the X.509 library has just read.
    """
    # In a SEQUENCE with a length of two bytes, as every certificate here is: version, serial,
    # algorithm, issuer, validity, subject, key.
    parts = elements(signed, 4, 7)
    return parts[3], parts[5], parts[6]


def known_name(encoded: bytes, certificate: x509.Certificate, which: str) -> x509.Name:
    """A name as an object. There are a dozen of them, and each costs 20 µs to build."""
    name = _NAMES.get(encoded)
    if name is None:
        if len(_NAMES) >= _MOST_NAMES:
            _NAMES.clear()
        built: x509.Name = getattr(certificate, which)
        name = _NAMES[encoded] = built
    return name


def utc(moment: datetime) -> str:
    """Seconds, in UTC, and says so."""
    return f"{moment.astimezone(UTC).isoformat(' ', 'seconds')[:19]} UTC"


def name_text(name: x509.Name) -> str:
    """A distinguished name in quotes, cut after 160 characters: it may be hostile."""
    return repr(name.rfc4514_string()[:160])
