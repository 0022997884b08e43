"""The example auditor that wraps Presidio, in its own environment (`make test-auditors`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from enforcement.detectors import Span
from enforcement.policy.vocabulary import ClaimType
from tests.auditors.examples import running, vocabulary
from tests.enforcement.auditors.peers import FakeBundle

pytestmark = pytest.mark.auditors

PYTHON = Path(__file__).resolve().parents[2] / ".venv-auditors" / "bin" / "python"
BUNDLE = FakeBundle(
    vocabulary(pii_found=ClaimType.BOOL, pii_types=ClaimType.STRING_LIST),
    {"example": frozenset({"email", "card", "iban", "national_id", "passport", "phone"})},
)


async def test_the_agent_asks_it_and_knows_where_to_mask(tmp_path: Path) -> None:
    if not PYTHON.exists():
        pytest.skip("there is no .venv-auditors: run make test-auditors")
    async with running("pii", BUNDLE, tmp_path / "s", python=str(PYTHON)) as example:
        audit = await example.ask("mail bob@example.org", "IBAN DE89370400440532013000.")
        assert audit.claims == {"pii_found": True, "pii_types": ("email", "iban")}
        assert audit.spans == ((Span(5, 20, "email"),), (Span(5, 27, "iban"),))
        assert "presidio-analyzer" in audit.status["example"]
        audit = await example.ask("codice fiscale RSSMRA85T10A562S")
        assert audit.claims["pii_types"] == ("national_id",)
        audit = await example.ask("x", output=("nothing here, 12 apples",))
        assert audit.claims == {"pii_found": False, "pii_types": ()}
        assert not any(audit.spans)


async def test_it_can_be_told_what_to_look_for(tmp_path: Path) -> None:
    if not PYTHON.exists():
        pytest.skip("there is no .venv-auditors: run make test-auditors")
    config = b'{"labels":["iban"],"threshold":0.5}'
    async with running("pii", BUNDLE, tmp_path / "s", python=str(PYTHON), config=config) as example:
        audit = await example.ask("mail bob@example.org")
        assert audit.claims == {"pii_found": False, "pii_types": ()}
