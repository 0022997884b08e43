"""The claims buffer: what a quote is about. Its SHA-512 is the quote's report_data.

Deterministic CBOR of `["lucid.report-data", 1, purpose, key thumbprint, nonce, boot seed,
bundle digest, journal head]`. Its exact bytes travel beside the quote, so nobody has to serialise
anything again to check the binding. `purpose` keeps quotes for different uses apart: evidence of
one purpose is never taken for another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal, get_args

from attestation import cbor
from attestation.errors import MalformedError

LABEL: Final = "lucid.report-data"
VERSION: Final = 1
MAX_SIZE: Final = 512  # bytes; a full buffer has about 250

Purpose = Literal["passport", "channel", "challenge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimsBuffer:
    """The fields, all of fixed length but the nonce.

    Attributes:
        key_thumbprint: SHA-256 COSE Key Thumbprint (RFC 9679) of the key that is bound, 32 bytes.
        nonce: a verifier's nonce, 8 to 64 bytes; empty where nobody challenged.
        boot_seed, bundle_digest, journal_head: 32 bytes each.
    """

    purpose: Purpose
    key_thumbprint: bytes
    nonce: bytes
    boot_seed: bytes
    bundle_digest: bytes
    journal_head: bytes

    def __post_init__(self) -> None:
        fixed = (self.key_thumbprint, self.boot_seed, self.bundle_digest, self.journal_head)
        if any(len(value) != 32 for value in fixed):
            raise ValueError("thumbprint, seed, digest and head of a claims buffer have 32 bytes")
        if self.nonce and not 8 <= len(self.nonce) <= 64:
            raise ValueError("a nonce has 8 to 64 bytes")

    def encode(self) -> bytes:
        """The one encoding."""
        return cbor.encode(
            [
                LABEL,
                VERSION,
                self.purpose,
                self.key_thumbprint,
                self.nonce,
                self.boot_seed,
                self.bundle_digest,
                self.journal_head,
            ]
        )

    @classmethod
    def decode(cls, data: bytes) -> ClaimsBuffer:
        """Read a buffer strictly.

        Raises:
            MalformedError: `cbor.*`, or `claims_buffer.structure`.
        """
        value = cbor.decode(data, max_size=MAX_SIZE, max_depth=2, deterministic=True)
        match value:
            case [
                str(label),
                int(version),
                str(purpose),
                bytes(key_thumbprint),
                bytes(nonce),
                bytes(boot_seed),
                bytes(bundle_digest),
                bytes(journal_head),
            ] if (label, version) == (LABEL, VERSION) and purpose in get_args(Purpose):
                pass
            case _:
                raise MalformedError("claims_buffer.structure", "not a version-1 claims buffer")
        try:
            found = cls(
                purpose=purpose,  # type: ignore[arg-type]  # one of Purpose: checked above
                key_thumbprint=key_thumbprint,
                nonce=nonce,
                boot_seed=boot_seed,
                bundle_digest=bundle_digest,
                journal_head=journal_head,
            )
        except ValueError as error:
            raise MalformedError("claims_buffer.structure", str(error)) from None
        if found.encode() != data:  # Python takes true for 1
            raise MalformedError("claims_buffer.structure", "not the one form of a claims buffer")
        return found


def report_data(encoded: bytes) -> bytes:
    """The 64 bytes that a quote over this buffer carries: SHA-512 of its exact bytes."""
    return hashlib.sha512(encoded).digest()
