"""The real reports, certificates and cases, read once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


class SnpVectors:
    """Reports and certificates of real hardware by the first 16 hex digits of their SHA-256."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "snp"
        self.reports: list[dict[str, Any]] = self._json("reports")
        self.cases: list[dict[str, Any]] = self._json("cases")
        self.certs: list[dict[str, Any]] = self._json("certs")

    def _json(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.folder / f"{name}.json").read_text())
        return found

    def report(self, name: str) -> bytes:
        return (self.folder / "reports" / f"{name}.bin").read_bytes()

    def cert(self, name: str) -> bytes:
        return (self.folder / "certs" / f"{name}.der").read_bytes()

    def certificates(self, case: dict[str, Any]) -> dict[str, bytes]:
        """ark, ica and ek of a case, for `Chain.parse`."""
        return {
            "ark": self.cert(case["ark"][0]),
            "ica": self.cert(case["ica"][0]),
            "ek": self.cert(case["ek"]),
        }

    def case(self, report: str) -> dict[str, Any]:
        return next(case for case in self.cases if case["report"] == report)


@pytest.fixture(scope="session")
def snp(vectors: Path) -> SnpVectors:
    return SnpVectors(vectors)
