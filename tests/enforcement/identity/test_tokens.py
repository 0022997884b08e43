"""Tokens: what is believed, and every way to be refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from enforcement.identity.callers import Caller
from enforcement.identity.tokens import (
    MAX_TOKEN,
    Issuer,
    KeySet,
    TokenError,
    TokenVerifier,
    read_keys,
)

NOW = 1_800_000_000.0
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()

ISSUER = Issuer(
    issuer="https://login.example.org",
    audience=("lucid", "lucid-2"),
    algorithms=("RS256", "ES256", "EdDSA"),
)


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    algorithm: Any = {
        rsa.RSAPrivateKey: RSAAlgorithm,
        ec.EllipticCurvePrivateKey: ECAlgorithm,
        ed25519.Ed25519PrivateKey: OKPAlgorithm,
    }[next(kind for kind in (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey,
                             ed25519.Ed25519PrivateKey) if isinstance(key, kind))]  # fmt: skip
    return {**json.loads(algorithm.to_jwk(key.public_key())), **more}


def jwks(*keys: dict[str, Any]) -> KeySet:
    return read_keys(json.dumps({"keys": list(keys)}).encode())


KEYS = jwks(jwk(RSA, kid="r"), jwk(EC, kid="e", alg="ES256", use="sig"), jwk(ED, kid="d"))


def claims(**more: Any) -> dict[str, Any]:
    base = {
        "iss": ISSUER.issuer,
        "aud": "lucid",
        "sub": "alice",
        "exp": NOW + 300,
        "iat": NOW - 10,
        "groups": ["staff", "admins", "staff"],
    }
    return {key: value for key, value in {**base, **more}.items() if value is not None}


def signed(
    body: dict[str, Any] | None = None,
    *,
    key: Any = RSA,
    algorithm: str = "RS256",
    kid: object = "r",
    **headers: Any,
) -> bytes:
    headers = {"kid": kid, **headers} if kid is not None else headers
    return jwt.encode(claims() if body is None else body, key, algorithm, headers=headers).encode()


def by_hand(header: dict[str, Any], body: Any, signature: bytes = b"") -> bytes:
    parts = [json.dumps(header).encode(), json.dumps(body).encode(), signature]
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


def verifier(
    keys: Callable[[], KeySet | None] = lambda: KEYS, *, now: Callable[[], float] = lambda: NOW
) -> TokenVerifier:
    return TokenVerifier([(ISSUER, keys)], now=now)


def refused(token: bytes) -> str:
    with pytest.raises(TokenError) as info:
        verifier().verify(token)
    return info.value.code


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA, "RS256", "r"), (EC, "ES256", "e"), (ED, "EdDSA", "d")]
)
def test_a_token_names_its_subject_and_groups(key: Any, algorithm: str, kid: str) -> None:
    found = verifier().verify(signed(key=key, algorithm=algorithm, kid=kid))
    assert found == Caller(("User", "alice"), ("admins", "staff"))


def test_another_claim_may_name_the_caller_and_groups_may_be_ignored() -> None:
    issuer = Issuer(
        issuer=ISSUER.issuer,
        audience=("lucid",),
        kind="Agent",
        principal_claim="azp",
        groups_claim="",
    )
    found = TokenVerifier([(issuer, lambda: KEYS)], now=lambda: NOW)
    assert found.verify(signed(claims(azp="bot", groups="x"))) == Caller(("Agent", "bot"))


def test_one_of_several_audiences_is_enough() -> None:
    assert verifier().verify(signed(claims(aud=["x", "lucid-2"]))).principal == ("User", "alice")


def test_a_token_without_kid_is_believed_where_only_one_key_fits() -> None:
    assert verifier().verify(signed(kid=None)).principal == ("User", "alice")
    two = jwks(jwk(RSA, kid="1"), jwk(OTHER_RSA, kid="2"))
    with pytest.raises(TokenError, match="key_ambiguous"):
        verifier(lambda: two).verify(signed(kid=None))


# -- the classic attacks --------------------------------------------------------------------------

PUBLIC_PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
PUBLIC_JWK = json.dumps(jwk(RSA)).encode()


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 1, ["RS256"]])
def test_the_algorithm_none_is_refused_however_it_is_spelt(algorithm: object) -> None:
    token = by_hand({"alg": algorithm, "kid": "r", "typ": "JWT"}, claims())
    assert refused(token) in ("algorithm_refused", "malformed")


@pytest.mark.parametrize("secret", [PUBLIC_PEM, PUBLIC_PEM.strip(), PUBLIC_JWK])
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_no_secret(secret: bytes, algorithm: str) -> None:
    header = {"alg": algorithm, "kid": "r"}
    unsigned = by_hand(header, claims()).rpartition(b".")[0]
    digest = hmac.new(secret, unsigned, getattr(hashlib, f"sha{algorithm[2:]}")).digest()
    assert refused(by_hand(header, claims(), digest)) == "algorithm_refused"


def test_an_algorithm_that_is_not_allowed_is_refused_even_if_the_key_could() -> None:
    assert refused(signed(algorithm="RS512")) == "algorithm_refused"
    assert refused(signed(algorithm="PS256")) == "algorithm_refused"


@pytest.mark.parametrize(
    ("named", "code"), [({}, ""), ({"alg": "PS256"}, ""), ({"alg": "RS256"}, "key_unknown")]
)
def test_a_key_that_names_its_algorithm_is_used_with_no_other(
    named: dict[str, str], code: str
) -> None:
    issuer = Issuer(issuer=ISSUER.issuer, audience=("lucid",), algorithms=("RS256", "PS256"))
    keys = jwks(jwk(RSA, kid="r", **named))
    found = TokenVerifier([(issuer, lambda: keys)], now=lambda: NOW)
    assert (found.caller(signed(algorithm="PS256")) is None) is bool(code)
    assert list(found.refused) == ([code] if code else [])


def test_a_token_that_is_too_large_is_not_read() -> None:
    assert refused(signed(claims(more="x" * MAX_TOKEN))) == "too_large"


def test_a_key_is_not_used_with_the_algorithm_of_another_kind() -> None:
    assert refused(signed(key=EC, algorithm="ES256", kid="r")) == "key_unknown"
    assert refused(signed(key=RSA, algorithm="RS256", kid="e")) == "key_unknown"


def test_a_key_that_is_for_one_algorithm_is_used_with_no_other() -> None:
    """Both are RSA, and both are accepted of this issuer."""
    both = msgspec.structs.replace(ISSUER, algorithms=("RS256", "PS256"))
    for alg, code in (("PS256", "key_unknown"), ("RS256", None), (None, None)):
        more = {} if alg is None else {"alg": alg}
        keys = jwks(jwk(RSA, kid="r", **more))
        judge = TokenVerifier([(both, partial(lambda found: found, keys))], now=lambda: NOW)
        if code is None:
            assert judge.verify(signed()).principal == ("User", "alice")
        else:
            with pytest.raises(TokenError, match=code):
                judge.verify(signed())


def test_a_key_that_the_token_brings_along_is_not_looked_at() -> None:
    brought: dict[str, Any] = {"jwk": jwk(OTHER_RSA), "jku": "https://evil.example/keys"}
    assert refused(signed(key=OTHER_RSA, **brought)) == "signature_invalid"
    assert refused(signed(key=OTHER_RSA, kid="x", **brought)) == "key_unknown"


def test_a_token_of_another_key_of_the_same_issuer_is_refused_under_this_kid() -> None:
    keys = jwks(jwk(RSA, kid="old"), jwk(OTHER_RSA, kid="new"))
    with pytest.raises(TokenError, match="signature_invalid"):
        verifier(lambda: keys).verify(signed(key=RSA, kid="new"))


def test_the_keys_of_one_issuer_do_not_sign_for_another() -> None:
    other = Issuer(issuer="https://b.example", audience=("lucid",), algorithms=("RS256",))
    found = TokenVerifier(
        [(ISSUER, lambda: KEYS), (other, lambda: jwks(jwk(OTHER_RSA, kid="r")))], now=lambda: NOW
    )
    found.verify(signed(claims(iss="https://b.example"), key=OTHER_RSA))
    with pytest.raises(TokenError, match="signature_invalid"):
        found.verify(signed(claims(iss="https://b.example"), key=RSA))


def test_what_was_signed_cannot_be_changed() -> None:
    head, _, signature = signed().split(b".")
    changed = by_hand({}, claims(sub="root")).split(b".")[1]
    assert refused(b".".join([head, changed, signature])) == "signature_invalid"
    assert refused(b".".join([head, signed().split(b".")[1], b""])) == "signature_invalid"


# -- claims ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (claims(iss="https://evil.example"), "issuer_unknown"),
        (claims(iss=None), "issuer_unknown"),
        (claims(aud="other"), "audience_wrong"),
        (claims(aud=[]), "claim_missing"),
        (claims(aud=None), "claim_missing"),
        (claims(exp=None), "claim_missing"),
        (claims(sub=None), "claim_missing"),
        (claims(exp="soon"), "malformed"),
        (claims(exp=True), "malformed"),
        (claims(exp=1e308), "malformed"),
        (claims(nbf="now"), "malformed"),
        (claims(exp=NOW - 31), "expired"),
        (claims(nbf=NOW + 31), "not_yet_valid"),
        (claims(iat=NOW + 31), "not_yet_valid"),
        (claims(sub=""), "principal_malformed"),
        (claims(sub="x" * 257), "principal_malformed"),
        (claims(groups="staff"), "groups_malformed"),
        (claims(groups=[1]), "groups_malformed"),
        (claims(groups=[""]), "groups_malformed"),
        (claims(groups=["g"] * 257), "groups_malformed"),
    ],
)
def test_claims_that_do_not_fit_are_refused(body: dict[str, Any], code: str) -> None:
    assert refused(signed(body)) == code


def test_an_issuer_that_is_no_text_is_unknown() -> None:
    body = claims(iss=[ISSUER.issuer])
    assert refused(by_hand({"alg": "RS256", "kid": "r"}, body)) == "issuer_unknown"


@pytest.mark.parametrize("body", [claims(exp=NOW - 29), claims(nbf=NOW + 29), claims(iat=NOW + 29)])
def test_clocks_may_differ_a_little(body: dict[str, Any]) -> None:
    verifier().verify(signed(body))


@pytest.mark.parametrize(
    "token",
    [b"", b"..", b"a.b.c", b"\xff.\xff.\xff", by_hand({"alg": "RS256"}, []), signed()[:-400],
     by_hand({"alg": "RS256", "kid": 3}, claims()), signed(crit=["b64"], b64=False), b"." * 20_000],
)  # fmt: skip
def test_what_is_no_token_is_refused(token: bytes) -> None:
    assert refused(token) in ("malformed", "too_large", "signature_invalid")


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail_otherwise(data: bytes) -> None:
    found = verifier()
    assert found.caller(data) is None
    assert sum(found.refused.values()) == 1


# -- memory and rotation --------------------------------------------------------------------------


def test_a_remembered_token_still_ends() -> None:
    now = NOW
    found = verifier(now=lambda: now)
    token = signed()
    assert found.caller(token) is not None
    now = NOW + 329
    assert found.caller(token) is not None
    now = NOW + 331
    assert found.caller(token) is None
    assert found.refused == {"expired": 1}


def test_a_remembered_token_is_forgotten_when_its_issuers_keys_change() -> None:
    keys: list[KeySet | None] = [KEYS]
    found = verifier(lambda: keys[0])
    token = signed()
    assert found.caller(token) is not None
    keys[0] = jwks(jwk(OTHER_RSA, kid="r"))
    assert found.caller(token) is None
    keys[0] = None
    assert found.caller(token) is None
    assert found.refused == {"signature_invalid": 1, "keys_unavailable": 1}


def test_a_key_that_is_not_there_is_asked_for() -> None:
    missed: list[str] = []
    found = TokenVerifier([(ISSUER, lambda: KEYS)], now=lambda: NOW, missed=missed.append)
    assert found.caller(signed(kid="new")) is None
    assert missed == [ISSUER.issuer]


# -- key sets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"{}", "not a JWK Set"),
        (b'{"keys":{}}', "not a JWK Set"),
        (b'{"keys":[]}', "no key in it"),
        (json.dumps({"keys": [{"kty": "oct", "k": "AAAA"}]}).encode(), "secret key"),
        (json.dumps({"keys": [json.loads(RSAAlgorithm.to_jwk(RSA))]}).encode(), "secret key"),
        (json.dumps({"keys": [jwk(RSA, kid="a"), jwk(EC, kid="a")]}).encode(), "same kid"),
        (json.dumps({"keys": [jwk(RSA)] * 65}).encode(), "more than 64"),
        (json.dumps({"keys": [jwk(SHORT_RSA)]}).encode(), "no key in it"),
        (json.dumps({"keys": [jwk(RSA, use="enc")]}).encode(), "no key in it"),
        (json.dumps({"keys": [jwk(RSA, alg="HS256")]}).encode(), "no key in it"),
        (json.dumps({"keys": [jwk(RSA, key_ops=["encrypt"])]}).encode(), "no key in it"),
        (json.dumps({"keys": [{"kty": "RSA", "n": "!", "e": "AQAB"}]}).encode(), "no key in it"),
    ],
)
def test_a_document_that_is_no_set_of_public_keys_is_refused(document: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_keys(document)


def test_keys_that_cannot_be_used_are_left_out() -> None:
    assert len(jwks(jwk(RSA), jwk(SHORT_RSA), {"kty": "OKP", "crv": "X25519", "x": "AA"})) == 1
