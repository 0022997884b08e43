"""The real quotes, documents, lists and cases, read once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.tdx.endorsements import Endorsements

INTEL_ROOT_CERTIFICATE = "44a0196b2b99f889"


class TdxVectors:
    """Real things by the first 16 hex digits of their SHA-256."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tdx"
        self.cases: list[dict[str, Any]] = self._json("cases")
        self.quotes: list[dict[str, Any]] = self._json("quotes")
        self.endorsements = cache(self._endorsements)

    def _json(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.folder / f"{name}.json").read_text())
        return found

    def quote(self, name: str) -> bytes:
        return (self.folder / "quotes" / f"{name}.bin").read_bytes()

    def pem(self, *names: str) -> bytes:
        ders = [(self.folder / "certs" / f"{name}.der").read_bytes() for name in names]
        return b"".join(
            x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders
        )

    def files(self, case: dict[str, Any]) -> dict[str, bytes]:
        """The five files that belong to a case's quote."""
        assert case["signer"][0] == case["signer"][1]
        return {
            "tcb_info": self._document("tcb", case["tcb"]),
            "qe_identity": self._document("qe", case["qe"]),
            "signing_chain": self.pem(case["signer"][0], INTEL_ROOT_CERTIFICATE),
            "pck_crl": self._list(case["pckcrl"]),
            "root_crl": self._list(case["rootcrl"]),
        }

    def of(self, case: dict[str, Any]) -> Endorsements:
        """The same, read."""
        found: Endorsements = self.endorsements(
            case["tcb"], case["qe"], case["signer"][0], case["pckcrl"], case["rootcrl"]
        )
        return found

    def _endorsements(
        self, tcb: str, qe: str, signer: str, pckcrl: str, rootcrl: str
    ) -> Endorsements:
        case = {"tcb": tcb, "qe": qe, "signer": (signer, signer)}
        return read(self.files({**case, "pckcrl": pckcrl, "rootcrl": rootcrl}))

    def _document(self, kind: str, name: str) -> bytes:
        return (self.folder / "collateral" / f"{kind}_{name}.json").read_bytes()

    def _list(self, name: str) -> bytes:
        return (self.folder / "crls" / f"{name}.crl").read_bytes()


def read(files: dict[str, bytes]) -> Endorsements:
    """Endorsements of files as `TdxVectors.files` names them; those left out are missing."""
    chain = files.get("signing_chain")
    return Endorsements.of(
        tcb_info=files.get("tcb_info"),
        qe_identity=files.get("qe_identity"),
        signing_chains=[] if chain is None else [chain],
        pck_crl=files.get("pck_crl"),
        root_crl=files.get("root_crl"),
    )


def moment(case: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(case["time"], UTC)


@pytest.fixture(scope="session")
def tdx(vectors: Path) -> TdxVectors:
    return TdxVectors(vectors)
