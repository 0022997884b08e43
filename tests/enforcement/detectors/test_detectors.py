"""The built-in detectors: a labelled set, the checks behind them, and what streams rely on."""

from __future__ import annotations

import base64
import itertools
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcement.detectors import (
    DETECTORS,
    MASKS,
    PRIORITY,
    Span,
    claims_from,
    find,
    hold_from,
    max_match_length,
    scan,
    validators,
)
from enforcement.detectors.budget import Budget, Exhausted
from enforcement.detectors.patterns import KEY_RULES

_RANDOM = "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY1zA2bC3dE4fG5hH6jJ7kK8mM9nN0pP1q"


def key(prefix: str, size: int, *, capitals: bool = False) -> str:
    """A key that no issuer ever gave out; assembled, so that no scanner takes it for a leak."""
    payload = (_RANDOM * 2)[:size]
    return prefix + (payload.upper() if capitals else payload)


PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "\n".join(["MIIEpAIBAAKCAQEA7x" * 3] * 5)
PEM_END = "\n-----END RSA PRIVATE KEY-----"


def encoded(*values: object) -> str:
    """Each as JSON in base64url, with dots between."""
    texts = [json.dumps(value).encode() for value in values]
    return ".".join(base64.urlsafe_b64encode(text).rstrip(b"=").decode() for text in texts)


CLAIMS = {"iss": "https://login.example.org", "sub": "0123456789" * 60}
UNSIGNED = encoded({"alg": "RS256", "kid": "2026-11"}, CLAIMS)
JWT = f"{UNSIGNED}.{_RANDOM}"
LONG_JWT = encoded({"x5c": ["MIIBIjAN" * 90], "alg": "RS256"}, CLAIMS) + f".{_RANDOM}"
PGP = f"""-----BEGIN PGP PRIVATE KEY BLOCK-----
Version: GnuPG v1.4.11 (GNU/Linux)
Comment: https://example.org/key?id=1

{(_RANDOM[:64] + chr(10)) * 150}=aB3d
-----END PGP PRIVATE KEY BLOCK-----"""

# Label, text, and what of it is to be found.
POSITIVES: list[tuple[str, str, str]] = [
    ("email", "Write to alice@example.com today.", "alice@example.com"),
    ("email", "alice@example.com.", "alice@example.com"),
    ("email", "<alice+news@mail.example.co.uk>", "alice+news@mail.example.co.uk"),
    ("email", "mailto:a.b-c_d@example.org?subject=x", "a.b-c_d@example.org"),
    ("email", '{"email":"o\'neil@example.ie"}', "o'neil@example.ie"),
    ("email", "jürgen@müller.de schreibt", "jürgen@müller.de"),
    ("email", "邮箱：王@例子.中国", "王@例子.中国"),
    ("email", "x@xn--bcher-kva.example and", "x@xn--bcher-kva.example"),
    ("email", "a@b.co,c@d.co", "a@b.co"),
    ("email", "combo alice@example.com:hunter2", "alice@example.com"),
    ("email", "Alice@EXAMPLE.COM", "Alice@EXAMPLE.COM"),
    ("email", "user=bob@example.net;", "user=bob@example.net"),
    ("email", "1234567890@qq.com", "1234567890@qq.com"),
    ("card", "card 4111 1111 1111 1111 ok", "4111 1111 1111 1111"),
    ("card", "4111-1111-1111-1111", "4111-1111-1111-1111"),
    ("card", "4111111111111111.", "4111111111111111"),
    ("card", "4111.1111.1111.1111", "4111.1111.1111.1111"),
    ("card", "Visa 4222222222222", "4222222222222"),
    ("card", "Mastercard 5555 5555 5555 4444", "5555 5555 5555 4444"),
    ("card", "new range 2223003122003222", "2223003122003222"),
    ("card", "amex 3782 822463 10005", "3782 822463 10005"),
    ("card", "amex 378282246310005", "378282246310005"),
    ("card", "diners 3056 930902 5904", "3056 930902 5904"),
    ("card", "discover 6011 1111 1111 1117", "6011 1111 1111 1117"),
    ("card", "jcb 3530111333300000", "3530111333300000"),
    ("card", "unionpay 6212345678901232", "6212345678901232"),
    ("card", "spelt 4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1.", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"),
    ("card", "narrow 4111\u202f1111\u202f1111\u202f1111", "4111\u202f1111\u202f1111\u202f1111"),
    ("card", "dash 4111\u20111111\u20111111\u20111111", "4111\u20111111\u20111111\u20111111"),
    ("card", "order 7 4111 1111 1111 1111", "4111 1111 1111 1111"),
    ("card", "x4111 1111 1111 1111hm", "4111 1111 1111 1111"),
    ("card", "4111 1111 1111 1111 1 times", "4111 1111 1111 1111"),
    ("card", "2024 4111111111111111 12/27 123", "4111111111111111"),
    ("card", '{"pan":"4111111111111111"}', "4111111111111111"),
    ("card", "４ is not, but 4012888888881881 is", "4012888888881881"),
    ("ssn", "SSN 123-45-6789.", "123-45-6789"),
    ("ssn", "123 45 6789", "123 45 6789"),
    ("ssn", "ssn: 123456789", "123456789"),
    ("ssn", "Social Security number is 899-12-3456", "899-12-3456"),
    ("ssn", "social security no: 219099998", "219099998"),
    ("ssn", "001\u201101\u20110001", "001\u201101\u20110001"),
    ("iban", "DE89 3704 0044 0532 0130 00", "DE89 3704 0044 0532 0130 00"),
    ("iban", "DE89370400440532013000", "DE89370400440532013000"),
    ("iban", "IBAN: GB29NWBK60161331926819,", "GB29NWBK60161331926819"),
    ("iban", "fr14 2004 1010 0505 0001 3m02 606", "fr14 2004 1010 0505 0001 3m02 606"),
    ("iban", "NO93 8601 1117 947", "NO93 8601 1117 947"),
    ("iban", "MT84MALT011000012345MTLCAST001S", "MT84MALT011000012345MTLCAST001S"),
    ("iban", "BE68-5390-0754-7034", "BE68-5390-0754-7034"),
    ("iban", "AB12 CH93 0076 2011 6238 5295 7 x", "CH93 0076 2011 6238 5295 7"),
    ("iban", "NL91ABNA0417164300 and more", "NL91ABNA0417164300"),
    ("phone", "call 415-555-2671", "415-555-2671"),
    ("phone", "(415) 555-2671 ext", "(415) 555-2671"),
    ("phone", "415.555.2671", "415.555.2671"),
    ("phone", "1-800-555-0199", "1-800-555-0199"),
    ("phone", "+1 (415) 555-2671", "+1 (415) 555-2671"),
    ("phone", "+14155552671", "+14155552671"),
    ("phone", "+49 30 901820", "+49 30 901820"),
    ("phone", "+44 (0)20 7946 0958", "+44 (0)20 7946 0958"),
    ("phone", "0049 30 901820", "0049 30 901820"),
    ("phone", "+33 1 70 18 99 00", "+33 1 70 18 99 00"),
    ("phone", "Tel.: 030 901820", "030 901820"),
    ("phone", "phone: 5552671", "5552671"),
    ("phone", "mobile number is 07700 900123", "07700 900123"),
    ("phone", "+86 138 1234 5678", "+86 138 1234 5678"),
    ("phone", "415\u2011555\u20112671", "415\u2011555\u20112671"),
    ("api_key", f"client(key='{key('sk-', 48)}')", key("sk-", 48)),
    ("api_key", key("sk-proj-", 120), key("sk-proj-", 120)),
    ("api_key", key("sk-ant-api03-", 95) + "\n", key("sk-ant-api03-", 95)),
    ("api_key", key("sk_live_", 24), key("sk_live_", 24)),
    ("api_key", f"token {key('ghp_', 36)}.", key("ghp_", 36)),
    ("api_key", key("github_pat_", 82), key("github_pat_", 82)),
    ("api_key", key("glpat-", 20), key("glpat-", 20)),
    ("api_key", f"id={key('AKIA', 16, capitals=True)}", key("AKIA", 16, capitals=True)),
    ("api_key", "AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    ("api_key", key("xoxb-", 40), key("xoxb-", 40)),
    ("api_key", key("AIza", 35), key("AIza", 35)),
    ("api_key", key("hf_", 34), key("hf_", 34)),
    ("api_key", key("npm_", 36), key("npm_", 36)),
    ("api_key", key("gsk_", 52), key("gsk_", 52)),
    ("api_key", key("hvs.", 24), key("hvs.", 24)),
    ("api_key", f'api_key = "{_RANDOM[:32]}"', _RANDOM[:32]),
    ("api_key", f'{{\\"apiKey\\": \\"{_RANDOM[:32]}\\"}}', _RANDOM[:32]),
    ("api_key", f"aws_secret_access_key={_RANDOM[:40]}", _RANDOM[:40]),
    ("api_key", f"Authorization: Bearer {_RANDOM[:40]}", _RANDOM[:40]),
    ("api_key", f"password: {_RANDOM[:20]}", _RANDOM[:20]),
    ("api_key", f"x {PEM}{PEM_END} y", PEM + PEM_END),
    ("api_key", PEM, PEM),
    ("api_key", f"x {PGP} y", PGP),
    ("api_key", f"https://user:{_RANDOM * 8}@example.org/x", _RANDOM * 8),
    ("api_key", f"https://user:{_RANDOM * 4}", _RANDOM * 4),
    ("api_key", PGP.replace("\n", "\\n"), PGP.replace("\n", "\\n")),
    ("api_key", f"the token {JWT}.", JWT),
    ("api_key", f"without a signature: {UNSIGNED}.", UNSIGNED),
    ("api_key", f"cut: {LONG_JWT[:250]} …", LONG_JWT[:250]),
    ("api_key", f"cookie={LONG_JWT};", LONG_JWT),
    ("api_key", "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----"),
    (
        "api_key",
        '"-----BEGIN EC PRIVATE KEY-----\\nMHcCAQEE\\n-----END EC PRIVATE KEY-----\\n"',
        "-----BEGIN EC PRIVATE KEY-----\\nMHcCAQEE\\n-----END EC PRIVATE KEY-----",
    ),
]

NEGATIVES: list[tuple[str, str]] = [
    ("email", "user@localhost"),
    ("email", "icon@2x.png"),
    ("email", "import x from 'pkg@main.js'"),
    ("email", "npm i react@18.2.0"),
    ("email", "@alice said hi to @bob."),
    ("email", "git@github.com:org/repo.git"),
    ("email", "a @ b . c"),
    ("email", "1@2.3"),
    ("email", "@decorator.name"),
    ("card", "4111 1111 1111 1112"),
    ("card", "0.4111111111111111"),
    ("card", "x4111111111111111"),
    ("card", "4111111111111111f"),
    ("card", "41111111111111111111"),
    ("card", "1234567812345670"),
    ("card", "IMEI 356938035643809"),
    ("card", "1990 1991 1992 1993 1994"),
    ("card", "3.14159265358979"),
    ("card", "2026-11-24 12:30:45.123456789"),
    ("card", "550e8400-e29b-41d4-a716-446655440000"),
    ("card", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16"),
    ("card", "978-3-16-148410-0"),
    ("card", "100000000000000"),
    ("card", "192.168.100.200 10.0.0.1"),
    ("ssn", "000-12-3456"),
    ("ssn", "666-12-3456"),
    ("ssn", "900-12-3456"),
    ("ssn", "123-00-6789"),
    ("ssn", "123-45-0000"),
    ("ssn", "123456789"),
    ("ssn", "123-45-67890"),
    ("ssn", "1123-45-6789"),
    ("ssn", "123-45 6789"),
    ("ssn", "12-123-45-6789"),
    ("ssn", "ssn: 000123456"),
    ("iban", "DE89370400440532013001"),
    ("iban", "DE8937040044053201300"),
    ("iban", "DE893704004405320130001"),
    ("iban", "XX89370400440532013000"),
    ("iban", "US12 3456 7890 1234 5678"),
    ("iban", "xDE89370400440532013000"),
    ("iban", "ab12"),
    ("phone", "2026-11-24"),
    ("phone", "4155552671"),
    ("phone", "192.168.100.200"),
    ("phone", "version 1.234.567.890"),
    ("phone", "123-456-7890"),
    ("phone", "415-155-2671"),
    ("phone", "x+1"),
    ("phone", "2 + 2 = 4"),
    ("phone", "100+200+300+400"),
    ("phone", "order 12-415-555-2671"),
    ("phone", "0012345678"),
    ("phone", "1,415,555,2671"),
    ("phone", "550e8400-e29b-41d4-a716-446655440000"),
    ("api_key", "scikit: sk-learn-is-a-library-for-machine-learning"),
    ("api_key", "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    ("api_key", "sk-your-api-key-goes-here-please"),
    ("api_key", "sk-short1"),
    ("api_key", "task-aB3dE5fG7hJ9kL1mN2pQ4rS6"),
    ("api_key", "ghp_short"),
    ("api_key", "AKIA"),
    ("api_key", "AKIAIOSFODNN7EXAMPLEX"),
    ("api_key", "akiaiosfodnn7example"),
    ("api_key", "the key is: unforgettable moments"),
    ("api_key", "token = None"),
    ("api_key", "api_key = os.environ['API_KEY']"),
    ("api_key", "password: hunter2"),
    ("api_key", "bearer of bad news everywhere"),
    ("api_key", "-----BEGIN PUBLIC KEY-----\nMIIBIjAN\n-----END PUBLIC KEY-----"),
    ("api_key", "-----BEGIN CERTIFICATE-----\nMIIBIjAN\n-----END CERTIFICATE-----"),
    ("api_key", "SG.abc"),
    ("api_key", "http://localhost:8080/v1?x=" + "y" * 300),
    ("api_key", "http://localhost:8080"),
    ("api_key", "eyJhbGciOiJIUzI1NiJ9"),
    ("api_key", "a cursor: " + encoded({"after": "x" * 300})),
    ("api_key", encoded({"a": 1}, {"b": 2}) + ".c2ln"),
    ("api_key", "a hash: d41d8cd98f00b204e9800998ecf8427e"),
]


@pytest.mark.parametrize(("label", "text", "wanted"), POSITIVES)
def test_what_is_to_be_found_is_found_whole(label: str, text: str, wanted: str) -> None:
    found = [text[s.start : s.end] for s in scan(text, frozenset({label}))]
    assert wanted in found


@pytest.mark.parametrize(("label", "text"), NEGATIVES)
def test_what_only_looks_like_it_is_left_alone(label: str, text: str) -> None:
    assert scan(text, frozenset({label})) == []


def test_precision_and_recall_of_the_labelled_set(
    record_property: Callable[[str, object], None],
) -> None:
    """Every text against every detector, in one long text too: the numbers of the report."""
    report = {}
    for label in PRIORITY:
        only = frozenset({label})
        right = sum(
            wanted in [text[s.start : s.end] for s in scan(text, only)]
            for kind, text, wanted in POSITIVES
            if kind == label
        )
        positives = sum(kind == label for kind, _, _ in POSITIVES)
        wrong = sum(bool(scan(text, only)) for kind, text in NEGATIVES if kind == label)
        # What belongs to another label must not be taken for this one either.
        wrong += sum(bool(scan(text, only)) for kind, text, _ in POSITIVES if kind != label)
        report[label] = (right / positives, right / (right + wrong))
    record_property("recall_and_precision", report)
    for label, (recall, precision) in report.items():
        assert recall == 1.0, (label, report)
        assert precision >= 0.9, (label, report)


def test_plain_prose_and_code_hold_nothing(vectors: Path) -> None:
    """Precision on other people's text: Cedar's policies, licences and notes."""
    found = {}
    size = 0
    for path in sorted((vectors / "cedar").rglob("*")):
        if path.suffix in {".cedar", ".cedarschema", ""} and path.is_file():
            text = path.read_text(encoding="utf-8")
            size += len(text)
            for span in scan(text, DETECTORS):
                found[text[span.start : span.end]] = span.label
    assert size > 60_000
    assert found == {}


# --- spans --------------------------------------------------------------------------------------


def test_offsets_are_code_points() -> None:
    text = "𝄞é 日本 alice@example.com 𝄞 4111 1111 1111 1111"
    assert [text[s.start : s.end] for s in scan(text, DETECTORS)] == [
        "alice@example.com",
        "4111 1111 1111 1111",
    ]


def test_lone_surrogates_do_not_hide_or_break_anything() -> None:
    text = json.loads('"\\ud800 alice@example.com \\udc00\\udc00 4111111111111111"')
    assert [(s.label, text[s.start : s.end]) for s in scan(text, DETECTORS)] == [
        ("email", "alice@example.com"),
        ("card", "4111111111111111"),
    ]


def test_only_the_labels_asked_for_are_looked_for() -> None:
    text = "alice@example.com 4111 1111 1111 1111"
    assert [s.label for s in scan(text, frozenset({"card"}))] == ["card"]
    assert scan(text, frozenset()) == []
    assert scan("", DETECTORS) == []


def test_an_unknown_label_is_an_error() -> None:
    with pytest.raises(ValueError, match="emial"):
        scan("x", frozenset({"emial"}))


def test_overlapping_spans_merge_under_the_strongest_label() -> None:
    secret = key("sk-", 40)
    text = f"https://{secret}@example.com/"
    (span,) = scan(text, DETECTORS)
    assert (span.label, span.also) == ("api_key", ("email",))
    assert text[span.start : span.end] == f"{secret}@example.com"
    assert [s.label for s in scan(text, frozenset({"email"}))] == ["email"]


def test_neighbours_do_not_merge() -> None:
    spans = scan("a@b.co,c@d.co", DETECTORS)
    assert [s.label for s in spans] == ["email", "email"]


@settings(max_examples=80)
@given(
    st.lists(
        st.sampled_from([text for _, text, _ in POSITIVES] + [" ", "é", "-", "4", "@", "\n"]),
        max_size=6,
    ).map("".join)
)
def test_spans_are_sorted_disjoint_and_complete(text: str) -> None:
    spans = scan(text, DETECTORS)
    assert all(0 <= s.start < s.end <= len(text) for s in spans)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
    for found in find(text, DETECTORS):  # the pre-filter and the merging lose nothing
        assert any(
            s.start <= found.start and found.end <= s.end and found.label in {s.label, *s.also}
            for s in spans
        )


@settings(max_examples=150)
@given(st.text(alphabet="0123456789 -.+()@aZskey_:=DE\u202f\u2011é/", max_size=80))
def test_the_pre_filter_hides_nothing(text: str) -> None:
    assert bool(scan(text, DETECTORS)) == bool(find(text, DETECTORS))


# --- claims -------------------------------------------------------------------------------------


def test_claims_name_what_was_found() -> None:
    spans = [Span(0, 1, "phone"), Span(2, 3, "card", ("email",))]
    assert claims_from(spans) == {
        "pii_found": True,
        "pii_types": ("card", "email", "phone"),
        "secret_leaked": False,
    }
    assert claims_from([Span(0, 1, "api_key")]) == {
        "pii_found": False,
        "pii_types": (),
        "secret_leaked": True,
    }
    assert claims_from([Span(0, 1, "api_key", ("email",))])["pii_types"] == ("email",)
    assert claims_from([]) == {"pii_found": False, "pii_types": (), "secret_leaked": False}


def test_every_label_has_a_mask_and_a_length() -> None:
    assert set(MASKS) == DETECTORS == set(PRIORITY)
    assert MASKS["api_key"] == "[API_KEY]"
    for label in DETECTORS:
        assert 1 < max_match_length([label]) <= 256
        assert not scan(MASKS[label], DETECTORS)  # a masked text is clean
    assert max_match_length([]) == 1
    assert max_match_length(DETECTORS) == 256


# --- streams ------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(
    before=st.sampled_from(["", "x ", "é" * 30, "word " * 80]),
    case=st.sampled_from(POSITIVES),
    after=st.sampled_from(["", " y", " and so on. " * 40]),
    data=st.data(),
)
def test_what_is_released_early_is_never_part_of_a_match(
    before: str, case: tuple[str, str, str], after: str, data: st.DataObject
) -> None:
    """Whatever arrived so far: nothing in front of `hold_from` is in a match of the whole text."""
    text = before + case[1] + after
    arrived = data.draw(st.integers(0, len(text)))
    only = frozenset({case[0]})
    settled = hold_from(text[:arrived], only)
    assert 0 <= settled <= arrived
    early = [(s.start, s.end) for s in scan(text[:arrived], only) if s.end < settled]
    for span in scan(text, only):
        assert span.end <= settled or span.start >= settled
        if span.end < settled:
            assert (span.start, span.end) in early


@pytest.mark.parametrize(
    ("before", "secret"),
    [
        ("so: ", JWT),
        ("Authorization: Bearer ", LONG_JWT),
        ("so: ", LONG_JWT),
        ("so: ", PGP),
        ("git clone https://oauth2:", _RANDOM * 8 + "@example.org"),
    ],
)
def test_a_secret_longer_than_the_window_is_held_from_its_first_character(
    before: str, secret: str
) -> None:
    labels = frozenset({"api_key"})
    text = before + secret
    for arrived in range(len(before) + 1, len(text), 7):
        assert hold_from(text[:arrived], labels) <= len(before)


def test_a_private_key_is_held_until_its_end() -> None:
    labels = frozenset({"api_key"})
    text = "so: " + PEM + "\n" + "MIIEpAIBAAKCAQEA7x" * 60
    assert len(text) > 1000
    assert hold_from(text, labels) == 4
    whole = text + PEM_END + " end " + "word " * 100
    assert hold_from(whole, labels) > 1000


def test_matches_are_recognised_within_the_length_that_is_promised() -> None:
    for label, text, _ in POSITIVES:
        for span in find(text, [label]):
            early = find(text[: span.start + max_match_length([label])], [label])
            assert span.start in [found.start for found in early]
    long = "a" * 300 + "@" + "b" * 60 + ".example." * 40 + "com"
    assert all(s.end - s.start <= 256 for s in find(long, ["email"]))


# --- validators ---------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", ["4111111111111111", "79927398713", "0", "18"])
def test_luhn_accepts(digits: str) -> None:
    assert validators.luhn(digits)


@settings(max_examples=50)
@given(st.text(alphabet="0123456789", min_size=12, max_size=18))
def test_luhn_has_one_check_digit_and_sees_a_single_wrong_digit(body: str) -> None:
    good = [body + check for check in "0123456789" if validators.luhn(body + check)]
    assert len(good) == 1
    wrong = str((int(good[0][0]) + 1) % 10) + good[0][1:]
    assert not validators.luhn(wrong)


@settings(max_examples=50)
@given(
    country=st.sampled_from(sorted(validators.IBAN_LENGTHS)),
    account=st.text(alphabet="0123456789ABCXYZ", min_size=30, max_size=30),
)
def test_iban_check_digits(country: str, account: str) -> None:
    bban = account[: validators.IBAN_LENGTHS[country] - 4]
    rest = "".join(str(int(c, 36)) for c in bban + country + "00")
    good = f"{country}{98 - int(rest) % 97:02d}{bban}"
    assert validators.iban(good)
    assert validators.iban(good.lower())
    assert not validators.iban(good[:-1])
    check = int(good[2:4])
    assert not validators.iban(f"{country}{(check + 1) % 100:02d}{bban}")


def test_entropy_is_in_bits() -> None:
    assert validators.entropy("") == 0
    assert validators.entropy("aaaa") == 0
    assert validators.entropy("abab") == 1
    assert validators.entropy("abcd") == 2


@pytest.mark.parametrize("prefix", sorted(KEY_RULES))
def test_every_key_prefix_is_known_and_needs_its_length(prefix: str) -> None:
    rule = KEY_RULES[prefix]
    good = key(prefix, rule.shortest, capitals=rule.upper)
    only = frozenset({"api_key"})
    assert [good[s.start : s.end] for s in scan(good, only)] == [good]
    assert scan(good[:-1], only) == []
    assert scan(f"x{good}", only) == []


# --- time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unit",
    [
        *("a@b.", "4111 ", "4 ", "DE89 ", "sk-", "token=", "bearer ", "+1 4", "415-555-267 "),
        *("eyJhbGciOi", "eyJhbGciOi.", "eyJhbGciOi " * 20, "eyJhbGci.eyJ." * 90),
        *("-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "123-45-678 ", "phone: 1 ", "é", "444444"),
    ],
)
def test_hostile_texts_take_linear_and_bounded_time(unit: str) -> None:
    """Budgets stop a text of nothing but beginnings; the rest of it counts as a match."""

    def seconds(size: int) -> float:
        text = (unit * (size // len(unit) + 1))[:size]
        start = time.perf_counter()
        scan(text, DETECTORS)
        return time.perf_counter() - start

    assert seconds(50_000) < 2  # some 0.1 s on a slow machine; quadratic would be minutes


def test_a_text_of_nothing_but_digits_does_not_fill_the_memory() -> None:
    text = "4 " * 500_000
    tracemalloc.start()
    scan(text, frozenset({"card"}))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(text)


def test_a_text_with_too_many_candidates_is_masked_to_its_end() -> None:
    text = "DE89 " * 45_000 + "end"
    spans = scan(text, frozenset({"iban"}))
    assert spans[-1].end == len(text)
    assert spans[-1].label == "iban"
    assert spans[0].start == 8_000 * 5
    budget = Budget(1)
    budget.spend(5)
    with pytest.raises(Exhausted) as stopped:
        budget.spend(7)
    assert stopped.value.at == 7
