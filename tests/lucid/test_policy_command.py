"""`lucid policy`: what operators type, what they get, and with which exit code."""

from __future__ import annotations

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

from enforcement.policy.bundle import Bundle
from enforcement.policy.bundle_signature import Trust, read_public_key
from lucid.cli import main
from lucid.policy.agent_client import AgentClient, Answer
from lucid.policy.cases import parse_cases
from lucid.policy.cli import COMMANDS
from tests.enforcement.bundles import CLAIMS, MANIFEST, PERMIT, write

EXAMPLES = Path(__file__).parents[2] / "examples" / "bundles"
SHIPPED = Path(__file__).parents[2] / "lucid" / "data" / "bundle"
INVOKE = 'principal, action == Lucid::Action::"invoke", resource'
FORBID_REQUEST = f'@phase("request") forbid ({INVOKE})'
ALL_AND_WARN = (
    '@id("all") forbid (principal, action, resource); @id("w") @decision("warn") '
    f"forbid ({INVOKE});"
)
CASES = """
defaults:
  claims: {pii_found: false, injection_risk: 0.1, tokens: 3}
cases:
  - name: proceeds
    expect: {outcome: proceed, reasons: [allow]}
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["policy", *(str(argument) for argument in arguments)])


def report(*arguments: str | Path, code: int) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def bundle(folder: Path, text: str = PERMIT, *, cases: str | None = CASES, **parts: str) -> Path:
    write(folder, text, **parts)
    if cases is not None:
        (folder / "tests").mkdir(exist_ok=True)
        (folder / "tests" / "cases.yaml").write_text(cases, encoding="utf-8")
    return folder


# -- examples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [*sorted(EXAMPLES.iterdir()), SHIPPED], ids=lambda p: p.name)
def test_every_example_is_sound_tested_covered_and_formatted(folder: Path) -> None:
    assert report("validate", folder, "--strict", code=0)["warnings"] == []
    found = report("test", folder, "--require-coverage", code=0)
    assert found["failed"] == 0
    assert found["coverage"]["uncovered"] == []
    assert report("format", folder, "--check", code=0)["changed"] == []


def test_the_documented_policies_are_all_there() -> None:
    names = {path.name for path in EXAMPLES.iterdir()}
    assert names == {
        "prompt-injection", "toxicity", "pii-redaction", "region", "roles", "production",
    }  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_its_exit_codes(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    if name != "shadow":
        assert "Exit codes:" in result.output
        assert "--json" in result.output


# -- validate -------------------------------------------------------------------------------------


def test_validate_names_every_problem_with_place_rule_and_cure(tmp_path: Path) -> None:
    folder = bundle(
        tmp_path,
        PERMIT + "\n"
        f'@id("float") forbid ({INVOKE}) when {{ context.claims.injection_risk > 0.7 }};\n'
        f'@id("name") forbid ({INVOKE}) when {{ context.claims.injection_rsk > 7000 }};\n'
        f'@id("has") forbid ({INVOKE}) when {{ context.claims.toxicity > 1 }};\n'
        '@id("space") forbid (principal, action == Action::"invoke", resource);\n'
        f'@id("odd") @redcat("email") forbid ({INVOKE});\n',
    )
    (folder / "policies" / "z.cedar").write_text("permit (")
    (folder / "notes.txt").touch()
    problems = report("validate", folder, code=1)["problems"]
    assert [(p["rule"], p["file"]) for p in problems] == [("file.unknown", "notes.txt")]
    (folder / "notes.txt").unlink()
    problems = report("validate", folder, code=1)["problems"]
    found = {(p["rule"], p["line"]) for p in problems}
    assert found >= {("float", 2), ("claim.unknown", 3), ("claim.unguarded", 4), ("syntax", 1)}
    assert found >= {("namespace", 5), ("annotation", 6)}
    assert all(p["column"] and p["message"] for p in problems)
    assert {p["fix"] for p in problems if p["rule"] == "float"} == {"write 7000"}
    text = run("validate", folder)
    assert "policies/main.cedar:2:" in text.stdout
    assert "error[float]" in text.stdout
    assert "fix: write 7000" in text.stdout


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("context.claims.injection_risk > 10000", "score is from 0 to 10000"),
        (
            "context.claims.injection_risk > 7000 && context.claims.injection_risk < 4000",
            "no value",
        ),
        (
            "4000 > context.claims.injection_risk && !(context.claims.injection_risk < 5000)",
            "no va",
        ),
        ("context.claims.pii_found && !context.claims.pii_found", "true and false"),
        ("false", "always false"),
        ('context.phase == "response"', "takes part in request"),
        ('context.claims.language == "a" && context.claims.language == "b"', "two different"),
        ("context.platform.simulated && context.platform.hardware_attested", "simulated"),
    ],
)
def test_validate_warns_of_what_can_never_apply(tmp_path: Path, condition: str, words: str) -> None:
    text = f'{PERMIT} @id("never") @phase("request") forbid ({INVOKE}) when {{ {condition} }};'
    folder = bundle(tmp_path, text)
    found = report("validate", folder, code=0)["warnings"]
    [never] = [w for w in found if w["rule"] == "never_applies"]
    assert words in never["message"]
    assert run("validate", folder, "--strict").exit_code == 1


@pytest.mark.parametrize(
    "condition",
    [
        "context.claims.injection_risk > 9999",
        "context.claims.injection_risk >= 7000 && context.claims.injection_risk <= 7000",
        "context.claims.tokens > 10000",
        "context.claims.pii_found || !context.claims.pii_found",
        'context.phase == "request"',
        "context.claims.tokens + 1 > 3",
        'context.claims.language != "a" && context.claims.language != "b"',
    ],
)
def test_validate_does_not_warn_of_what_may_apply(tmp_path: Path, condition: str) -> None:
    text = f'{PERMIT} @id("may") @phase("request") forbid ({INVOKE}) when {{ {condition} }};'
    found = report("validate", bundle(tmp_path, text), code=0)["warnings"]
    assert not [w for w in found if w["rule"] == "never_applies"]


@pytest.mark.parametrize(
    ("more", "ids"),
    [
        (ALL_AND_WARN, ["allow", "w"]),
        (f'@id("twice") permit ({INVOKE});', ["twice"]),
        (f'@id("bound") @max_tokens("5") permit ({INVOKE});', []),
        (f'@id("some") permit ({INVOKE}) when {{ context.claims.pii_found }};', ["some"]),
        (f'@id("one") @phase("request") forbid ({INVOKE});', []),
        ('@id("u") forbid (principal == Lucid::User::"u", action, resource);', []),
    ],
)  # fmt: skip
def test_validate_warns_of_policies_that_another_makes_useless(
    tmp_path: Path, more: str, ids: list[str]
) -> None:
    found = report("validate", bundle(tmp_path, PERMIT + more), code=0)["warnings"]
    shadowed = [w["message"].split()[0] for w in found if w["rule"] == "shadowed"]
    assert shadowed == ids


def test_validate_warns_of_a_phase_without_permit_and_of_missing_tests(tmp_path: Path) -> None:
    text = f'@id("a") @phase("request") permit ({INVOKE});'
    found = report("validate", bundle(tmp_path, text, cases=None), code=0)["warnings"]
    assert {"phase.no_permit", "tests.none"} <= {w["rule"] for w in found}


def test_validate_checks_the_test_files_too(tmp_path: Path) -> None:
    cases = "cases:\n  - name: x\n    claims: {nope: 1}\n    expect: {outcome: deny}\n"
    [problem] = report("validate", bundle(tmp_path, cases=cases), code=1)["problems"]
    assert (problem["file"], problem["line"], problem["rule"]) == ("tests/cases.yaml", 2, "test")


def test_a_directory_that_is_not_there_is_bad_usage(tmp_path: Path) -> None:
    for command in ("validate", "test", "push"):
        assert run(command, tmp_path / "absent").exit_code == 2


# -- test -----------------------------------------------------------------------------------------


def test_a_failing_case_says_what_was_expected_and_what_came(tmp_path: Path) -> None:
    cases = (
        CASES + "  - name: wrong\n    expect: {outcome: deny, reasons: [x], obligations: {a: 1}}\n"
    )
    folder = bundle(tmp_path / "b", cases=cases)
    found = report("test", folder, "--junit", tmp_path / "out.xml", code=1)
    assert (found["passed"], found["failed"]) == (1, 1)
    [failed] = [case for case in found["cases"] if not case["passed"]]
    assert failed["line"] == 7
    assert [failure.split(":")[0] for failure in failed["failures"]] == [
        "outcome",
        "reasons",
        "obligations",
    ]
    root = ET.parse(tmp_path / "out.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    text = run("test", folder)
    assert "FAIL tests/cases.yaml:7  wrong" in text.stdout
    assert "expected deny, got proceed (allow)" in text.stdout


def test_obligations_are_written_as_their_annotations(tmp_path: Path) -> None:
    text = f'@id("a") @max_tokens("512") @rate("10/minute") @require_hardware permit ({INVOKE});'
    expect = "{outcome: proceed, obligations: {max_tokens: 512, rate: 10/minute, %s}}"
    for last, code in (("require_hardware: true", 0), ("redact: [email]", 1)):
        cases = f"- name: x\n  expect: {expect % last}\n"
        assert run("test", bundle(tmp_path, text, cases=cases)).exit_code == code


def test_what_requires_hardware_is_denied_without_it_as_the_agent_denies_it(
    tmp_path: Path,
) -> None:
    text = f'@id("a") @require_hardware permit ({INVOKE});'
    cases = (
        "- name: simulated\n  platform: {simulated: true}\n"
        "  expect: {outcome: deny, reasons: [hardware_required], obligations: {}}\n"
    )
    folder = bundle(tmp_path / "a", text, cases=cases)
    assert run("test", folder).exit_code == 0
    found = report("explain", folder, "--case", folder / "tests/cases.yaml", code=0)
    assert found["cases"][0]["reasons"] == ["hardware_required"]
    without = bundle(tmp_path / "b", f'@id("a") permit ({INVOKE});')
    change = report("diff", without, folder, code=1)["changes"][0]
    assert (change["before"]["outcome"], change["after"]["outcome"]) == ("proceed", "deny")


def test_groups_of_a_token_count_in_a_case(tmp_path: Path) -> None:
    text = '@id("a") permit (principal in Lucid::Group::"staff", action, resource);'
    cases = (
        "- {name: x, principal: 'User::\"u\"', groups: [staff], expect: {outcome: proceed}}\n"
        "- {name: y, principal: 'User::\"u\"', expect: {outcome: deny}}\n"
    )
    assert run("test", bundle(tmp_path, text, cases=cases)).exit_code == 0


def test_coverage_names_the_policies_that_decided_nothing(tmp_path: Path) -> None:
    text = PERMIT + f'@id("idle") forbid ({INVOKE}) when {{ context.claims.pii_found }};'
    folder = bundle(tmp_path, text)
    found = report("test", folder, code=0)
    assert found["coverage"] == {"policies": {"allow": 1, "idle": 0}, "uncovered": ["idle"]}
    assert run("test", folder, "--require-coverage").exit_code == 1


def test_a_bundle_without_tests_was_not_checked(tmp_path: Path) -> None:
    assert run("test", bundle(tmp_path, cases=None)).exit_code == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- name: x\n  expect: {outcome: maybe}", "maybe"),
        ("- expect: {outcome: deny}", "name"),
        ("- name: x\n  expekt: {outcome: deny}", "expekt"),
        ("- name: x\n  phase: later", "later"),
        ("- name: x\n  principal: alice", "not an entity"),
        ("- name: x\n  claims: {injection_risk: 7000}", "0 to 1"),
        ("- name: x\n  claims: {injection_risk: high}", "not a number"),
        ("- name: x\n  claims: {language: no}", "not a string"),
        ("- name: x\n  claims: {grounded: true}", "not given in phase request"),
        ("- name: x\n  claims: {injection_rsk: 1}", "did you mean injection_risk"),
        ("- name: x\n  platform: {simulated: maybe}", "simulated"),
        ("- name: x\n  name: y", "stands twice"),
        ("- &a {name: x}\n- *a", "aliases"),
        ("a: [", "expected"),
        ("5", "a list of cases"),
        ("cases: 5", "must be a list"),
        ("case: []", "unknown key"),
        ("cases: []\ndefaults: {expect: 1}", "expect"),
        ("\x00", "not YAML"),
        ("? [a]\n: b", "no plain text"),
        ("- {name: x, ? {a: b} : 2}", "no plain text"),
        ("- name: !!bool foo", "not YAML"),
        ("- name: !!int ''", "not YAML"),
        ("- name: !!timestamp foo", "not YAML"),
        ("[" * 5000, "not YAML"),
    ],
)
def test_a_broken_test_file_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    folder = bundle(tmp_path, cases=text)
    found = report("test", folder, code=2)["problems"]
    assert any(words in problem["message"] for problem in found), found
    assert all(problem["line"] and problem["rule"] == "test" for problem in found)


def test_scores_are_written_as_auditors_give_them(tmp_path: Path) -> None:
    vocabulary = Bundle.load(write(tmp_path)).vocabulary
    text = (
        "- {name: x, claims: {injection_risk: 0.7, toxicity: -2.5, tokens: 7, pii_types: [b, a]}}"
    )
    [case], problems = parse_cases("t.yaml", text.encode(), vocabulary)
    assert not problems
    assert case.request.claims == {
        "injection_risk": 7000,
        "toxicity": -25_000,
        "tokens": 7,
        "pii_types": ("a", "b"),
    }


def test_cedars_own_test_files_run_as_they_are(vectors: Path) -> None:
    root = vectors / "cedar" / "cli-sample-data" / "tiny_sandboxes"
    ran = 0
    for path in sorted(root.rglob("tests-combined.json")):
        found = report("test", path.parent / "policy.cedar", "--cedar-tests", path, code=0)
        ran += found["passed"]
    assert ran == 28
    sample = root / "sample1"
    for name in ("tests-fail.json", "tests-missing-reason.json", "tests-unexpected-error.json"):
        assert run("test", sample / "policy.cedar", "--cedar-tests", sample / name).exit_code == 1
    for name in ("tests-format-error.json", "tests-format-error2.json"):
        assert run("test", sample / "policy.cedar", "--cedar-tests", sample / name).exit_code == 2


def test_a_bundle_may_hold_cedars_test_files(tmp_path: Path) -> None:
    folder = bundle(tmp_path, cases=None)
    (folder / "tests").mkdir()
    test = {
        "request": {
            "principal": 'Lucid::User::"a"',
            "action": 'Lucid::Action::"invoke"',
            "resource": 'Lucid::Agent::"b"',
            "context": {},
        },
        "entities": [],
        "decision": "allow",
        "reason": ["allow"],
        "num_errors": 0,
    }
    (folder / "tests" / "cedar.json").write_text(json.dumps([test]))
    assert report("test", folder, code=0)["coverage"]["policies"] == {"allow": 1}
    (folder / "tests" / "cedar.json").write_text(json.dumps([test | {"reason": ["policy0"]}]))
    assert run("test", folder).exit_code == 0
    (folder / "tests" / "cedar.json").write_text(json.dumps([test | {"decision": "deny"}]))
    assert run("test", folder).exit_code == 1


# -- explain --------------------------------------------------------------------------------------


def test_explain_takes_a_decision_apart_with_the_values_of_claims(tmp_path: Path) -> None:
    text = (
        PERMIT + f'@id("risk") {FORBID_REQUEST} when {{ context.claims.injection_risk > 500 && '
        "context.claims.tokens > 2 };"
        '@id("later") @phase("response") forbid (principal, action, resource);'
        '@id("other") forbid (principal == Lucid::User::"bob", action, resource);'
        '@id("overflow") forbid (principal, action, resource) '
        "when { context.claims.tokens * 9000000000000000000 > 1 };"
    )
    folder = bundle(tmp_path, text)
    [case] = report("explain", folder, "--case", folder / "tests" / "cases.yaml", code=0)["cases"]
    assert case["outcome"] == "deny"
    found = {entry["id"]: entry for entry in case["policies"]}
    assert found["risk"]["applies"]
    assert found["risk"]["decided"]
    assert found["risk"]["parts"][1] == {
        "text": "context.claims.injection_risk > 500",
        "holds": True,
        "claims": {"injection_risk": 1000},
    }
    assert found["later"]["why"] == "takes part only in phase response"
    assert found["other"]["why"] == 'does not apply: not principal == Lucid::User::"bob"'
    assert found["overflow"]["parts"][0]["holds"] is None
    assert "could not be evaluated" in found["overflow"]["why"]
    assert not found["allow"]["decided"]
    assert "overrides" in found["allow"]["why"]
    shown = run("explain", folder, "--case", folder / "tests" / "cases.yaml").stdout
    assert "context.claims.injection_risk > 500   where injection_risk = 1000" in shown


def test_explain_says_where_a_claim_is_absent(tmp_path: Path) -> None:
    text = PERMIT + (
        f'@id("t") forbid ({INVOKE}) when {{ context.claims has toxicity && '
        "context.claims.toxicity > 5 };"
    )
    folder = bundle(tmp_path, text)
    shown = run("explain", folder, "--case", folder / "tests" / "cases.yaml").stdout
    assert "toxicity = absent" in shown


def test_explain_needs_one_thing_to_explain(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    file = folder / "tests" / "cases.yaml"
    assert run("explain", folder).exit_code == 2
    assert run("explain", "--case", file).exit_code == 2
    assert run("explain", folder, "--case", file, "--decision", "dec-1").exit_code == 2
    assert run("explain", folder, "--case", file, "--name", "no such").exit_code == 2
    assert run("explain", "--decision", "dec-1", "--agent", tmp_path / "no.sock").exit_code == 3


# -- format ---------------------------------------------------------------------------------------


def test_format_keeps_meaning_and_comments_and_is_stable(tmp_path: Path) -> None:
    text = (
        "// a header\n\n// about it\n"
        '@id("a")   permit(principal,action,\nresource);// after\n// end\n'
    )
    folder = bundle(tmp_path, text)
    before = Bundle.load(folder).policies["a"].est
    assert run("format", folder, "--check").exit_code == 1
    assert run("format", folder, "--diff").exit_code == 1
    assert (folder / "policies" / "main.cedar").read_text() == text
    assert run("format", folder).exit_code == 0
    fresh = (folder / "policies" / "main.cedar").read_text()
    for comment in ("// a header\n\n", "// about it\n", "// after", "// end"):
        assert comment in fresh
    assert Bundle.load(folder).policies["a"].est == before
    assert run("format", folder, "--check").exit_code == 0


def test_format_leaves_a_file_that_does_not_parse(tmp_path: Path) -> None:
    folder = bundle(tmp_path, "permit (")
    assert run("format", folder).exit_code == 2
    assert (folder / "policies" / "main.cedar").read_text() == "permit ("


# -- keygen, sign ---------------------------------------------------------------------------------


def test_a_bundle_is_signed_with_a_made_key_and_checked_with_its_other_half(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b")
    private, public = tmp_path / "k.pem", tmp_path / "p.pem"
    kid = report("keygen", private, public, code=0)["kid"]
    assert private.stat().st_mode & 0o777 == 0o600
    assert run("keygen", private, public).exit_code == 2
    assert run("validate", folder, "--key", public).exit_code == 1
    assert report("sign", folder, "--key", private, code=0)["kid"] == kid
    assert run("validate", folder, "--key", public).exit_code == 0
    trust = Trust.of([read_public_key(public)], required=True)
    assert Bundle.load(folder, trust=trust).signer == bytes.fromhex(kid)
    (folder / "policies" / "main.cedar").write_text(PERMIT + "// changed")
    found = report("validate", folder, "--key", public, code=1)["problems"]
    assert [problem["rule"] for problem in found] == ["signature.digest"]
    assert run("sign", folder, "--key", public).exit_code == 2


# -- diff -----------------------------------------------------------------------------------------


def test_diff_shows_which_cases_would_change(tmp_path: Path) -> None:
    one = bundle(tmp_path / "one")
    two = bundle(
        tmp_path / "two",
        PERMIT + f'@id("risk") {FORBID_REQUEST} when {{ context.claims.injection_risk > 500 }};',
    )
    assert report("diff", one, one, code=0)["changes"] == []
    found = report("diff", one, two, code=1)
    assert found["policies"] == {"added": ["risk"], "removed": [], "changed": []}
    [change] = found["changes"]
    assert (change["before"]["outcome"], change["after"]["outcome"]) == ("proceed", "deny")
    assert "1 of 1 decisions change" in run("diff", one, two).stdout
    assert run("diff", one, tmp_path / "absent").exit_code == 2
    assert run("diff", one, "live", "--agent", tmp_path / "no.sock").exit_code == 3


# -- agents that are not there --------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["push", "{}"], ["history"], ["rollback"], ["shadow", "report"]]
)
def test_an_agent_that_does_not_answer_is_uncheckable(tmp_path: Path, arguments: list[str]) -> None:
    folder = bundle(tmp_path / "b")
    words = [word.format(folder) for word in arguments]
    result = run(*words, "--agent", tmp_path / "no.sock")
    assert result.exit_code == 3
    assert "no agent answers" in result.stderr


WAITING = {"name": "b", "version": "1", "digest": "ab" * 32, "in_force": False, "state": "waiting"}


@pytest.mark.parametrize(
    ("waits_for", "said", "not_said"),
    [
        (None, ["in force with the next passport"], ["reboot"]),
        (
            {"reboot": False, "code": "quote.busy", "reason": "it throttles", "next": "in 5 s"},
            ["NOT in force before there is a passport again", "why: it throttles", "next: in 5 s"],
            ["reboot", "next passport"],
        ),
        (
            {"reboot": True, "code": "x", "reason": "the key is dead", "next": "reboot the guest"},
            [
                "will not be before the agent's machine is rebooted",
                "why: the key is dead",
                "next: reboot the guest",
            ],
            ["next passport"],
        ),
    ],
)
def test_a_push_that_is_not_in_force_says_what_it_waits_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    waits_for: dict[str, Any] | None,
    said: list[str],
    not_said: list[str],
) -> None:
    answers = {
        "/v1/policy": Answer(202, {**WAITING, "passport": None, "waits_for": waits_for}),
        "/v1/policy/rollback": Answer(202, {**WAITING, "passport": None, "waits_for": waits_for}),
        "/v1/policy/history": Answer(200, {"entries": [], "waits_for": waits_for}),
    }
    monkeypatch.setattr(AgentClient, "ask", lambda _self, _method, path, _body=None: answers[path])
    folder = bundle(tmp_path / "b")
    for command in (("push", folder), ("rollback",)):
        result = run(*command)
        assert result.exit_code == 3
        assert all(words in result.output for words in said), result.output
        assert not any(words in result.output for words in not_said), result.output
    assert report("push", folder, code=3)["waits_for"] == waits_for
    history = run("history")
    assert history.exit_code == 0
    assert waits_for is None or all(words in history.output for words in said)


def test_push_stops_before_the_agent_where_tests_fail_or_are_absent(tmp_path: Path) -> None:
    failing = CASES.replace("outcome: proceed", "outcome: deny")
    nobody = ("--agent", str(tmp_path / "no.sock"))
    assert run("push", bundle(tmp_path / "a", cases=failing), *nobody).exit_code == 1
    without = bundle(tmp_path / "b", cases=None)
    result = run("push", without, *nobody)
    assert result.exit_code == 3
    assert "no tests" in result.stderr
    assert "no agent answers" in run("push", without, "--without-tests", *nobody).stderr
    shutil.rmtree(tmp_path / "a")
    assert run("push", bundle(tmp_path / "a", "permit ("), *nobody).exit_code == 2


def test_the_helpers_claims_are_the_vocabularys(tmp_path: Path) -> None:
    assert set(CLAIMS) == set(Bundle.load(write(tmp_path, manifest=MANIFEST)).vocabulary.names())


# -- what goes wrong, and how it is said ----------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["validate", "{absent}", "--json"], "does not exist"),
        (["validate", "{folder}", "--key", "{absent}", "--json"], "does not exist"),
        (["validate", "--json"], "Missing argument"),
        (["push", "{absent}", "--json"], "does not exist"),
        (["explain", "--json"], "one of --case FILE and --decision ID"),
        (["diff", "{folder}", "{folder}", "--decisions", "0", "--json"], "1<=x<=10000"),
        (["nothing", "--json"], "No such command"),
        (["sign", "{folder}", "--key", "{folder}/bundle.toml", "--json"], "not a private key"),
    ],
)
def test_bad_usage_is_json_where_json_is_asked_for(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    places = {"absent": str(tmp_path / "absent"), "folder": str(bundle(tmp_path / "b"))}
    result = run(*[word.format(**places) for word in arguments])
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert found["ok"] is False
    assert words in found["error"]


class Anything(BaseHTTPRequestHandler):
    """Answers every request with one body."""

    body = b"{}"
    status = 200

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("status", [200, 404, 500])
@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b"<html>", b"[" * 10_000, b'{"error": 1}'])
@pytest.mark.parametrize(
    "arguments",
    [
        ["push", "{folder}"],
        ["history"],
        ["rollback"],
        ["rollback", "ab"],
        ["shadow", "start", "{folder}"],
        ["shadow", "report"],
        ["explain", "--decision", "dec-1"],
        ["diff", "{folder}", "live"],
        ["diff", "{folder}", "{folder}", "--decisions", "5"],
    ],
)
def test_what_answers_unlike_an_agent_proves_nothing(
    tmp_path: Path, arguments: list[str], body: bytes, status: int
) -> None:
    folder = bundle(tmp_path / "b")
    handler = type("Handler", (Anything,), {"body": body, "status": status})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        words = [word.format(folder=folder) for word in arguments]
        url = f"http://127.0.0.1:{server.server_port}"
        result = run(*words, "--agent", url, "--json")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert result.exit_code in {1, 2, 3}, result.output
    assert json.loads(result.stdout)["ok"] is False
    if status == 200:
        assert result.exit_code == 3


def test_half_a_pair_of_keys_is_not_left(tmp_path: Path) -> None:
    (tmp_path / "p.pem").touch()
    result = run("keygen", tmp_path / "k.pem", tmp_path / "p.pem")
    assert result.exit_code == 2
    assert "p.pem is there already; name another file" in result.stderr
    assert not (tmp_path / "k.pem").exists()
    result = run("keygen", tmp_path / "no" / "k.pem", tmp_path / "q.pem")
    assert result.exit_code == 2
    assert "cannot be written: No such file" in result.stderr


def test_a_case_that_expects_nothing_is_not_counted_as_passed(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    (folder / "tests" / "more.yaml").write_text("- name: silent\n")
    found = report("test", folder, code=0)
    assert found["passed"] == 1
    assert found["without_expect"] == ["tests/more.yaml:1  silent"]
    assert "not checked, for it expects nothing: tests/more.yaml:1" in run("test", folder).stderr


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("- {name: a, expct: {outcome: deny}}", "did you mean expect?"),
        ("- {name: a, expect: {outcom: deny}}", "did you mean outcome?"),
        ("- {name: a, platform: {simulatd: true}}", "did you mean simulated?"),
        ("defaults: {claim: {}}\ncases: []", "did you mean claims?"),
    ],
)
def test_a_misspelt_key_of_a_case_names_the_nearest(tmp_path: Path, text: str, fix: str) -> None:
    folder = bundle(tmp_path)
    (folder / "tests" / "more.yaml").write_text(text)
    [problem] = report("validate", folder, code=1)["problems"]
    assert problem["fix"] == fix, problem


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b")
    result = run("test", folder, "--junit", tmp_path / "no" / "x.xml")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    (tmp_path / "bad.cedar").write_bytes(b"\xff")
    result = run("test", tmp_path / "bad.cedar")
    assert result.exit_code == 2
    assert "not UTF-8 at byte 0" in result.stderr
