"""What may be a bundle, and what is said about what may not: every problem, with its place."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcement.detectors import DETECTORS
from enforcement.outcome import Outcome, Phase
from enforcement.policy import bundle_files
from enforcement.policy import problems as problems_module
from enforcement.policy.bundle import Bundle, BundleError, Problem
from enforcement.policy.bundle_files import bundle_digest
from enforcement.policy.cedar_text import Places, statements
from enforcement.policy.policy_source import parse_policies
from enforcement.policy.problems import MAX_MESSAGE
from enforcement.policy.vocabulary import Merge
from tests.enforcement.bundles import MANIFEST, PERMIT, problems, write

HEAD = 'name = "test"\nversion = "1"\n'
FORBID = '@id("f")\nforbid (principal, action, resource)\nwhen {{ {} }};\n'


def only(folder: Path) -> Problem:
    """The one problem of a bundle."""
    found = problems(folder)
    assert len(found) == 1, found
    return found[0]


def test_a_bundle_has_what_its_files_say(tmp_path: Path) -> None:
    manifest = MANIFEST + '[stream]\nmode = "buffer"\nhold_back = 300\n[detectors]\nphone = false\n'
    policies = {
        "a": PERMIT,
        "b": '@id("w") @decision("warn") @description("why") @phase("response")\n'
        'forbid (principal, action == Lucid::Action::"invoke", resource)\n'
        "when { context.claims.grounded };",
    }
    bundle = Bundle.load(write(tmp_path, policies, manifest=manifest))
    assert (bundle.name, bundle.version) == ("test", "1")
    assert (bundle.stream.mode, bundle.stream.hold_back) == ("buffer", 300)
    assert bundle.detectors == DETECTORS - {"phone"}
    assert list(bundle.policies) == ["allow", "w"]
    policy = bundle.policies["w"]
    assert (policy.outcome, policy.description) == (Outcome.WARN, "why")
    assert (policy.file, policy.line, policy.column) == ("policies/b.cedar", 1, 1)
    assert policy.phases == {Phase.RESPONSE}
    assert policy.actions == frozenset({"invoke"})
    assert policy.reads.claims == {"grounded"}
    assert bundle.policies["allow"].actions is None
    assert bundle.entities == "[]"


def test_the_defaults_are_a_window_of_256_and_all_detectors(tmp_path: Path) -> None:
    bundle = Bundle.load(write(tmp_path, manifest=HEAD))
    assert (bundle.stream.mode, bundle.stream.hold_back) == ("window", 256)
    assert bundle.detectors == DETECTORS


# --- the digest ---------------------------------------------------------------------------------


def test_the_digest_is_what_coreutils_compute(tmp_path: Path) -> None:
    folder = write(tmp_path, {"b": PERMIT, "a": "// empty\n"}, entities="[]")
    (folder / "tests").mkdir()
    (folder / "tests" / "one.yaml").write_text("[]")
    (folder / "README.md").write_text("hello")
    command = "find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    shell = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, check=True, timeout=120
    )
    assert Bundle.load(folder).digest.hex() == shell.stdout.split()[0].decode()


def test_the_digest_of_known_files_is_fixed() -> None:
    files = {"bundle.toml": b"x", "policies/a.cedar": b""}
    lines = (
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881  bundle.toml\n"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  policies/a.cedar\n"
    )
    assert bundle_digest(files) == hashlib.sha256(lines.encode()).digest()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bundle.toml", MANIFEST + "# comment"),
        ("policies/main.cedar", PERMIT + " "),
        ("policies/other.cedar", "// nothing"),
        ("entities.json", "[]"),
        ("tests/a.yaml", "[]"),
        ("README.md", "words"),
    ],
)
def test_every_file_is_under_the_digest(tmp_path: Path, name: str, content: str) -> None:
    folder = write(tmp_path)
    before = Bundle.load(folder).digest
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    assert Bundle.load(folder).digest != before


# --- the files ----------------------------------------------------------------------------------


def test_a_missing_folder_is_a_problem(tmp_path: Path) -> None:
    assert "No such file" in only(tmp_path / "nowhere").message


def test_a_file_is_not_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert problems(tmp_path / "file")


def test_an_empty_folder_misses_both_of_its_parts(tmp_path: Path) -> None:
    assert [problem.file for problem in problems(tmp_path)] == ["bundle.toml", "policies"]


@pytest.mark.parametrize(
    "name",
    [
        ".hidden",
        "policies/.main.cedar.swp",
        "policies/main.cedar~",
        "policies/main.txt",
        "policies/ümlaut.cedar",
        "policies/sub/deep.cedar",
        "tests/run.sh",
        "entities.yaml",
        "Bundle.toml",
        "policies/a b.cedar",
        "policies/new\nline.cedar",
    ],
)
def test_a_file_that_does_not_belong_is_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("permit (principal, action, resource);")
    assert only(folder).file == (name.rpartition("/")[0] if "/sub/" in name else name)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    with open(os.fsencode(folder) + b"/\xff.cedar", "wb"):  # noqa: PTH123  # a name of bytes
        pass
    assert "does not belong" in only(folder).message
    str(BundleError([only(folder)])).encode()


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "bundle")
    outside = tmp_path / "outside.cedar"
    outside.write_text(PERMIT)
    (folder / "policies" / "link.cedar").symlink_to(outside)
    assert "symbolic link" in only(folder).message


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "bundle")
    shutil.move(folder / "policies", tmp_path / "elsewhere")
    (folder / "policies").symlink_to(tmp_path / "elsewhere")
    assert {problem.file for problem in problems(folder)} >= {"policies"}


def test_the_bundle_itself_may_be_linked_to(tmp_path: Path) -> None:
    write(tmp_path / "v1")
    (tmp_path / "current").symlink_to(tmp_path / "v1")
    assert Bundle.load(tmp_path / "current").digest == Bundle.load(tmp_path / "v1").digest


def test_special_files_are_refused_without_waiting(tmp_path: Path) -> None:
    folder = write(tmp_path)
    os.mkfifo(folder / "policies" / "pipe.cedar")
    assert "not a regular file" in only(folder).message


def test_sizes_and_counts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, {"a": PERMIT, "b": "// " + "x" * 2000}, entities="[]")
    limits = bundle_files.BundleLimits(file_bytes=1900)
    monkeypatch.setattr(bundle_files, "LIMITS", limits)
    assert "larger than 1900 bytes" in only(folder).message
    monkeypatch.setattr(bundle_files, "LIMITS", bundle_files.BundleLimits(total_bytes=2000))
    assert "altogether" in only(folder).message
    monkeypatch.setattr(bundle_files, "LIMITS", bundle_files.BundleLimits(files=2))
    assert "more than 2 files" in only(folder).message


# --- bundle.toml --------------------------------------------------------------------------------

CLAIM = '[claims.x]\ntype = "bool"\nsource = "auditor:a"\n'


@pytest.mark.parametrize(
    ("manifest", "line", "words"),
    [
        ("name = 'a'\nversion = 1\n", 2, "`version`: must be text in quotes, not a whole number"),
        ("version = '1'\n", 0, "`name` is missing"),
        ("name = 'a'\n", 0, "`version` is missing"),
        ("name = 'a b'\nversion = '1'\n", 1, "`name`"),
        (HEAD + "nam = 1\n", 3, "did you mean name?"),
        (HEAD + "[streams]\n", 3, "unknown key `streams`"),
        (HEAD + "[stream]\nmod = 'window'\n", 4, "did you mean mode?"),
        (HEAD + "[stream]\nmode = 'windows'\n", 4, "`stream.mode`"),
        (HEAD + "[stream]\nhold_back = 0\n", 4, "`stream.hold_back`"),
        (HEAD + "[stream]\nhold_back = 70000\n", 4, "`stream.hold_back`"),
        (HEAD + "[stream]\nhold_back = 255\n", 4, "write 256 or more"),
        (HEAD + "[stream]\nhold_back = true\n", 4, "`stream.hold_back`"),
        (HEAD + "stream = 3\n", 3, "must be a table"),
        (HEAD + "[detectors]\nemails = true\n", 4, "did you mean email?"),
        (HEAD + "[detectors]\nemail = 'no'\n", 4, "must be true or false"),
        (HEAD + "detectors = []\n", 3, "must be a table"),
        (HEAD + "claims = 1\n", 3, "must be a table"),
        (HEAD + "[claims]\nx = 1\n", 4, "must be a table"),
        (HEAD + CLAIM + "kind = 1\n", 6, "unknown key `claims.x.kind`"),
        (HEAD + CLAIM.replace("bool", "boolean"), 4, "`claims.x.type`"),
        (HEAD + "[claims.x]\nsource = 'auditor:a'\n", 3, "`claims.x.type` is missing"),
        (HEAD + "[claims.x]\ntype = 'bool'\n", 3, "`claims.x.source` is missing"),
        (HEAD + CLAIM + "phases = []\n", 6, "`claims.x.phases`"),
        (HEAD + CLAIM + "phases = ['reply']\n", 6, "`claims.x.phases`"),
        (HEAD + CLAIM + "optional = 1\n", 6, "`claims.x.optional`"),
        (HEAD + CLAIM.replace(".x", ".X"), 3, "not a claim name"),
        (HEAD + CLAIM.replace(".x", ".has"), 3, "reserved"),
        (HEAD + CLAIM.replace(".x", '."a.b"'), 3, "not a claim name"),
        (HEAD + CLAIM.replace(".x", ".__entity"), 3, "reserved"),
        (HEAD + CLAIM.replace("auditor:a", "auditor:"), 5, "unknown source"),
        (HEAD + CLAIM.replace("auditor:a", "builtin"), 5, "no built-in detector gives `x`"),
        (HEAD + CLAIM.replace("auditor:a", "http://x"), 5, "unknown source"),
        (HEAD + CLAIM.replace(".x", ".pii_found"), 5, "name `builtin` beside"),
        (HEAD + "[claims.pii_types]\ntype='bool'\nsource='builtin'\n", 5, "is a string_list"),
        (HEAD + "name = 'twice'\n", 3, "Cannot overwrite"),
        (HEAD + "x = [\n", 3, "Invalid value"),
    ],
)
def test_a_wrong_bundle_toml_is_refused_with_its_line(
    tmp_path: Path, manifest: str, line: int, words: str
) -> None:
    problem = only(write(tmp_path, manifest=manifest))
    assert problem.file == "bundle.toml"
    assert problem.line == line
    assert words in str(problem)


def test_bundle_toml_must_be_utf8(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "bundle.toml").write_bytes(b'name = "\xff"\n')
    assert "not UTF-8 at byte 8" in only(folder).message


def test_too_many_claims_are_refused(tmp_path: Path) -> None:
    claims = "".join(CLAIM.replace(".x", f".x{number}") for number in range(257))
    assert "more than 256 claims" in only(write(tmp_path, manifest=HEAD + claims)).message


def test_a_short_window_is_fine_where_nothing_long_is_looked_for(tmp_path: Path) -> None:
    manifest = (
        HEAD + "[stream]\nhold_back = 96\n[detectors]\nemail = false\napi_key = false\n" + CLAIM
    )
    assert Bundle.load(write(tmp_path, manifest=manifest)).stream.hold_back == 96
    observe = HEAD + "[stream]\nmode = 'observe'\nhold_back = 1\n"
    assert Bundle.load(write(tmp_path, manifest=observe)).stream.mode == "observe"


# --- policies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("literal", "write_instead"),
    [
        ("0.7", "7000"),
        ("0.5", "5000"),
        (".25", "2500"),
        ("1.0", "10000"),
        ("12.34567", "123457"),
        ("0.00001", "0"),
        ("100.0", "1000000"),
    ],
)
def test_a_float_literal_is_named_with_the_number_to_write(
    tmp_path: Path, literal: str, write_instead: str
) -> None:
    text = (
        PERMIT
        + "\n"
        + FORBID.format(f"context.claims.injection_risk > {literal}").replace(
            "forbid", '@phase("request") forbid'
        )
    )
    problem = only(write(tmp_path, text))
    assert (problem.file, problem.line, problem.column) == ("policies/main.cedar", 4, 40)
    assert f"float literal {literal}:" in problem.message
    assert problem.fix == f"write {write_instead}"
    assert f"policies/main.cedar:4:40: float literal {literal}" in str(problem)


def test_every_float_literal_is_named(tmp_path: Path) -> None:
    text = PERMIT + FORBID.format("context.claims.tokens > 0.1 || context.claims.tokens < -2.5")
    found = problems(write(tmp_path, text))
    assert [problem.fix for problem in found] == ["write 1000", "write 25000"]


def test_a_dotted_number_in_text_or_a_comment_is_no_float(tmp_path: Path) -> None:
    text = PERMIT + FORBID.format('context.claims.language == "0.7" // 0.7 \n')
    assert not problems(write(tmp_path, text))


@pytest.mark.parametrize(
    ("policy", "line", "column", "words"),
    [
        ("forbid (principal, action, resource)\nwhen { context.x >> 1 };", 2, 19, "token `>`"),
        ("forbid (principal, action, resource)\nwhen { };", 2, 1, "cannot be empty"),
        ("forbid (principal, action resource);", 1, 27, "resource"),
        ("forbid (principal, action, resource)\n  when { true }\n", 2, 15, "end of input"),
        ("forbid principal;", 1, 8, "principal"),
        ("allow (principal, action, resource);", 1, 1, "allow"),
        ("forbid (principal, action, resource) when { foo(1) };", 1, 45, "foo"),
        ("forbid (principal, action, resource)\nwhen { principle.x };", 2, 18, "principle"),
        ('forbid (principal, action, resource)\nwhen { "a" == "b };', 2, 15, "invalid token"),
        ('@id("a") @id("b") forbid (principal, action, resource);', 1, 1, "duplicate annotation"),
        ("forbid (principal, action, resource) when { 'x' };", 1, 45, "invalid token"),
        (
            "forbid (principal, action, resource)\nwhen { 1 == 99999999999999999999 };",
            2,
            13,
            "number too large",
        ),
        ("é", 1, 1, "invalid token"),
        ("permit (principal, action, resource); }", 1, 39, "token `}`"),
    ],
)
def test_a_broken_policy_is_named_with_line_and_column(
    policy: str, line: int, column: int, words: str
) -> None:
    _, found = parse_policies("p.cedar", policy)
    assert len(found) == 1, found
    assert words in found[0].message
    assert (found[0].line, found[0].column) == (line, column)


def test_places_count_characters_and_all_line_ends() -> None:
    text = 'a\r\nb\rc\n"ü𝄞"x'
    places = Places(text)
    assert [places.at(text.index(c)) for c in "abcx"] == [(1, 1), (2, 1), (3, 1), (4, 5)]


def test_all_broken_policies_of_all_files_are_named_at_once(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "a": 'permit (principal action, resource);\n@id("x") forbid principal;\n' + PERMIT,
            "b": FORBID.format("context.claims.nope").replace('"f"', '"g"')
            + FORBID.format("context.claims.tokens > 0.7"),
            "c": "permit (principal, action, resource);",
            "d": FORBID.format("context.claims.pii_found > 3"),
        },
        manifest=MANIFEST + "surplus = 1\n",
        entities="[{]",
    )
    found = problems(folder)
    places = [(problem.file, problem.line) for problem in found]
    assert places == [
        ("bundle.toml", MANIFEST.count("\n") + 1),
        ("entities.json", 1),
        ("policies/a.cedar", 1),
        ("policies/a.cedar", 2),
        ("policies/b.cedar", 3),
        ("policies/b.cedar", 6),
        ("policies/c.cedar", 1),
        ("policies/d.cedar", 1),
    ]
    text = str(BundleError(found))
    assert text.count("\n") == len(found) - 1


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ("", 'put @id("a-short-name")'),
        ("@id", 'put @id("a-short-name")'),
        ('@id("")', 'put @id("a-short-name")'),
        ('@id("a b")', "cannot be a policy's id"),
        ('@id("claim_missing:x")', "cannot be a policy's id"),
        ('@id("default_deny")', "cannot be a policy's id"),
        ('@id("hardware_required")', "cannot be a policy's id"),
        ('@id("redaction_incomplete")', "cannot be a policy's id"),
        ('@id("-a")', "cannot be a policy's id"),
        (f'@id("{"x" * 129}")', "cannot be a policy's id"),
        ('@id("f") @decison("warn")', "did you mean decision?"),
        ('@id("f") @Decision("warn")', "did you mean decision?"),
        ('@id("f") @advice("x")', "unknown annotation @advice"),
        ('@id("f") @decision("allow")', 'unknown @decision("allow")'),
        ('@id("f") @decision("Warn")', "did you mean warn?"),
        ('@id("f") @decision', 'unknown @decision("")'),
        ('@id("f") @decision("redact")', "does not say what to mask"),
        ('@id("f") @decision("redact") @redact("")', "does not say what to mask"),
        ('@id("f") @decision("redact") @redact("emial")', "did you mean email?"),
        ('@id("f") @decision("redact") @redact("email,,card")', "an empty label"),
        ('@id("f") @decision("redact") @redact("EMAIL")', "which no detector"),
        ('@id("f") @redact("email")', "@redact without effect"),
        ('@id("f") @decision("warn") @redact("email")', "@redact without effect"),
        ('@id("f") @redact_with("hash")', "@redact_with without effect"),
        ('@id("f") @decision("warn") @redact_with("drop")', "@redact_with without effect"),
        (
            '@id("f") @decision("redact") @redact("email") @redact_with("hsah")',
            "did you mean hash?",
        ),
        (
            '@id("f") @decision("redact") @redact("email") @redact_with("")',
            'unknown @redact_with("")',
        ),
        ('@id("f") @phase("reply")', 'unknown @phase("reply")'),
        ('@id("f") @phase("")', "names no phase"),
        ('@id("f") @phase("request,")', 'unknown @phase("")'),
        (f'@id("f") @description("{"x" * 1025}")', "longer than 1024"),
    ],
)
def test_an_annotation_that_is_not_understood_is_refused(
    tmp_path: Path, annotations: str, words: str
) -> None:
    text = f"{PERMIT}\n{annotations}\nforbid (principal, action, resource);"
    problem = only(write(tmp_path, text))
    assert problem.file == "policies/main.cedar"
    assert problem.line in {2, 3}
    assert words in str(problem)


def test_decisions_are_for_forbids_only(tmp_path: Path) -> None:
    text = '@id("p")\n@decision("warn") permit (principal, action, resource);'
    problem = only(write(tmp_path, text))
    assert "only a forbid" in problem.fix
    assert (problem.line, problem.column) == (2, 2)


def test_a_label_whose_detector_is_off_cannot_be_redacted(tmp_path: Path) -> None:
    text = (
        PERMIT
        + '@id("f") @decision("redact") @redact("email,card") '
        + FORBID.format("context.claims.pii_found").replace('@id("f")', "")
    )
    manifest = MANIFEST + "[detectors]\nemail = false\n"
    problem = only(write(tmp_path, text, manifest=manifest))
    assert (
        "@redact names email, which no detector or auditor of this bundle can find"
        in problem.message
    )


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("context.claims.pii_fond", "did you mean pii_found?"),
        ("context.claims.toxicity > 1", "context.claims has <name>"),
        ("context.claims.tokens", "expected Bool but saw Long"),
        ("context.claims.injection_risk > 7000", 'add @phase("request")'),
        ("context.claims.grounded", 'add @phase("response")'),
        ('context["claims"]["grounded"]', 'add @phase("response")'),
        ("context.claims has grounded", 'add @phase("response")'),
        ("context.claims.language > 3", "expected Long but saw String"),
        ("context.nope == 1", "nope"),
        ('principal.email == "x"', "optional attribute"),
        ("resource.owner == principal", "owner"),
        ('principal in Group::"x"', "Group"),
        ('principal == Lucid::Usr::"x"', "Usr"),
    ],
)
def test_a_policy_that_does_not_validate_is_refused_with_its_place(
    tmp_path: Path, condition: str, words: str
) -> None:
    found = problems(write(tmp_path, f"{PERMIT}\n{FORBID.format(condition)}"))
    assert found
    assert all(problem.file == "policies/main.cedar" for problem in found)
    assert all(2 <= problem.line <= 4 for problem in found)
    assert any(words in str(problem) for problem in found), found


def test_the_place_of_a_validation_error_is_what_it_speaks_of(tmp_path: Path) -> None:
    problem = only(write(tmp_path, f"{PERMIT}\n{FORBID.format('context.claims.nope')}"))
    assert (problem.line, problem.column) == (4, 23)


@pytest.mark.parametrize(
    ("condition", "rule", "words"),
    [
        ("context.claims has injektion_risk", "claim.unknown", "did you mean injection_risk?"),
        (
            "context.claims has injektion_risk && context.claims.injektion_risk > 7000",
            "claim.unknown",
            "injektion_risk",
        ),
        ("context has claims.injektion_risk", "claim.unknown", "injektion_risk"),
        ("!(context.claims has pii_fond)", "claim.unknown", "did you mean pii_found?"),
        ("false && context.claims.nope", "claim.unknown", "nope"),
        ("if context.claims has pii_found then true else context.claims.nope > 1", "", "nope"),
        ("context has clams", "context.unknown", "did you mean claims?"),
        ("context has clams && context.clams.tokens > 3", "context.unknown", "clams"),
        ("context has platfrom.simulated", "context.unknown", "platfrom"),
        ("context.platform has simulatd", "context.unknown", "did you mean platform.simulated?"),
        ("context has platform.tee", "context.unknown", "platform.tee"),
        ("true || context.phase.x == 1", "context.unknown", "phase.x"),
        ("principal has emial", "attribute.unknown", "did you mean email?"),
        ("!(resource has pii_authorised)", "attribute.unknown", "did you mean pii_authorized?"),
        ("action has name", "attribute.unknown", "name"),
        # known, and yet nobody who could be meant has it
        ("principal has allowed_region", "attribute.unknown", "did you mean allowed_regions?"),
        ("resource has email", "attribute.unknown", "email"),
        ("resource has purpose", "attribute.unknown", "purpose"),
        ('Lucid::User::"u" has purpose', "attribute.unknown", "purpose"),
        ('Lucid::Group::"g" has name', "attribute.unknown", "name"),
        ('principal.hasTag("x")', "attribute.unknown", "hasTag"),
        ('resource.hasTag("x") && true', "attribute.unknown", "hasTag"),
    ],
)
def test_a_name_that_nothing_has_is_refused_even_where_cedar_would_call_it_false(
    tmp_path: Path, condition: str, rule: str, words: str
) -> None:
    """`has` of a name that the schema does not know is false for Cedar's validator, which then does
    not look at what stands behind it: a misspelt forbid would be valid and never apply."""
    found = problems(write(tmp_path, f"{PERMIT}\n{FORBID.format(condition)}"))
    assert found
    assert all(problem.file == "policies/main.cedar" and problem.line == 4 for problem in found)
    assert any(words in str(problem) for problem in found), found
    assert not rule or {problem.rule for problem in found} == {rule}


@pytest.mark.parametrize(
    ("scope", "attribute", "sound"),
    [
        ("principal is Lucid::User", "email", True),
        ("principal is Lucid::User", "purpose", False),
        ('principal is Lucid::User in Lucid::Group::"g"', "purpose", False),
        ("principal is Lucid::APIKey", "purpose", True),
        ('principal == Lucid::Agent::"a"', "purpose", False),
        ('principal in Lucid::Organization::"o"', "purpose", True),
        ("principal", "purpose", True),
    ],
)
def test_an_attribute_must_be_one_of_whoever_the_scope_leaves(
    tmp_path: Path, scope: str, attribute: str, *, sound: bool
) -> None:
    text = f'@id("x") forbid ({scope}, action, resource) when {{ principal has {attribute} }};'
    assert [problem.rule for problem in problems(write(tmp_path, PERMIT + text))] == (
        [] if sound else ["attribute.unknown"]
    )


def test_names_that_exist_may_be_asked_for(tmp_path: Path) -> None:
    condition = (
        "context.claims has toxicity && context has trace_id && context has claims.toxicity && "
        "context.platform has simulated && context has platform.tee_type && "
        "(principal has email || principal has purpose || resource has name)"
    )
    assert not problems(write(tmp_path, f"{PERMIT}\n{FORBID.format(condition)}"))


@pytest.mark.parametrize(
    "hidden",
    [
        "\N{RIGHT-TO-LEFT OVERRIDE}",
        "\N{POP DIRECTIONAL ISOLATE}",
        "\N{ZERO WIDTH SPACE}",
        "\N{SOFT HYPHEN}",
        "\N{ZERO WIDTH NO-BREAK SPACE}",
        "\x00",
        "\x1b",
        "\x7f",
        "\x85",
    ],
    ids=ascii,
)
def test_characters_that_hide_or_reorder_text_are_refused(tmp_path: Path, hidden: str) -> None:
    """Who reads a policy must see what Cedar reads."""
    text = f"{PERMIT}\n// a comment{hidden} of two words\n"
    problem = only(write(tmp_path, text))
    assert (problem.rule, problem.line, problem.column) == ("text.hidden", 2, 13)
    assert f"U+{ord(hidden):04X}" in problem.message
    assert hidden not in str(problem)


def test_hidden_characters_may_be_written_as_escapes(tmp_path: Path) -> None:
    text = f"{PERMIT}\r\n\t" + FORBID.format('context.claims.language == "\\u{202e}"')
    assert not problems(write(tmp_path, text))


@pytest.mark.parametrize("action", ['Action::"invoke"', 'Lucid::Action::"invok"'])
def test_an_unknown_action_is_refused(tmp_path: Path, action: str) -> None:
    text = f'{PERMIT}\n@id("f") forbid (principal, action == {action}, resource);'
    found = problems(write(tmp_path, text))
    assert any("action" in problem.message for problem in found)


def test_templates_are_refused(tmp_path: Path) -> None:
    text = f'{PERMIT}\n@id("t") permit (principal == ?principal, action, resource);'
    problem = only(write(tmp_path, text))
    assert "template" in problem.message
    assert problem.line == 2


def test_policies_must_be_utf8(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "policies" / "bad.cedar").write_bytes(b"// \xff")
    assert only(folder).message == "not UTF-8 at byte 3"


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("(" * 3000 + "true" + ")" * 3000, "brackets nested more than 64 deep"),
        ("(" * 100_000, "brackets nested more than 64 deep"),
        ('{"a": ' * 3000 + "1" + "}" * 3000 + " == {}", "brackets nested more than 64 deep"),
        ("if true then true else " * 10_000 + "true", "more than 5000 words"),
        ("context has a" + ".b" * 10_000, "more than 5000 words"),
        ("context" + ".a" * 10_000, "more than 5000 words"),
        ("true && " * 100 + "true", "nested too deeply"),
        ("true || " * 2000 + "true", "nested too deeply"),
        ("if true then true else " * 900 + "true", "nested too deeply"),
        ("context" + ".a" * 2000, "nested too deeply"),
        ("[" * 60 + "1" + "]" * 60 + " == [1]", ""),
        ("!" * 5 + "true", ""),
        ("-" * 4000 + "1 == 1", ""),
    ],
    ids=range(13),
)
def test_a_policy_that_would_end_the_process_is_a_problem(
    tmp_path: Path, condition: str, words: str
) -> None:
    """Cedar's parser recurses without a bound and dies with a segmentation fault."""
    found = problems(write(tmp_path, PERMIT + FORBID.replace("{{ {} }}", f"{{ {condition} }}")))
    assert len(found) == 1
    assert words in found[0].message


def test_long_sets_and_many_clauses_are_fine(tmp_path: Path) -> None:
    many = "[" + ", ".join(f'"{number}"' for number in range(2000)) + "]"
    clauses = " ".join(["when { true }"] * 100)
    text = PERMIT + FORBID.format(f"{many}.contains(context.claims.language)")
    assert not problems(write(tmp_path, text.replace(";\n", f" {clauses};\n")))


def test_too_many_policies_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enforcement.policy.bundle.LIMITS", bundle_files.BundleLimits(policies=2))
    text = "".join(PERMIT.replace('"allow"', f'"p{number}"') for number in range(3))
    assert "more than 2 policies" in only(write(tmp_path, text)).message


# --- entities.json ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entities", "words"),
    [
        ("{", "Expecting property name"),
        ("{}", "must be a list"),
        ("[3]", "entity 1"),
        ('[{"uid": {"type": "User", "id": "a"}, "attrs": {}, "parents": []}]', "entity 1"),
        (
            '[{"uid": {"type": "Lucid::User", "id": "a"}, "attrs": {"x": 1}, "parents": []}]',
            "entity 1",
        ),
        (
            """[{"uid": {"type": "Lucid::Group", "id": "g"}, "attrs": {}, "parents": []},
                {"uid": {"type": "Lucid::Agent", "id": "a"}, "attrs": {},
                 "parents": [{"type": "Lucid::Group", "id": "g"}]}]""",
            "entity 2",
        ),
        ('[{"uid": {"type": "Lucid::User", "id": "a", "id": "b"}}]', "stands twice"),
        ('[{"uid": {"type": "Lucid::User", "id": "a"}, "attrs": {}}]', "`parents` is missing"),
        ('[{"uid": {"type": "Lucid::User", "id": "a"}, "parents": []}]', "`attrs` is missing"),
        (
            """[{"uid": {"type": "Lucid::User", "id": "a"}, "attrs": {}, "parents": [],
                "groups": []}]""",
            "unknown key `groups`",
        ),
        (
            """[{"uid": {"type": "Lucid::User", "id": "a", "name": "b"},
                "attrs": {}, "parents": []}]""",
            "`uid`",
        ),
        ("""[{"uid": "Lucid::User::\\"a\\"", "attrs": {}, "parents": []}]""", "`uid`"),
        (
            """[{"uid": {"type": "Lucid::User", "id": "a", "__entity":
               {"type": "Lucid::User", "id": "b"}}, "attrs": {}, "parents": []}]""",
            "`uid`",
        ),
        (
            '[{"uid": {"type": "Lucid::User", "id": "a"}, "attrs": {}, "parents": ["staff"]}]',
            "parent 1",
        ),
        (
            """[{"uid": {"type": "Lucid::User", "id": "a"}, "attrs": {},
               "parents": [{"type": "Group", "id": "g"}]}]""",
            "did you mean Lucid::Group?",
        ),
        (
            """[{"uid": {"type": "Lucid::User", "id": "a"}, "attrs": {},
               "parents": [{"type": "Lucid::Workspace", "id": "g"}]}]""",
            "Lucid::Group or Lucid::Organization",
        ),
        (
            """[{"uid": {"type": "Lucid::Group", "id": "g"}, "attrs": {},
               "parents": [{"type": "Lucid::Group", "id": "h"}]}]""",
            "Lucid::Organization",
        ),
        (
            '[{"uid": {"type": "Lucid::Usr", "id": "a"}, "attrs": {}, "parents": []}]',
            "did you mean Lucid::User?",
        ),
        (
            """[{"uid": {"type": "Lucid::Action", "id": "access_data"}, "attrs": {},
               "parents": []}]""",
            "Lucid::Action",
        ),
        (
            '[{"uid": {"type": "Lucid::User", "id": "a"}, "attrs": {"emial": "x"}, "parents": []}]',
            "did you mean email?",
        ),
        (
            '[{"uid": {"type": "Lucid::User", "id": "a"}, "attrs": {"email": 3}, "parents": []}]',
            "`email` is not a string",
        ),
        (
            """[{"uid": {"type": "Lucid::User", "id": "a"}, "parents": [],
               "attrs": {"email": {"__extn": {"fn": "unknown", "arg": "x"}}}}]""",
            "`email` is not a string",
        ),
        (
            """[{"uid": {"type": "Lucid::Agent", "id": "a"}, "parents": [],
               "attrs": {"allowed_regions": ["eu", 3]}}]""",
            "`allowed_regions` is not a list of strings",
        ),
        (
            """[{"uid": {"type": "Lucid::Agent", "id": "a"}, "parents": [],
               "attrs": {"pii_authorized": "yes"}}]""",
            "`pii_authorized` is not true or false",
        ),
        (
            """[{"uid": {"type": "Lucid::User", "id": "a"}, "attrs": {}, "parents": []},
                {"uid": {"__entity": {"type": "Lucid::User", "id": "a"}},
                 "attrs": {}, "parents": []}]""",
            "is given twice",
        ),
        ('[{"uid": {"type": "Lucid::User", "id": "\\ud800"}, "attrs": {}, "parents": []}]', ""),
        (
            """[{"uid": {"type": "Lucid::User", "id": "a"}, "attrs": {}, "parents": [],
                "tags": {"a": "b"}}]""",
            "unknown key `tags`",
        ),
        ("[" * 100_000, ""),
    ],
)
def test_wrong_entities_are_refused(tmp_path: Path, entities: str, words: str) -> None:
    problem = only(write(tmp_path, entities=entities))
    assert problem.file == "entities.json"
    assert words in str(problem)


def test_one_entity_given_twice_with_different_content_is_refused(tmp_path: Path) -> None:
    one = '{"uid": {"type": "Lucid::User", "id": "a"}, "attrs": %s, "parents": []}'
    both = "[" + one % "{}" + "," + one % '{"email": "x"}' + "]"
    assert only(write(tmp_path, entities=both)).file == "entities.json"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('type = "boolean"', "did you mean bool?"),
        ('type = "text"', "known: bool, decimal, integer, score, string, string_list"),
        ('type = "bool"\nphases = ["requests"]', "did you mean request?"),
        ('type = "bool"\nmerge = "maximum"', "did you mean max?"),
        ('type = "bool"\noptional = "yes"', "must be true or false, not text in quotes"),
    ],
)
def test_a_wrong_word_in_a_claim_names_the_nearest(tmp_path: Path, text: str, words: str) -> None:
    manifest = f'name = "a"\nversion = "1"\n[claims.x]\nsource = "auditor:a"\n{text}\n'
    assert words in str(problems(write(tmp_path, manifest=manifest))[0])


@pytest.mark.parametrize("mode", ["windows", "observ"])
def test_a_wrong_word_in_another_table_does_too(tmp_path: Path, mode: str) -> None:
    problem = only(write(tmp_path, manifest=f'{MANIFEST}[stream]\nmode = "{mode}"'))
    assert "did you mean" in problem.fix


def test_a_name_that_cannot_be_one_says_what_can(tmp_path: Path) -> None:
    manifest = MANIFEST.replace('name = "test"', 'name = "a b"')
    assert "letters, digits" in only(write(tmp_path, manifest=manifest)).message


@pytest.mark.parametrize(
    "literal", ["1" * 5000, "1" * 5000 + ".5", "0." + "1" * 5000, "9" * 20, "9" * 19]
)
def test_a_number_of_any_length_is_a_problem_at_its_place(tmp_path: Path, literal: str) -> None:
    text = f'{PERMIT}\n@id("f") forbid (principal, action, resource) when {{ 1 == {literal} }};'
    found = problems(write(tmp_path, text))
    assert {problem.line for problem in found} == {2}
    assert all(problem.column > 1 for problem in found)


def test_a_number_of_any_length_in_other_files_is_a_problem(tmp_path: Path) -> None:
    digits = "9" * 5000
    assert problems(write(tmp_path / "a", manifest=f"{MANIFEST}[stream]\nhold_back = {digits}"))
    assert problems(write(tmp_path / "b", entities=f'[{{"uid": {digits}}}]'))


@pytest.mark.parametrize(
    "entities",
    [
        r'[{"uid": {"type": "Lucid::User", "id": "\ud800"}, "attrs": {}, "parents": []}]',
        r'[{"\ud800": 1}]',
        r'[{"uid": {"type": "\ud800", "id": "a"}, "attrs": {}, "parents": []}]',
        r'[{"uid": {"type": "Lucid::Agent", "id": "a"}, "attrs":{"name":"\ud800"},"parents":[]}]',
        r'[{"a": 1, "\ud800": 1, "\ud800": 2}]',
    ],
)
def test_what_is_no_unicode_is_named_in_text_that_is(tmp_path: Path, entities: str) -> None:
    found = problems(write(tmp_path, entities=entities))
    assert found
    assert not any("deserialization" in problem.message for problem in found)
    for problem in found:
        str(problem).encode()


# --- time -----------------------------------------------------------------------------------------

MANY = 500_000
PAIRS = '\\"' * (MANY // 2)


@pytest.mark.parametrize(
    "content",
    [
        'name = "a"\nversion = "1"\nx = """\n[' + " " * 8000 + '\n"""\n',
        'x = """\n[' + " " * MANY + '\n"""\n',
        'x = """\n[' + "a" * MANY + '\n"""\n',
        'x = """\n' + "[" * MANY + '\n"""\n',
        'x = """\n"' + "a" * MANY + '\n"""\n',
        'x = """\n' + "a " * MANY + '\n"""\n',
        "a." * MANY + "b = 1\n",
        "\n".join("a." * 4000 + f"b{n} = 1" for n in range(4)),
        f"{'k' * MANY} = 1\n",
        f"{'k' * 8000} = 1\n",
        "[[a]]\n" * (MANY // 10),
        " " * MANY + "= 1",
    ],
    ids=range(12),
)
def test_no_bundle_toml_takes_long(tmp_path: Path, content: str) -> None:
    """A regular expression would keep the interpreter lock, and the whole agent waiting."""
    folder = write(tmp_path, manifest=content)
    start = time.process_time()
    found = problems(folder)
    assert time.process_time() - start < 3  # seconds; usually a tenth of that
    assert found
    assert all(len(problem.message) <= MAX_MESSAGE + 1 for problem in found)


@pytest.mark.parametrize(
    "text",
    [
        '"' + PAIRS,
        PAIRS,
        '"a' * (MANY // 2),
        '@id("a") permit (principal, action, resource) when { "' + PAIRS,
        '"' + "\\\\" * (MANY // 2) + "\\",
        "/" * MANY + "\nx",
        "." * (MANY // 10),
        "1" * MANY,
        "a." * (MANY // 2),
        "permit (principal, action, resource) when { a" + ".a" * (MANY // 2) + " };",
        f'permit (principal == {"A::" * (MANY // 3)}"x", action, resource);',
        f'@id("a") permit (principal == {"A::" * 1000}"{"x" * MANY}", action, resource);',
        f"@{'a' * MANY} permit (principal, action, resource);",
    ],
    ids=range(13),
)
def test_no_policy_text_takes_long(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path, text)
    start = time.process_time()
    found = problems(folder)
    assert time.process_time() - start < 6  # seconds; usually a tenth of that
    assert found
    assert all(len(problem.message) <= MAX_MESSAGE + 1 for problem in found)


def test_a_string_that_nothing_ends_is_one_token() -> None:
    for text in ('"', '"a', '"a\\', '"\\"', '"a;b;', 'x; "y; z'):
        last = statements(text)[-1].tokens[-1]
        assert last.kind == "open"
        assert last.start + len(last.text) == len(text)


# --- the error ----------------------------------------------------------------------------------


def test_a_long_error_is_cut_and_counted() -> None:
    many = [Problem(file="x", line=n, column=1, message="m") for n in range(1, 151)]
    error = BundleError(many)
    assert len(error.problems) == 150
    assert str(error).endswith(f"… and {150 - problems_module.MAX_SHOWN} more")
    assert error.code == "bundle.invalid"


# --- the scanner --------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.text(max_size=60))
def test_the_scanner_loses_nothing_but_space_and_comments(text: str) -> None:
    position = 0
    for statement in statements(text):
        for token in statement.tokens:
            assert token.start >= position
            assert text[token.start : token.start + len(token.text)] == token.text
            gap = text[position : token.start]
            assert all(line.strip() == "" or "//" in gap for line in gap.splitlines())
            position = token.start + len(token.text)


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from([*'permit(,;){}@"\\/ \n.0123=<>&|!:é', "forbid", "when"]), max_size=40
    ).map("".join)
)
def test_broken_text_is_always_a_problem_with_a_place(text: str) -> None:
    policies, found = parse_policies("p", text + "\n permit (principal action);")
    assert found
    assert all(problem.line >= 1 and problem.column >= 1 for problem in found)
    assert all(policy.line >= 1 for policy in policies)


# -- auditors -------------------------------------------------------------------------------------

SHARED = """
[claims.risk]
type = "score"
source = ["auditor:a", "auditor:b"]
[auditors.a]
labels = ["person", "place"]
"""


def test_a_bundle_says_who_gives_a_claim_how_several_merge_and_what_they_mark(
    tmp_path: Path,
) -> None:
    text = PERMIT + (
        '@id("m") @decision("redact") @redact("person,email") '
        "forbid (principal, action, resource) when { context.claims.risk > 5000 };"
    )
    bundle = Bundle.load(write(tmp_path, text, manifest=HEAD + SHARED))
    risk = bundle.vocabulary["risk"]
    assert risk.auditors == ("a", "b")
    assert risk.merge is Merge.MAX
    assert bundle.auditors == {"a": frozenset({"person", "place"}), "b": frozenset()}
    assert bundle.policies["m"].redact == {"person", "email"}


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("[claims.r]\ntype='score'\nsource=[]\n", "names nobody"),
        ("[claims.r]\ntype='score'\nsource=['auditor:a','auditor:a']\n", "somebody twice"),
        ("[claims.r]\ntype='score'\nsource=['auditor:a','builtin']\n", "no built-in detector"),
        ("[claims.r]\ntype='score'\nsource='auditor:a'\nmerge='max'\n", "without a second"),
        ("[claims.r]\ntype='string'\nsource=['auditor:a','auditor:b']\n", "nothing could merge"),
        (
            "[claims.r]\ntype='score'\nsource=['auditor:a','auditor:b']\nmerge='any'\n",
            "a score merges by max or min",
        ),
        (
            "[claims.pii_found]\ntype='bool'\nsource=['builtin','auditor:b']\nmerge='all'\n",
            "what a detector found stays found",
        ),
        ("[auditors.a]\nlabels=['x']\n", "no claim has the source `auditor:a`"),
        (SHARED + "colour=1\n", "unknown key `auditors.a.colour`"),
        (SHARED.replace("person", "Per son"), "'Per son' is not a label"),
    ],
)
def test_what_is_said_of_auditors_must_make_sense(
    tmp_path: Path, manifest: str, words: str
) -> None:
    assert words in " ".join(map(str, problems(write(tmp_path, manifest=HEAD + manifest))))
