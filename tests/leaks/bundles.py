"""Policy bundles for the hunt: everything that is found is masked, or denied, in both phases."""

from __future__ import annotations

from pathlib import Path

_TOML = """name = "hunt"
version = "1"
anonymous = true
[stream]
mode = "{mode}"
hold_back = {hold_back}
"""
_CLAIMS = "".join(
    f'[claims.{name}]\ntype = "{kind}"\nsource = "builtin"\n'
    for name, kind in (
        ("pii_found", "bool"),
        ("pii_types", "string_list"),
        ("secret_leaked", "bool"),
        ("content_types", "string_list"),
    )
)
_PERMIT = '@id("all")\npermit (principal, action, resource);\n'
_FORBID = (
    '@id("found")\n{what}forbid (principal, action, resource)\n'
    "when {{ context.claims.pii_found || context.claims.secret_leaked }};\n"
)
_REDACT = '@decision("redact")\n@redact("api_key,card,email,iban,phone,ssn")\n'


def write_bundle(
    folder: Path,
    *,
    mode: str,
    hold_back: int,
    deny: bool,
    off: tuple[str, ...] = (),
    drop: bool = False,
) -> Path:
    """`off`: detectors that are switched off. `drop`: nothing stands in the place of a secret."""
    (folder / "policies").mkdir(parents=True)
    (folder / "bundle.toml").write_text(
        _TOML.format(mode=mode, hold_back=hold_back)
        + _CLAIMS
        + "[detectors]\n"
        + "".join(f"{name} = false\n" for name in off)
    )
    how = '@redact_with("drop")\n' if drop else ""
    forbid = _FORBID.format(what="" if deny else _REDACT + how)
    (folder / "policies" / "all.cedar").write_text(_PERMIT + forbid)
    (folder / "entities.json").write_text("[]")
    return folder
