"""Small bundles and requests for the tests of the policy engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attestation.records import ClaimValue
from enforcement.outcome import Phase, Platform, PolicyRequest
from enforcement.policy.bundle import Bundle, BundleError, Problem
from enforcement.policy.engine import Engine

MANIFEST = """
name = "test"
version = "1"
[claims.pii_found]
type = "bool"
source = "builtin"
phases = ["request", "response"]
[claims.pii_types]
type = "string_list"
source = "builtin"
[claims.secret_leaked]
type = "bool"
source = "builtin"
[claims.injection_risk]
type = "score"
source = "auditor:injection"
phases = ["request"]
[claims.toxicity]
type = "decimal"
source = "auditor:tox"
optional = true
[claims.tokens]
type = "integer"
source = "auditor:count"
[claims.language]
type = "string"
source = "auditor:language"
[claims.grounded]
type = "bool"
source = "auditor:facts"
phases = ["response"]
"""

PERMIT = '@id("allow") permit (principal, action, resource);'

CLAIMS: dict[str, ClaimValue] = {
    "pii_found": False,
    "pii_types": (),
    "secret_leaked": False,
    "injection_risk": 100,
    "toxicity": 0,
    "tokens": 10,
    "language": "en",
    "grounded": True,
}

PLATFORM = Platform(
    tee_type="sev-snp", hardware_attested=True, tcb_status="up_to_date", simulated=False
)
SIMULATED = Platform(tee_type="simulated", hardware_attested=False, tcb_status="", simulated=True)


def write(
    folder: Path,
    policies: str | Mapping[str, str] = PERMIT,
    *,
    manifest: str = MANIFEST,
    entities: str | None = None,
) -> Path:
    """A bundle folder with one policy file, or several by name."""
    files = {"main": policies} if isinstance(policies, str) else policies
    (folder / "policies").mkdir(parents=True, exist_ok=True)
    (folder / "bundle.toml").write_text(manifest, encoding="utf-8")
    for name, text in files.items():
        (folder / "policies" / f"{name}.cedar").write_text(text, encoding="utf-8")
    if entities is not None:
        (folder / "entities.json").write_text(entities, encoding="utf-8")
    return folder


def problems(folder: Path) -> list[Problem]:
    """What is wrong with a bundle; empty if it loads."""
    try:
        Bundle.load(folder)
    except BundleError as error:
        return list(error.problems)
    return []


def engine(folder: Path, policies: str, *, cache_size: int = 16, **parts: str) -> Engine:
    """An engine over a bundle with one policy file."""
    return Engine(Bundle.load(write(folder, policies, **parts)), cache_size=cache_size)


def ask(
    *,
    phase: Phase = Phase.REQUEST,
    principal: tuple[str, str] = ("User", "alice"),
    action: str = "invoke",
    resource: tuple[str, str] = ("Agent", "demo"),
    claims: Mapping[str, object] | None = None,
    without: tuple[str, ...] = (),
    trace_id: str = "0" * 32,
    platform: Platform = PLATFORM,
) -> PolicyRequest:
    """A request with every claim there, but for what is said."""
    given = {key: value for key, value in CLAIMS.items() if key not in without}
    return PolicyRequest(
        principal=principal,
        action=action,
        resource=resource,
        phase=phase,
        claims={**given, **(claims or {})},  # type: ignore[dict-item]  # wrong types on purpose
        trace_id=trace_id,
        platform=platform,
    )
