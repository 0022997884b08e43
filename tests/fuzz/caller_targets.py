"""Who calls, and what is said about it: tokens and their keys, certificates and their lists, TLS,
AuthZEN requests, auditors' answers.
"""

from __future__ import annotations

import atexit
import json
import shutil
import ssl
import tempfile
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from jwt.algorithms import ECAlgorithm

from agent.config import TlsTable
from agent.gateway.tls_files import TlsFilesError, load
from enforcement import authzen_request
from enforcement.auditing import Question
from enforcement.auditors import contract
from enforcement.auditors.answer import MAX_STATUS, read_answer
from enforcement.auditors.contract import AnswerError
from enforcement.auditors.question import outgoing
from enforcement.authzen_request import AuthzenError
from enforcement.http.tls import TlsError, TlsSession
from enforcement.identity.callers import Caller, Stranger
from enforcement.identity.peer import Peer, Trust, chain_of, digest_of
from enforcement.identity.tokens import Issuer, KeySet, TokenError, TokenVerifier, read_keys
from enforcement.outcome import Phase
from enforcement.policy.bundle import Bundle
from enforcement.policy.vocabulary import Claim, ClaimError, ClaimType
from tests.fuzz.recipes import Recipe
from tests.pki import CHAT, DOMAIN, Cert, as_pem, authority, client_context, make, revoked

# -- tokens ---------------------------------------------------------------------------------------

NOW: Final = 1_800_000_000
ISSUER: Final = Issuer(issuer="https://issuer", audience=("lucid",), algorithms=("ES256", "EdDSA"))
_CLAIMS: Final = {
    "iss": ISSUER.issuer,
    "aud": "lucid",
    "sub": "alice",
    "exp": NOW + 300,
    "iat": NOW,
    "nbf": NOW,
    "groups": ["staff"],
}
_HEADER: Final = {"alg": "ES256", "kid": "k", "typ": "JWT"}
_NAMES: Final = (
    *("iss", "aud", "sub", "exp", "iat", "nbf", "groups", "jti", "alg", "kid", "typ", "crit"),
    *("jwk", "jku", "x5c", "x5u", "b64", "cty", "keys", "kty", "crv", "x", "y", "n", "e", "d"),
    *("use", "key_ops", "k", "", "é"),
)
_WORDS: Final = (
    *(ISSUER.issuer, "lucid", "alice", "staff", "ES256", "RS256", "HS256", "none", "EdDSA", "k"),
    *("JWT", "EC", "RSA", "OKP", "oct", "P-256", "P-384", "Ed25519", "Ed448", "sig", "enc"),
    *("verify", "sign", "AQAB", "AA", "A" * 43, "_" * 43, "=", "\ud800", "\x00", "é" * 300),
)


@cache
def _key() -> tuple[ec.EllipticCurvePrivateKey, KeySet, dict[str, Any]]:
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = {**json.loads(ECAlgorithm.to_jwk(key.public_key())), "kid": "k"}
    return key, read_keys(json.dumps({"keys": [jwk]}).encode()), jwk


def _encoded(part: bytes) -> bytes:
    return urlsafe_b64encode(part).rstrip(b"=")


def _token(header: bytes, claims: bytes) -> bytes:
    signed = _encoded(header) + b"." + _encoded(claims)
    r, s = decode_dss_signature(_key()[0].sign(signed, ec.ECDSA(hashes.SHA256())))
    return signed + b"." + _encoded(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def token(data: bytes) -> None:
    """Whoever is believed is named by claims that hold, as Python's own JSON reads them."""
    if not data:
        return
    recipe = Recipe(data[1:], keys=_NAMES, words=_WORDS)
    header, claims = json.dumps(_HEADER).encode(), json.dumps(_CLAIMS).encode()
    match data[0] % 5:
        case 0:
            shown = data[1:]
        case 1:
            shown = _token(header, data[1:])
        case 2:
            shown = _token(data[1:], claims)
        case 3:
            shown = recipe.exchanged(_token(header, claims))
        case _:
            header = json.dumps(recipe.changed(_HEADER)).encode()
            shown = _token(header, json.dumps(recipe.changed(_CLAIMS)).encode())
    verifier = TokenVerifier([(ISSUER, lambda: _key()[1])], now=lambda: NOW + 1)
    try:
        caller = verifier.verify(shown)
    except TokenError:
        assert verifier.caller(shown) is None
        return
    payload = shown.split(b".")[1]
    said = json.loads(_decoded(payload))
    assert said["iss"] == ISSUER.issuer
    assert "lucid" in ([said["aud"]] if isinstance(said["aud"], str) else said["aud"])
    assert said["exp"] + 30 > NOW + 1 >= max(said.get("nbf", 0), said.get("iat", 0)) - 30
    assert caller == Caller(("User", said["sub"]), tuple(sorted(set(said.get("groups", [])))))


def _decoded(part: bytes) -> bytes:
    return urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def jwks(data: bytes) -> None:
    """A set of keys is read or refused; no secret one is taken."""
    if not data:
        return
    document = data[1:]
    if data[0] % 2:
        recipe = Recipe(document, keys=_NAMES, words=_WORDS)
        document = json.dumps(recipe.changed({"keys": [_key()[2], {"kty": "RSA"}]})).encode()
    with suppress(ValueError):
        assert len(read_keys(document))
        assert not any("d" in one for one in json.loads(document)["keys"])


# -- certificates ---------------------------------------------------------------------------------


@cache
def _certificates() -> tuple[Cert, Cert, Cert]:
    """An authority, a client and a gateway."""
    root = authority()
    client = make("chat", root, uris=(CHAT,), hosts=("a.example",))
    return root, client, make("gateway", root, hosts=("gateway.example",))


@cache
def _folder(user: str) -> Path:
    """The files that a gateway begins with, for one of the targets alone."""
    folder = Path(tempfile.mkdtemp(prefix=f"lucid-fuzz-{user}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _certificates()[2].write(folder, "gateway")
    return folder


def certificate(data: bytes) -> None:
    """A certificate names a workload of its domain, or nobody."""
    root, client, _ = _certificates()
    der = Recipe(data).exchanged(client.der)
    trust = Trust(domains={DOMAIN: frozenset({digest_of(root.der)})})
    chain = chain_of([der, root.der])
    caller = Peer(der, chain, trust=lambda: trust, now=time.time).caller()
    if not isinstance(caller, Stranger):
        assert caller.principal[1].startswith(f"spiffe://{DOMAIN}/")
        assert x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp() > time.time()


def tls_files(data: bytes) -> None:
    """Files of the gateway are used or refused, and a refusal names one of them."""
    if not data:
        return
    root, _, gateway = _certificates()
    folder = _folder("files")
    recipe = Recipe(data[1:])
    (folder / "gateway.pem").write_bytes(gateway.pem)
    (folder / "trust.pem").write_bytes(root.pem)
    lists = x509.load_pem_x509_crl(_list()).public_bytes(Encoding.DER)
    (folder / "crl.pem").write_bytes(_list())
    match data[0] % 4:
        case 0:
            (folder / "gateway.pem").write_bytes(as_pem(recipe.exchanged(gateway.der)))
        case 1:
            (folder / "trust.pem").write_bytes(as_pem(recipe.exchanged(root.der)))
        case 2:
            (folder / "crl.pem").write_bytes(as_pem(recipe.exchanged(lists), "X509 CRL"))
        case _:
            name = ("gateway.pem", "trust.pem", "crl.pem")[data[0] // 4 % 3]
            given = (folder / name).read_bytes() + (root.pem if data[0] >= 128 else b"")
            (folder / name).write_bytes(recipe.exchanged(given))
    table = TlsTable(
        certificate_file=f"{folder}/gateway.pem",
        key_file=f"{folder}/gateway.key",
        client="required",
        trust_domains={DOMAIN: f"{folder}/trust.pem"},
        client_crl_file=f"{folder}/crl.pem",
    )
    refusal = ""
    try:
        loaded = load(table, now=time.time())
        assert loaded.begins <= time.time() < loaded.ends
        assert loaded.credentials.context.cert_store_stats()["x509"] <= loaded.authorities
    except TlsFilesError as error:
        refusal = str(error)
    assert refusal.startswith(str(folder) if refusal else "")


@cache
def _list() -> bytes:
    root, client, _ = _certificates()
    return revoked(root, client)


# -- TLS ------------------------------------------------------------------------------------------

_TEXT: Final = b"GET / HTTP/1.1\r\n\r\n" * 20


@cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    root, client, gateway = _certificates()
    folder = _folder("tls")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "gateway.pem", folder / "gateway.key")
    server.load_verify_locations(cadata=root.pem.decode())
    server.verify_mode = ssl.CERT_REQUIRED
    ours = client_context(folder, gateway, client)
    ours.load_verify_locations(cadata=root.pem.decode())
    return server, ours


def tls(data: bytes) -> None:
    """What is read is what the client wrote, up to where somebody touched it."""
    if not data:
        return
    recipe = Recipe(data[1:])
    server, ours = _contexts()
    session = TlsSession(server)
    incoming, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ours.wrap_bio(incoming, out, server_hostname="gateway.example")
    read = b""
    with suppress(TlsError):
        if data[0] % 4 == 0:
            session.feed(data[1:])
            session.handshake()
            return
        for turn in range(8):
            with suppress(ssl.SSLError):
                client.do_handshake()
                if session.open:
                    client.write(_TEXT)
            sent = out.read()
            touched = recipe.exchanged(sent) if turn == data[0] % 8 else sent
            if not touched:
                break
            session.feed(touched)
            if not session.open:
                session.handshake()
            else:
                while piece := session.read():
                    read += piece
            incoming.write(session.outgoing())
    assert (_TEXT * 8).startswith(read)


# -- AuthZEN --------------------------------------------------------------------------------------

_MANIFEST: Final = b"""
name = "test"
version = "1"
[claims.owner]
type = "string"
source = "authzen:resource.properties.owner"
[claims.score]
type = "score"
source = "authzen:context.score"
[claims.level]
type = "integer"
source = "authzen:subject.properties.level"
[claims.tags]
type = "string_list"
source = "authzen:action.properties.tags"
[claims.ready]
type = "bool"
source = "authzen:context.ready"
[authzen.subjects]
robot = "Agent"
"""
_EVALUATION: Final = {
    "subject": {"type": "user", "id": "alice", "properties": {"level": 3}},
    "action": {"name": "invoke", "properties": {"tags": ["a", "b"]}},
    "resource": {"type": "service", "id": "m", "properties": {"owner": "bob"}},
    "context": {"input": "hello", "output": "ho", "score": 0.5, "ready": True},
}
_EVALUATIONS: Final = {
    **_EVALUATION,
    "evaluations": [{"resource": {"type": "agent", "id": "x"}}, {}],
    "options": {"evaluations_semantic": "deny_on_first_deny"},
}
_MEMBERS: Final = (
    *("subject", "action", "resource", "context", "evaluations", "options", "type", "id", "name"),
    *("properties", "level", "tags", "owner", "score", "ready", "input", "output"),
    *("evaluations_semantic", "x", ""),
)


@cache
def _bundle() -> Bundle:
    policy = b'@id("all") permit (principal, action, resource);'
    return Bundle.from_files({"bundle.toml": _MANIFEST, "policies/main.cedar": policy})


def authzen(data: bytes) -> None:
    """A request is one, or is refused without a word of it."""
    if not data:
        return
    body = data[1:]
    if data[0] % 2:
        body = json.dumps(Recipe(body, keys=_MEMBERS).changed(_EVALUATIONS)).encode()
    with suppress(AuthzenError):
        read = authzen_request.decode(body)
        for one in (read.members(), *(read.evaluations or ())):
            given = {**read.members(), **one}
            authzen_request.check(given)
            authzen_request.Names(_bundle(), given)
            authzen_request.texts_of(given.get("context", {}))
            with suppress(ClaimError):
                for value in authzen_request.claims_of(_bundle(), Phase.REQUEST, given).values():
                    assert isinstance(value, (bool, int, str, tuple))


# -- auditors -------------------------------------------------------------------------------------

_WANTED: Final = {
    kind.value: Claim(name=kind.value, type=kind, sources=("auditor:a",), phases=frozenset(Phase))
    for kind in ClaimType
}
_SAID: Final = {
    "status": "success",
    "claims": [
        {
            "name": "score",
            "type": "score",
            "value": 0.5,
            "confidence": 0.75,
            "metadata": {
                "spans": [
                    {"part": "input", "start": 2, "end": 9, "label": "person"},
                    {"part": "output", "start": 0, "end": 1, "label": "person"},
                ]
            },
            "provenance": {"model": "m-1", "threshold": 0.5, "cached": False, "said": "a b"},
        },
        {"name": "bool", "type": "boolean", "value": True},
        {"name": "string_list", "type": "string[]", "value": ["a"]},
        {"name": "integer", "type": "integer", "value": 3.0},
        {"name": "string", "type": "category", "value": "en"},
        {"name": "decimal", "type": "number", "value": -2.5},
    ],
    "error": {"code": "NOT_READY", "message": "words"},
}
_PARTS: Final = (
    *("status", "claims", "error", "code", "name", "type", "value", "confidence", "metadata"),
    *("spans", "part", "start", "end", "label", "provenance", "model", "x", ""),
)
_TYPES: Final = (
    *("success", "error", "NOT_READY", "input", "output", "person", "place", "score", "boolean"),
    *("string[]", "integer", "number", "category", "bool", "decimal", "m-1", "a b", "é", "\ud800"),
)


@cache
def _question() -> Question:
    return Question(
        auditors=None,  # type: ignore[arg-type]  # nobody is asked here
        phase=Phase.REQUEST,
        input=("hello", "", "wörld 😀", "again"),
        output=None,
        model="m",
        principal=("User", "alice"),
        agent_id="agent",
        trace_id="0" * 32,
        request_id="req-1",
    )


def answer(data: bytes) -> None:
    """An answer is believed whole or not at all, and its spans lie in the texts."""
    if not data:
        return
    body = data[1:]
    if data[0] % 4 == 1:
        body = json.dumps(Recipe(body, keys=_PARTS, words=_TYPES).changed(_SAID)).encode()
    elif data[0] % 4:
        body = Recipe(body).exchanged(json.dumps(_SAID).encode())
    for reader in (contract.read_health, contract.read_vocabulary):
        with suppress(AnswerError):
            reader(body)
    texts = _question().input
    try:
        said = read_answer(
            body,
            wanted=_WANTED,
            sent=outgoing(_question()),
            labels=frozenset({"person"}),
        )
    except AnswerError as error:
        _plain(error.status)
        return
    assert len(said.note) <= MAX_STATUS
    for name, value in said.claims.items():
        assert _WANTED[name].check(value) == value
    for index, spans in said.spans.items():
        for span in spans:
            assert 0 <= span.start < span.end <= len(texts[index])


def _plain(status: str) -> None:
    assert status.isprintable()
    assert len(status) < MAX_STATUS


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "token": token,
    "jwks": jwks,
    "certificate": certificate,
    "tls_files": tls_files,
    "tls": tls,
    "authzen": authzen,
    "answer": answer,
}
