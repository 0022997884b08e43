"""`lucid evidence`: look at hardware evidence, and verify and appraise it offline."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from attestation.checks import CheckStatus
from attestation.errors import AttestationError, MalformedError
from lucid import evidence_tdx
from lucid.evidence_kinds import Ending, Kind, Options, exit_code, judge
from lucid.evidence_snp import SnpEvidence
from lucid.evidence_tdx import TdxEvidence
from lucid.exits import BAD_INPUT, NOT_SO, UNCHECKED
from lucid.guess import QUOTE, REPORT, guess
from lucid.options import Hex, Moment
from lucid.sources import SourceError, read_file
from lucid.terminal import printable

_VERDICTS: Final = {
    NOT_SO: "refused",
    BAD_INPUT: "malformed input",
    UNCHECKED: "could not be checked",
}
_FILE = click.Path(path_type=Path, dir_okay=False)
_MARKS: Final = {
    CheckStatus.PASSED: "passed ",
    CheckStatus.FAILED: "FAILED ",
    CheckStatus.SKIPPED: "skipped",
}
# Files: name, may be repeated, help.
_SNP_FILES: Final = (
    (
        "endorsement-key",
        False,
        "SEV-SNP: VCEK or VLEK certificate, PEM or DER; goes before the table's.",
    ),
    (
        "chain",
        True,
        "SEV-SNP: ASK or ASVK and ARK, PEM or DER, one or more in a file. May be repeated.",
    ),
    (
        "crl",
        True,
        (
            "SEV-SNP: revocation list of the root, PEM or DER. May be repeated. Where one is given,"
            " a fresh one of this root must be among them."
        ),
    ),
)
_TDX_FILES: Final = (
    ("tcb-info", False, "TDX: Intel's TCB info of the platform, JSON as served."),
    ("qe-identity", False, "TDX: Intel's identity of the TD quoting enclave, JSON as served."),
    (
        "signing-chain",
        True,
        "TDX: who signed the two documents, with the root, PEM. May be repeated.",
    ),
    ("pck-crl", False, "TDX: revocation list of PCK certificates, DER, PEM or hexadecimal."),
    ("root-crl", False, "TDX: revocation list of Intel's root, DER, PEM or hexadecimal."),
    (
        "collateral",
        False,
        "TDX: all of these in one JSON file, as dcap-qvl and dstack keep it, instead of the five.",
    ),
    (
        "event-log",
        False,
        "TDX: the firmware's event log (CCEL); it has to explain RTMR0 to RTMR3.",
    ),
)


@click.group()
def evidence() -> None:
    """Look at AMD SEV-SNP reports and Intel TDX quotes; verify and appraise them offline.

    FILE is a quote of version 4 or 5, or a report (1184 bytes), alone or followed by the host's
    certificate table, as the guest gets it; - is standard input. Which of them it is shows in its
    first bytes. Nothing is ever fetched: what is needed is in FILE or given.
    """


@evidence.command()
@click.argument("source", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print the fields as JSON.")
def show(source: str, *, as_json: bool) -> None:
    """Show every field of a report or quote. NOTHING is verified.

    \b
    Exit codes: 0 shown; 2 neither report nor quote; 3 FILE cannot be read or understood.
    """
    kind = _read_evidence(source, as_json=as_json)
    fields, enclosed = kind.fields(None), kind.enclosed()
    if as_json:
        value = {"tee_type": kind.tee_type, "verified": False, **enclosed, "fields": fields}
        click.echo(json.dumps(value, indent=2))
        return
    for name, value in (*fields.items(), *enclosed.items()):
        for line in _lines(name, value):
            click.echo(line)
    click.echo("Nothing of this is verified; `lucid evidence verify` does that.", err=True)


def _lines(name: str, value: object) -> Iterator[str]:
    """A field as people read it; of one with parts, each part."""
    match value:
        case dict():
            for part, inner in value.items():
                yield from _lines(f"{name}.{part}", inner)
        case list() | tuple():
            yield f"{name}: {', '.join(map(str, value)) or 'none'}"
        case bool():
            yield f"{name}: {str(value).lower()}"
        case None:
            yield f"{name}: none"
        case _:
            yield f"{name}: {value}"


def _verify_options(command: Callable[..., None]) -> Callable[..., None]:
    files = [
        click.option(
            f"--{name}", type=_FILE, metavar="F", multiple=multiple, default=None, help=text
        )
        for name, multiple, text in (*_SNP_FILES, *_TDX_FILES)
    ]
    for option in reversed(
        (
            click.argument("source", metavar="FILE"),
            *files,
            click.option("--at", "now", type=Moment(), help="Verify as of this time, not now."),
            click.option(
                "--report-data",
                type=Hex(64, 64),
                help="The 64 bytes that the report or quote must carry.",
            ),
            click.option(
                "--policy",
                type=_FILE,
                metavar="F",
                help="Appraise by this policy (TOML) instead of the default one. That one refuses"
                " debugging and migration; of SEV-SNP provisional firmware and TCBs below"
                " AMD-SB-3019; of TDX everything that Intel does not call UpToDate.",
            ),
            click.option(
                "--signature-only",
                is_flag=True,
                help="Verify, but do not appraise: genuine evidence of a guest that its host can"
                " read is accepted then.",
            ),
            click.option(
                "--allow-simulated",
                is_flag=True,
                help="Take a simulated TEE's root instead of the vendor's. Proves nothing about"
                " hardware.",
            ),
            click.option(
                "--simulated-root", type=_FILE, metavar="F", help="The simulated TEE's root."
            ),
            click.option("--json", "as_json", is_flag=True, help="Print everything as JSON."),
        )
    ):
        command = option(command)
    return command


@evidence.command(short_help="Verify and appraise a report or quote; list every check.")
@_verify_options
def verify(
    source: str,
    *,
    now: datetime | None,
    report_data: bytes | None,
    policy: Path | None,
    signature_only: bool,
    allow_simulated: bool,
    simulated_root: Path | None,
    as_json: bool,
    **files: Path | tuple[Path, ...] | None,
) -> None:
    """Verify a report or quote and appraise it by a policy; lists every check.

    The names of the checks are stable; docs/checks.md says what each proves and what to do when it
    fails.

    \b
    Exit codes: 0 accepted; 1 refused; 2 malformed input;
    3 could not be checked (something that is needed is missing).
    """
    if policy is not None and signature_only:
        raise click.UsageError("--policy and --signature-only exclude each other")
    if allow_simulated is not (simulated_root is not None):
        raise click.UsageError("--allow-simulated and --simulated-root go together")
    given = {
        name.replace("_", "-"): value if isinstance(value, tuple) else (value,)
        for name, value in files.items()
        if value
    }
    if evidence_tdx.WHOLE in given and given.keys() & evidence_tdx.SINGLE:
        raise click.UsageError("--collateral has everything: no single files beside it")
    kind = _read_evidence(source, as_json=as_json)
    if foreign := given.keys() - kind.options:
        names = ", ".join(f"--{name}" for name in sorted(foreign))
        raise click.UsageError(f"{source} is {kind.tee_type} evidence; {names} means nothing there")
    options = Options(
        now=now if now is not None else datetime.now(UTC),
        report_data=report_data,
        simulated_root=simulated_root,
        files=given,
    )
    ending = judge(kind, options, policy, signature_only=signature_only)
    marks = []
    if signature_only:
        marks.append("NOT APPRAISED: a guest that its host can read is accepted too")
    if allow_simulated:
        marks.append("SIMULATED: proves nothing about hardware")
    _print(kind, ending, marks=marks, as_json=as_json)
    sys.exit(exit_code(ending.error))


def _read_evidence(source: str, *, as_json: bool) -> Kind[Any, Any]:
    tee_type: str | None = None
    try:
        data = read_file(source)
        # A report begins with its version in 32 bits, a quote with version and kind of key in 16.
        is_quote = data[2:4] not in (b"\0\0", b"")
        tee_type = TdxEvidence.tee_type if is_quote else SnpEvidence.tee_type
        return TdxEvidence(data) if is_quote else SnpEvidence(data)
    except SourceError as error:
        _stop(UNCHECKED, "source", str(error), tee_type, as_json=as_json)
    except AttestationError as error:
        code = BAD_INPUT if isinstance(error, MalformedError) else UNCHECKED
        found = guess(data)
        if found in ("", REPORT, QUOTE):
            message = f"{source}: {error}"
        else:
            message = f"{source}: neither a report nor a quote, but {found}"
        _stop(code, error.code, message, tee_type, as_json=as_json)


def _print(kind: Kind[Any, Any], ending: Ending, *, marks: list[str], as_json: bool) -> None:
    error = ending.error
    if as_json:
        value = {
            "accepted": error is None,
            "tee_type": kind.tee_type,
            "marks": marks,
            **kind.findings(ending.verified),
            "error": None
            if error is None
            else {"code": error.code, "message": str(error), "remedy": error.remedy},
            "checks": [
                {"id": check.name, "status": check.status.value, "detail": check.detail}
                for check in ending.checks
            ],
            "fields": kind.fields(ending.verified),
        }
        click.echo(json.dumps(value, indent=2))
        return
    for check in ending.checks:
        click.echo(f"{_MARKS[check.status]} {check.name}: {printable(check.detail)}")
    mark = f" ({'; '.join(marks)})" if marks else ""
    if error is None:
        click.echo(f"accepted: {kind.headline(ending.verified)}{mark}")
        return
    click.echo(f"{_VERDICTS[exit_code(error)]}{mark}: {error.diagnostics()}", err=True)
    if error.code in kind.demands() and not error.remedy:
        click.echo("  the policy demands it; docs/checks.md says how (--policy)", err=True)


def _stop(code: int, name: str, message: str, tee_type: str | None, *, as_json: bool) -> NoReturn:
    if as_json:
        status = "skipped" if code == UNCHECKED else "failed"
        value = {
            "accepted": False,
            "tee_type": tee_type,
            "marks": [],
            "error": {"code": name, "message": message, "remedy": ""},
            "checks": [{"id": name, "status": status, "detail": message}],
            "fields": {},
        }
        click.echo(json.dumps(value, indent=2))
    click.echo(f"lucid: {printable(message)}", err=True)
    sys.exit(code)
