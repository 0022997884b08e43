"""Test cases put to a bundle's engine, and what of the bundle they cover."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from enforcement.outcome import Verdict
from enforcement.policy.bundle import Bundle
from enforcement.policy.engine import Engine
from lucid.policy.cases import Case
from lucid.terminal import printable_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One case and how it went: no failures, it passed."""

    file: str
    line: int
    name: str
    outcome: str
    reasons: tuple[str, ...]
    failures: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "file": self.file,
            "line": self.line,
            "name": self.name,
            "passed": not self.failures,
            "outcome": self.outcome,
            "reasons": list(self.reasons),
            "failures": list(self.failures),
        }


def run_cases(bundle: Bundle, cases: Iterable[Case]) -> list[Result]:
    """Decide every case that expects something, and compare."""
    engine = Engine(bundle)
    results: list[Result] = []
    for case in cases:
        if case.expect is None:
            continue
        verdict = engine.decide(case.request)
        results.append(
            Result(
                file=case.file,
                line=case.line,
                name=case.name,
                outcome=verdict.outcome.value,
                reasons=verdict.reasons,
                failures=tuple(_differences(case, verdict)),
            )
        )
    return results


def obligations_of(verdict: Verdict) -> dict[str, Any]:
    """What a verdict obliges the door to do, in the words of the annotations."""
    found: dict[str, Any] = {}
    if verdict.redact:
        found["redact"] = sorted(verdict.redact)
    if verdict.redact_with:
        found["redact_with"] = {label: str(how) for label, how in verdict.redact_with.items()}
    if verdict.obliges.max_tokens is not None:
        found["max_tokens"] = verdict.obliges.max_tokens
    if verdict.obliges.rates:
        found["rate"] = sorted({str(rate) for rate in verdict.obliges.rates})
    if verdict.obliges.require_hardware:
        found["require_hardware"] = True
    return found


def coverage(bundle: Bundle, results: Iterable[Result]) -> dict[str, int]:
    """How many cases each policy decided, by its id."""
    counts = dict.fromkeys(bundle.policies, 0)
    for result in results:
        for reason in result.reasons:
            if reason in counts:
                counts[reason] += 1
    return counts


def junit(suite: str, results: Iterable[Result]) -> str:
    """The results as JUnit XML, the form that most CI systems read."""
    listed = list(results)
    failed = sum(bool(result.failures) for result in listed)
    root = ET.Element(
        "testsuite", name=suite, tests=str(len(listed)), failures=str(failed), errors="0"
    )
    for result in listed:
        case = ET.SubElement(
            root,
            "testcase",
            classname=result.file,
            name=result.name,
            file=result.file,
            line=str(result.line),
        )
        if result.failures:
            failure = ET.SubElement(case, "failure", message=printable_lines(result.failures[0]))
            failure.text = printable_lines("\n".join(result.failures))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _differences(case: Case, verdict: Verdict) -> list[str]:
    expect, found = case.expect, []
    assert expect is not None
    if verdict.outcome.value != expect.outcome:
        found.append(
            f"outcome: expected {expect.outcome}, got {verdict.outcome.value}"
            f" ({', '.join(verdict.reasons) or 'no reason'})"
        )
    if expect.reasons is not None and sorted(expect.reasons) != sorted(verdict.reasons):
        found.append(f"reasons: expected {_list(expect.reasons)}, got {_list(verdict.reasons)}")
    absent = [reason for reason in expect.includes or () if reason not in verdict.reasons]
    if absent:
        found.append(f"reasons: {_list(absent)} not among {_list(verdict.reasons)}")
    obligations = obligations_of(verdict)
    if expect.obligations is not None and _plain(expect.obligations) != _plain(obligations):
        found.append(f"obligations: expected {expect.obligations}, got {obligations}")
    return found


def _list(words: Iterable[str]) -> str:
    return "[" + ", ".join(sorted(words)) + "]"


def _plain(obligations: Mapping[str, Any]) -> dict[str, list[str]]:
    """One form for what may be written in several: `rate: 10/minute` and `rate: [10/minute]`."""
    found = {}
    for name, value in obligations.items():
        if isinstance(value, Mapping):
            found[name] = sorted(f"{key}={item}" for key, item in value.items())
        else:
            found[name] = sorted(map(str, value if isinstance(value, list | tuple) else [value]))
    return found
