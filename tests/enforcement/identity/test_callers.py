"""Who asks: keys, tokens, both, neither, and certificates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from enforcement.identity.callers import (
    ANONYMOUS,
    UNKNOWN,
    Caller,
    Certificates,
    Header,
    Identifier,
    Key,
    Stranger,
    check_keys,
)
from enforcement.identity.spiffe import SpiffeError, caller_of

ALICE = Key(name="alice", sha256=hashlib.sha256(b"sk-1").digest(), groups=("staff", "admins"))
ROBOT = Key(name="robot", sha256=hashlib.sha256(b"sk-2").digest(), kind="APIKey")


@dataclass
class Scripted:
    """Believes one token."""

    seen: list[bytes] = field(default_factory=list)

    def caller(self, token: bytes, /) -> Caller | None:
        self.seen.append(token)
        return Caller(("User", "bob"), ("staff",)) if token == b"a.b.c" else None


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([ALICE, Key(name="eve", sha256=ALICE.sha256)], "'alice' and 'eve' have the same key"),
        ([ALICE, ALICE], "the same key"),
        ([Key(name="unset", sha256=hashlib.sha256(b"").digest())], "'unset': .* of nothing"),
        ([Key(name="r", sha256=bytes(32), kind="APIKey", groups=("g",))], "only users have groups"),
    ],
)
def test_keys_that_cannot_be_meant_are_refused(keys: list[Key], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_keys(keys)
    with pytest.raises(ValueError, match=words):
        Identifier(keys)


def bearer(value: bytes) -> Header:
    return b"authorization", b"Bearer " + value


@pytest.mark.parametrize(
    ("headers", "caller"),
    [
        ([bearer(b"sk-1")], Caller(("User", "alice"), ("admins", "staff"))),
        ([(b"authorization", b"bEaReR   sk-2  ")], Caller(("APIKey", "robot"))),
        ([(b"x-api-key", b"sk-2")], Caller(("APIKey", "robot"))),
        ([bearer(b"sk-3")], UNKNOWN),
        ([bearer(b"")], UNKNOWN),
        ([(b"authorization", b"Basic sk-1")], UNKNOWN),
        ([], UNKNOWN),
        ([bearer(b"sk-1"), (b"x-api-key", b"sk-1")], UNKNOWN),
        ([bearer(b"sk-1"), bearer(b"sk-1")], UNKNOWN),
        ([bearer(b"a.b.c")], Caller(("User", "bob"), ("staff",))),
        ([(b"x-api-key", b"a.b.c")], Caller(("User", "bob"), ("staff",))),
        ([bearer(b"a.b.d")], UNKNOWN),
    ],
)
def test_a_credential_names_a_caller_or_nobody(
    headers: list[Header], caller: Caller | Stranger
) -> None:
    assert Identifier([ALICE, ROBOT], tokens=Scripted())(headers) == caller


def test_only_what_looks_like_a_token_is_taken_for_one() -> None:
    tokens = Scripted()
    identify = Identifier([ALICE], tokens=tokens)
    for value in (b"sk-1", b"a.b", b"a.b.c.d", b"none"):
        identify([bearer(value)])
    assert tokens.seen == []


def test_where_anonymous_clients_are_let_in_a_bad_token_is_still_refused() -> None:
    identify = Identifier([ALICE], tokens=Scripted(), anonymous=True)
    assert identify([]) == ANONYMOUS
    assert identify([bearer(b"whatever-the-library-sends")]) == ANONYMOUS
    assert identify([bearer(b"x.y.z")]) == UNKNOWN
    assert identify([bearer(b"sk-1"), bearer(b"sk-1")]) == UNKNOWN


# -- a certificate beside a key or token ----------------------------------------------------------


class Workload:
    """A client that has shown a certificate."""

    def __init__(self, named: Caller | Stranger) -> None:
        self.named = named

    def caller(self) -> Caller | Stranger:
        return self.named


CHAT = Caller(("Agent", "spiffe://example.org/chat"))
ALICES = Caller(("User", "alice"), ("admins", "staff"))
BOB = Caller(("User", "bob"), ("staff",))
TWO = "two_credentials"
NOBODY = "unauthorized"
SHOWN: dict[str, list[Header]] = {
    "nothing": [],
    "key": [bearer(b"sk-1")],
    "token": [bearer(b"a.b.c")],
    "bad token": [bearer(b"a.b.d")],
    "unknown key": [bearer(b"not-needed")],
    "two keys": [bearer(b"sk-1"), (b"x-api-key", b"sk-1")],
}


@pytest.mark.parametrize(
    ("mode", "shown", "who"),
    [
        ("certificate", "nothing", CHAT),
        ("certificate", "unknown key", CHAT),
        ("certificate", "key", TWO),
        ("certificate", "token", TWO),
        ("certificate", "bad token", TWO),
        ("certificate", "two keys", TWO),
        ("credential", "nothing", NOBODY),
        ("credential", "unknown key", NOBODY),
        ("credential", "key", ALICES),
        ("credential", "token", BOB),
        ("credential", "bad token", NOBODY),
        ("credential", "two keys", NOBODY),
        ("either", "nothing", CHAT),
        ("either", "unknown key", NOBODY),
        ("either", "key", ALICES),
        ("either", "token", BOB),
        ("either", "bad token", NOBODY),
        ("either", "two keys", NOBODY),
    ],
)
@pytest.mark.parametrize("anonymous", [False, True])
def test_who_the_caller_is_where_a_certificate_is_shown(
    mode: Certificates, shown: str, who: Caller | str, anonymous: bool
) -> None:
    identify = Identifier([ALICE], tokens=Scripted(), anonymous=anonymous, certificates=mode)
    found = identify(SHOWN[shown], Workload(CHAT))
    if anonymous and mode == "credential" and shown in ("nothing", "unknown key"):
        assert found == ANONYMOUS
    elif isinstance(who, str):
        assert isinstance(found, Stranger)
        assert found.code == who
    else:
        assert found == who


@pytest.mark.parametrize("mode", ["certificate", "credential", "either"])
@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("anonymous", [False, True])
def test_a_certificate_that_is_not_believed_refuses_whatever_else_is_shown(
    mode: Certificates, shown: str, anonymous: bool
) -> None:
    refused = Stranger("certificate_refused", "it has ended", "certificate.expired")
    identify = Identifier([ALICE], tokens=Scripted(), anonymous=anonymous, certificates=mode)
    assert identify(SHOWN[shown], Workload(refused)) == refused


# -- certificates ---------------------------------------------------------------------------------

URI = "spiffe://example.org/ns/prod/sa/chat"


def certificate(
    *uris: str,
    ca: bool | None = False,
    signs: bool = True,
    authority: bool = False,
    lists: bool = False,
    usage: bool = True,
) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), True)
    if usage:
        builder = builder.add_extension(
            x509.KeyUsage(
                digital_signature=signs, content_commitment=False, key_encipherment=False,
                data_encipherment=False, key_agreement=False, key_cert_sign=authority,
                crl_sign=lists, encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )  # fmt: skip
    return builder.sign(key, hashes.SHA256())


@pytest.mark.parametrize("ca", [False, None])
def test_a_workloads_certificate_names_an_agent(ca: bool | None) -> None:
    found = caller_of(certificate(URI, ca=ca), trust_domains={"example.org"})
    assert found == Caller(("Agent", URI))


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (certificate(), "spiffe.no_id"),
        (certificate(URI, URI + "2"), "spiffe.no_id"),
        (certificate("https://example.org/x"), "spiffe.malformed"),
        (certificate("spiffe://example.org"), "spiffe.malformed"),
        (certificate("spiffe://example.org/"), "spiffe.malformed"),
        (certificate("spiffe://Example.org/x"), "spiffe.malformed"),
        (certificate("spiffe://example.org:443/x"), "spiffe.malformed"),
        (certificate("spiffe://user@example.org/x"), "spiffe.malformed"),
        (certificate("spiffe://example.org/a//b"), "spiffe.malformed"),
        (certificate("spiffe://example.org/a/../b"), "spiffe.malformed"),
        (certificate("spiffe://example.org/a?b"), "spiffe.malformed"),
        (certificate("spiffe://example.org/a#b"), "spiffe.malformed"),
        (certificate("spiffe://example.org/a%2fb"), "spiffe.malformed"),
        (certificate("spiffe://example.org/" + "a" * 300), "spiffe.malformed"),
        (certificate("spiffe://other.org/x"), "spiffe.trust_domain"),
        (certificate(URI, ca=True), "spiffe.is_ca"),
        (certificate(URI, signs=False), "spiffe.key_usage"),
        (certificate(URI, authority=True), "spiffe.key_usage"),
        (certificate(URI, lists=True), "spiffe.key_usage"),
        (certificate(URI, usage=False), "spiffe.key_usage"),
    ],
)
def test_other_certificates_name_nobody(made: x509.Certificate, code: str) -> None:
    with pytest.raises(SpiffeError) as info:
        caller_of(made, trust_domains={"example.org"})
    assert info.value.code == code
