"""What a file may be that is not what was asked for: a hint for people, never a verdict."""

from __future__ import annotations

import re
from typing import Final

from attestation.errors import MalformedError
from attestation.snp.abi import REPORT_SIZE

REPORT: Final = "an SEV-SNP report (`lucid evidence`)"
QUOTE: Final = "a TDX quote (`lucid evidence`)"
PASSPORT: Final = "a signed CBOR message, as passports are (`lucid passport`)"

_HEX: Final = re.compile(rb"(0[xX])?[0-9a-fA-F]{32,}")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]{32,}={0,2}")
_PEM: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_LOOKED_AT: Final = 4096  # bytes; enough to tell text from something else
_TDX: Final = b"\x81\0\0\0"


def guess(data: bytes) -> str:
    """In a few words; empty: it looks like nothing that is known here."""
    start = data[:_LOOKED_AT].strip()
    if not data:
        return "an empty file"
    if found := _PEM.match(start):
        return f"PEM ({found[1].decode().lower()})"
    if start[:1] in (b"{", b"["):
        return "JSON"
    if _HEX.fullmatch(b"".join(start.split())):
        return "hexadecimal text: `xxd -r -p` makes bytes of it"
    if _BASE64.fullmatch(b"".join(start.splitlines())):
        return "base64 text: `base64 -d` makes bytes of it"
    if data[:2] == b"\xd2\x84":  # tag 18, an array of four: COSE_Sign1
        return PASSPORT
    if data[:2] in (b"\x30\x82", b"\x30\x83"):
        return "DER, as certificates and revocation lists are"
    if data[:1] <= b"\x05" and data[1:4] == bytes(3) and len(data) >= REPORT_SIZE:
        return REPORT
    if data[:2] in (b"\x04\0", b"\x05\0") and data[4:8] == _TDX:
        return QUOTE
    return ""


def named(where: str, data: bytes, error: MalformedError) -> MalformedError:
    """The error of an option's file, with the file and what it may be."""
    found = guess(data)
    what = f"{error} (this is {found})" if found else str(error)
    return MalformedError(error.code, f"{where}: {what}", remedy=error.remedy)
