"""`make audit` never calls clean what was not looked up."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from tests.processes import ROOT

_SPEC = importlib.util.spec_from_file_location("audit", ROOT / "deploy" / "audit.py")
assert _SPEC is not None
assert _SPEC.loader is not None
audit = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(audit)

FINE = {"name": "trio", "version": "1", "vulns": []}
SKIPPED = {"name": "cbor2", "version": "2", "skip_reason": "Dependency not found on PyPI"}
BAD = {"name": "h11", "version": "3", "vulns": [{"id": "CVE-1", "fix_versions": ["4"]}]}


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([FINE], 0, []),
        ([FINE, SKIPPED], 3, ["not checked: cbor2 2: Dependency not found on PyPI"]),
        ([FINE, BAD], 1, ["VULNERABLE: h11 3: CVE-1 (fixed in 4)"]),
        (
            [SKIPPED, BAD],
            1,
            [
                "not checked: cbor2 2: Dependency not found on PyPI",
                "VULNERABLE: h11 3: CVE-1 (fixed in 4)",
            ],
        ),
        ([], 3, ["not checked: the report names no packages"]),
        ([{"name": "trio", "version": "1"}], 3, ["not checked: trio 1: no answer"]),
    ],
)
def test_only_what_was_looked_up_is_clean(
    packages: list[dict[str, Any]], code: int, words: list[str]
) -> None:
    assert audit.verdict({"dependencies": packages}) == (code, words)


def test_a_service_that_does_not_answer_is_exit_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "audit", lambda service, _files: (3, [f"not checked: {service}"]))
    assert audit.main(["requirements/runtime.txt"]) == 3
    said = capsys.readouterr()
    assert "not checked: osv" in said.out
    assert "could not be checked" in said.err


def test_the_second_service_is_asked_where_the_first_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = {"pypi": (3, ["not checked: pypi"]), "osv": (0, [])}
    monkeypatch.setattr(audit, "audit", lambda service, _files: answers[service])
    assert audit.main([]) == 0
