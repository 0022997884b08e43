"""The one table of TEE names: what each outside spelling means, and what people are shown."""

from __future__ import annotations

from enum import StrEnum


class TeeType(StrEnum):
    """The internal names."""

    SEV_SNP = "sev-snp"
    TDX = "tdx"
    SIMULATED = "simulated"

    @property
    def display(self) -> str:
        """The name shown to people."""
        return _DISPLAY[self]


_DISPLAY = {
    TeeType.SEV_SNP: "AMD SEV-SNP",
    TeeType.TDX: "Intel TDX",
    TeeType.SIMULATED: "Simulated TEE",
}

# Spellings seen in the kernel (`provider`), in published schemas and in cloud APIs.
_SPELLINGS = {
    "sev-snp": TeeType.SEV_SNP,
    "sev_snp": TeeType.SEV_SNP,
    "snp": TeeType.SEV_SNP,
    "sev_guest": TeeType.SEV_SNP,
    "amd_sev": TeeType.SEV_SNP,
    "amd_sev_snp": TeeType.SEV_SNP,
    "amd sev-snp": TeeType.SEV_SNP,
    "tdx": TeeType.TDX,
    "tdx_guest": TeeType.TDX,
    "intel_tdx": TeeType.TDX,
    "intel tdx": TeeType.TDX,
    "simulated": TeeType.SIMULATED,
    "mock": TeeType.SIMULATED,
    "simulated tee": TeeType.SIMULATED,
}


def tee_from_spelling(text: str) -> TeeType:
    """The TEE that an outside spelling means.

    Raises:
        ValueError: the spelling is not in the table; an unknown TEE is never guessed.
    """
    try:
        return _SPELLINGS[text.strip().lower()]
    except KeyError:
        known = ", ".join(sorted(_SPELLINGS))
        raise ValueError(f"unknown TEE {text!r}; known spellings: {known}") from None
