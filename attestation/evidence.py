"""Evidence: one quote with its certificates and the claims buffer, as it travels.

In a passport it is a CMW record (RFC 9999): `[media type, value, indicator]`, where the value is
the deterministic CBOR map `{1: quote, 2: certificates, 3: claims buffer}`. With a TDX quote the
certificates are Intel's documents about the platform (`attestation.tdx.endorsements`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from attestation import cbor
from attestation.errors import MalformedError

MAX_SIZE: Final = 128 * 1024  # bytes; SEV-SNP evidence has about 7 KiB, TDX 40
INDICATOR_EVIDENCE: Final = 4  # RFC 9999: bit 2 of `ind`

Format = Literal["sev-snp", "tdx"]

_MEDIA_TYPES: Final[dict[Format, str]] = {
    "sev-snp": "application/vnd.lucid.evidence.sev-snp+cbor",
    "tdx": "application/vnd.lucid.evidence.tdx+cbor",
}
_FORMATS: Final = {media_type: form for form, media_type in _MEDIA_TYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """What proves a quote: what came with it and what was missing.

    Attributes:
        certificates: see `Evidence`.
        unlisted: why no revocation list was added; empty: one was, or none is needed.
    """

    certificates: bytes
    unlisted: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a verifier needs, exactly as the platform gave it.

    Attributes:
        quote: SEV-SNP report or TDX quote.
        certificates: SEV-SNP: the host's certificate table, completed, perhaps with AMD's
            revocation list; TDX: the collateral. May be empty.
        claims_buffer: the exact bytes whose SHA-512 is the quote's report_data.
    """

    format: Format
    quote: bytes
    certificates: bytes
    claims_buffer: bytes

    def to_cmw(self) -> list[object]:
        """The CMW record, ready for `cbor.encode`."""
        value = cbor.encode({1: self.quote, 2: self.certificates, 3: self.claims_buffer})
        return [_MEDIA_TYPES[self.format], value, INDICATOR_EVIDENCE]

    @classmethod
    def from_cmw(cls, value: object) -> Evidence:
        """Read a CMW record strictly.

        Raises:
            MalformedError: `evidence.*` or `cbor.*`.
        """
        match value:
            case [str(media_type), bytes(data), int(indicator)] if indicator == INDICATOR_EVIDENCE:
                pass
            case _:
                raise MalformedError("evidence.cmw", "not a CMW record that holds evidence")
        form = _FORMATS.get(media_type)
        if form is None:
            raise MalformedError("evidence.type", "evidence of an unknown media type")
        parts = cbor.decode(data, max_size=MAX_SIZE, max_depth=2, deterministic=True)
        match parts:
            case {1: bytes(quote), 2: bytes(certificates), 3: bytes(buffer), **rest} if not rest:
                return cls(
                    format=form, quote=quote, certificates=certificates, claims_buffer=buffer
                )
        raise MalformedError("evidence.parts", "evidence has a quote, certificates and a buffer")
