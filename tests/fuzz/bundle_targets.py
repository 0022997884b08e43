"""Policy bundles of anybody: manifest, policies, entities, signature.

What loads is enforced, and then every verdict must be Cedar's own for the whole set of policies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from attestation import cbor, cose
from enforcement.outcome import Outcome, Phase, Platform, PolicyRequest
from enforcement.policy.bundle import Bundle, BundleError
from enforcement.policy.bundle_files import bundle_digest
from enforcement.policy.bundle_signature import Trust, check_signature, sign_bundle
from enforcement.policy.engine import Engine
from tests.fuzz.recipes import Recipe, SignedRecipe

_MANIFEST: Final = """name = "test"
version = "1"
anonymous = true
[stream]
mode = "window"
hold_back = 512
[detectors]
phone = false
[claims.pii_found]
type = "bool"
source = ["builtin", "auditor:a"]
merge = "any"
[claims.risk]
type = "score"
source = "auditor:a"
phases = ["request"]
optional = true
[claims.owner]
type = "string"
source = "authzen:resource.properties.owner"
description = "x"
[claims.tags]
type = "string_list"
source = "auditor:a"
[auditors.a]
labels = ["person"]
[authzen.subjects]
"*" = "User"
"""
_POLICY: Final = '@id("all") permit (principal, action, resource);'
_ENTITIES: Final = [
    {
        "uid": {"type": "Lucid::User", "id": "alice"},
        "attrs": {"email": "a@example.org"},
        "parents": [{"type": "Lucid::Group", "id": "staff"}],
    },
    {"uid": {"__entity": {"type": "Lucid::Agent", "id": "demo"}}, "attrs": {}, "parents": []},
    {"uid": {"type": "Lucid::Group", "id": "staff"}, "attrs": {}, "parents": []},
]
# Pieces of which policies are made; what stands between them is a blank.
_PIECES: Final = (
    *('@id("a")', '@id("b")', '@id("c")', '@decision("warn")', '@decision("redact")'),
    *('@redact("email")', '@redact_with("hash")', '@phase("request")', '@max_tokens("9")'),
    *('@rate("1/minute")', "@require_hardware", '@description("x")', "@odd", "permit", "forbid"),
    *("(principal, action, resource)", "(", ")", "principal", "action", "resource", ",", ";"),
    *("==", "in", "is", "[", "]", "{", "}", "when", "unless", "&&", "||", "!", "has", ".", "if"),
    *(
        "then",
        "else",
        "<",
        ">",
        "<=",
        "+",
        "*",
        "-",
        "like",
        '"a*"',
        "true",
        "false",
        "0.7",
        "7000",
    ),
    *("context", "claims", "context.claims", "context.claims.pii_found", "context.claims.risk"),
    *("context.claims.owner", "context.claims.tags", '.contains("x")', "context.phase"),
    *("context.platform.simulated", "context.trace_id", 'Lucid::User::"alice"', "?principal"),
    *('Lucid::Group::"staff"', 'Lucid::Action::"invoke"', 'Lucid::Agent::"demo"', "Lucid::User"),
    *(
        "// x",
        "\n",
        '"\\u{301}"',
        '"\\x41"',
        "\u202e",
        "9223372036854775808",
        "ip",
        'decimal("1.0")',
    ),
    *('@id("w") @decision("warn") forbid (principal, action, resource)', ".containsAll([])"),
    *('@id("d") forbid (principal, action, resource)', '@id("p") permit (principal, action, '),
    *("when { context.claims has risk && context.claims.risk > 7000 }", "resource is"),
    *("when { context.claims.pii_found }", 'unless { principal in Lucid::Group::"staff" }'),
)
_KEYS: Final = ("uid", "attrs", "parents", "type", "id", "__entity", "__extn", "email", "x", "")
_WORDS: Final = (
    *("Lucid::User", "Lucid::Group", "Lucid::Agent", "Lucid::Organization", "User", "alice"),
    *("staff", "demo", "a@example.org", "\ud800", "\x00", "e\u0301", "decimal", "1.0"),
)
_CLAIMS: Final[Mapping[str, Any]] = {"pii_found": True, "risk": 8000, "owner": "x", "tags": ("x",)}


def _load(files: Mapping[str, bytes | str]) -> Bundle | None:
    """The bundle, or None: it was refused, and why is said."""
    whole: dict[str, bytes | str] = {
        "bundle.toml": _MANIFEST,
        "policies/main.cedar": _POLICY,
        **files,
    }
    try:
        return Bundle.from_files(
            {name: text.encode() if isinstance(text, str) else text for name, text in whole.items()}
        )
    except BundleError as error:
        _said(error)
        return None


def _said(error: BundleError) -> None:
    """Every problem can be shown."""
    assert error.problems
    for problem in error.problems:
        json.dumps(problem.as_json()).encode()
        assert problem.message


def manifest(data: bytes) -> None:
    """A manifest is understood whole, or every problem has words."""
    if not data:
        return
    text = Recipe(data[1:]).exchanged(_MANIFEST.encode()) if data[0] % 2 else data[1:]
    bundle = _load({"bundle.toml": text})
    if bundle is not None:
        assert bundle.digest == bundle_digest(bundle.files)
        _asked(bundle)


def entities(data: bytes) -> None:
    """Entities are those that Cedar takes under the schema."""
    if not data:
        return
    text: bytes = data[1:]
    if data[0] % 2:
        recipe = Recipe(text, keys=_KEYS, words=_WORDS)
        text = json.dumps(recipe.changed(_ENTITIES), ensure_ascii=data[0] % 4 == 1).encode(
            "utf-8", "surrogatepass"
        )
    bundle = _load({"entities.json": text})
    if bundle is not None:
        _asked(bundle)


@cache
def _examples() -> tuple[bytes, ...]:
    folder = Path(__file__).parents[2]
    paths = sorted((*folder.glob("examples/**/*.cedar"), *folder.glob("lucid/data/**/*.cedar")))
    return tuple(path.read_bytes() for path in paths)


def policies(data: bytes) -> None:
    """Policies are enforced as Cedar means them, or refused."""
    if not data:
        return
    recipe = Recipe(data[1:])
    match data[0] % 4:
        case 0:
            text = data[1:]
        case 1:
            text = recipe.exchanged(_examples()[data[0] // 4 % len(_examples())])
        case _:
            text = b""
            while recipe.left and len(text) < 4096:
                text += _PIECES[recipe.byte() % len(_PIECES)].encode() + b" "
    bundle = _load({"policies/main.cedar": text, "entities.json": json.dumps(_ENTITIES)})
    if bundle is not None:
        _asked(bundle)


def _asked(bundle: Bundle) -> None:
    """Both phases are decided, twice the same, and never by a fault."""
    engine = Engine(bundle, cache_size=4)
    for phase in Phase:
        request = PolicyRequest(
            principal=("User", "alice"),
            action="invoke",
            resource=("Agent", "demo"),
            phase=phase,
            claims={name: _CLAIMS[name] for name in _CLAIMS if name in bundle.gives(phase)},
            trace_id="0" * 32,
            platform=Platform(
                tee_type="tdx", hardware_attested=True, tcb_status="UpToDate", simulated=False
            ),
        )
        verdict = engine.decide(request)
        assert engine.decide(request) == verdict
        assert "engine_error" not in verdict.reasons, verdict.errors
        if verdict.outcome is not Outcome.DENY:
            assert set(verdict.reasons) & set(bundle.policies)


_FILES: Final = {"bundle.toml": _MANIFEST.encode(), "policies/main.cedar": _POLICY.encode()}
_LABELS: Final = (1, 2, 4, 16, 3, -1, "alg", 5)


@cache
def _signer() -> tuple[ec.EllipticCurvePrivateKey, Trust]:
    key = ec.generate_private_key(ec.SECP256R1())
    return key, Trust.of([key.public_key()], required=True)


def signature(data: bytes) -> None:
    """Nothing but the one key's word over these files is a signature of them."""
    if not data:
        return
    key, trust = _signer()
    recipe = SignedRecipe(data[1:], keys=_LABELS, words=("lucid.policy-bundle", "x"))
    sound = sign_bundle(_FILES, key)
    message = cose.Sign1.parse(sound)
    protected, payload = dict(message.protected), message.payload or b""
    match data[0] % 4:
        case 0:
            made = data[1:]
        case 1:
            made = recipe.exchanged(sound)
        case 2:
            said = recipe.changed(["lucid.policy-bundle", 1, bundle_digest(_FILES)])
            made, payload = b"", cbor.encode(said)
        case _:
            made, protected = b"", recipe.changed(protected)
    if not made:
        if protected.get(1) != cose.ES256:
            return
        made = cose.sign1(payload, key, protected=protected)
    with suppress(BundleError):
        kid = check_signature({**_FILES, "bundle.sig": made}, trust)
        assert kid == cose.thumbprint(key.public_key())
        assert payload == message.payload


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "manifest": manifest,
    "entities": entities,
    "policies": policies,
    "signature": signature,
}
