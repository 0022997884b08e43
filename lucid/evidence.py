"""`lucid evidence`: look at SEV-SNP attestation reports, and verify and appraise them offline."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from attestation.anchors import TrustAnchors
from attestation.checks import Check, CheckStatus, failed, skipped
from attestation.errors import (
    AttestationError,
    MalformedError,
    UncheckableError,
)
from attestation.snp.abi import REPORT_SIZE, Report
from attestation.snp.appraise import appraise_report, demands
from attestation.snp.collect import collect_chain, split_certificates
from attestation.snp.crl import Crl
from attestation.snp.fields import report_fields
from attestation.snp.policy import SnpPolicy
from attestation.snp.table import CertTable, TableEntry
from attestation.snp.verify import VerifiedReport, verify_report
from lucid.options import Hex, Moment
from lucid.passport import printable
from lucid.sources import SourceError, read_file

ACCEPTED: Final = 0
REFUSED: Final = 1
MALFORMED: Final = 2
UNCHECKABLE: Final = 3

_VERDICTS: Final = {
    REFUSED: "refused",
    MALFORMED: "malformed input",
    UNCHECKABLE: "could not be checked",
}
_FILE = click.Path(path_type=Path, dir_okay=False)
_MARKS: Final = {
    CheckStatus.PASSED: "passed ",
    CheckStatus.FAILED: "FAILED ",
    CheckStatus.SKIPPED: "skipped",
}


@click.group()
def evidence() -> None:
    """Look at AMD SEV-SNP reports; verify and appraise them offline.

    FILE is a report (1184 bytes), alone or followed by the host's certificate table, as the guest
    gets it; - is standard input. Nothing is ever fetched: what is needed is in FILE or given.
    """


@evidence.command()
@click.argument("source", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print the fields as JSON.")
def show(source: str, *, as_json: bool) -> None:
    """Show every field of a report. NOTHING is verified.

    \b
    Exit codes: 0 shown; 2 not a report; 3 FILE cannot be read.
    """
    report, table = _read_evidence(source, as_json=as_json)
    fields = report_fields(report)
    there = [entry.name.lower() for entry in table.contents]
    if as_json:
        value = {"tee_type": "sev-snp", "verified": False, "table": there, "fields": fields}
        click.echo(json.dumps(value, indent=2))
        return
    for name, value in fields.items():
        click.echo(f"{name}: {value}")
    click.echo(f"certificate table: {', '.join(there) or 'none'}")
    click.echo("Nothing of this is verified; `lucid evidence verify` does that.", err=True)


def _verify_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.argument("source", metavar="FILE"),
            click.option(
                "--endorsement-key",
                type=_FILE,
                metavar="F",
                help="VCEK or VLEK certificate, PEM or DER; goes before the table's.",
            ),
            click.option(
                "--chain",
                "chain_files",
                type=_FILE,
                metavar="F",
                multiple=True,
                help="ASK or ASVK and ARK, PEM or DER, one or more in a file. May be repeated.",
            ),
            click.option(
                "--crl",
                "crl_files",
                type=_FILE,
                metavar="F",
                multiple=True,
                help="Revocation list of the root, PEM or DER. May be repeated. Where one is"
                " given, a fresh one of this root must be among them.",
            ),
            click.option("--at", "now", type=Moment(), help="Verify as of this time, not now."),
            click.option(
                "--report-data", type=Hex(64, 64), help="The 64 bytes that the report must carry."
            ),
            click.option(
                "--policy",
                type=_FILE,
                metavar="F",
                help="Appraise by this policy (TOML) instead of the default one, which refuses"
                " debugging, migration, provisional firmware and TCBs below AMD-SB-3019.",
            ),
            click.option(
                "--signature-only",
                is_flag=True,
                help="Verify, but do not appraise: a genuine report of a guest that its host can"
                " read is accepted then.",
            ),
            click.option(
                "--allow-simulated",
                is_flag=True,
                help="Take a simulated TEE's root instead of AMD's. Proves nothing about hardware.",
            ),
            click.option(
                "--simulated-root", type=_FILE, metavar="F", help="The simulated TEE's root."
            ),
            click.option("--json", "as_json", is_flag=True, help="Print everything as JSON."),
        )
    ):
        command = option(command)
    return command


@evidence.command()
@_verify_options
def verify(
    source: str, *, policy: Path | None, signature_only: bool, as_json: bool, **options: Any
) -> None:
    """Verify a report and appraise it by a policy; lists every check.

    The names of the checks are stable; docs/checks.md says what each proves and what to do when it
    fails.

    \b
    Exit codes: 0 accepted; 1 refused; 2 malformed input;
    3 could not be checked (something that is needed is missing).
    """
    if policy is not None and signature_only:
        raise click.UsageError("--policy and --signature-only exclude each other")
    if options["allow_simulated"] is not (options["simulated_root"] is not None):
        raise click.UsageError("--allow-simulated and --simulated-root go together")
    report, table = _read_evidence(source, as_json=as_json)
    verified: VerifiedReport | None = None
    error: AttestationError | None = None
    try:
        rules = None if signature_only else _policy(policy)
        verified = _verify(report, table, **options)
        checks = _appraise(verified, rules)
    except (AttestationError, SourceError) as caught:
        error = caught if isinstance(caught, AttestationError) else _unread(caught)
        checks = _listed(error)
    marks = []
    if signature_only:
        marks.append("NOT APPRAISED: a guest that its host can read is accepted too")
    if options["allow_simulated"]:
        marks.append("SIMULATED: proves nothing about hardware")
    _print(report, verified, checks, error, marks=marks, as_json=as_json)
    sys.exit(exit_code(error))


def exit_code(error: AttestationError | None) -> int:
    """The exit code for how a verification ended."""
    if error is None:
        return ACCEPTED
    if isinstance(error, UncheckableError):
        return UNCHECKABLE
    # Malformed input has no list of checks: none could be made.
    return MALFORMED if isinstance(error, MalformedError) and not error.checks else REFUSED


def _appraise(verified: VerifiedReport, rules: SnpPolicy | None) -> tuple[Check, ...]:
    if rules is not None:
        return appraise_report(verified, rules)
    left_out = (skipped(name, "left out by --signature-only") for name in demands())
    return (*verified.checks, *left_out)


def _listed(error: AttestationError) -> tuple[Check, ...]:
    """The checks of a failed verification; at least the one that failed."""
    if error.checks:
        return error.checks
    make = skipped if isinstance(error, UncheckableError) else failed
    return (make(error.code, str(error)),)


def _verify(
    report: Report,
    table: CertTable,
    *,
    endorsement_key: Path | None,
    chain_files: tuple[Path, ...],
    crl_files: tuple[Path, ...],
    now: datetime | None,
    report_data: bytes | None,
    allow_simulated: bool,
    simulated_root: Path | None,
) -> VerifiedReport:
    contents = table.contents
    ek = contents.get(TableEntry[report.signing_key.name])
    if endorsement_key is not None:
        ek = _read(endorsement_key)
    others = [der for path in chain_files for der in split_certificates(_read(path))]
    hosts = [contents[entry] for entry in (TableEntry.ICA, TableEntry.ARK) if entry in contents]
    others += [der for data in hosts for der in split_certificates(data)]
    crls = [Crl.parse(_read(path)) for path in crl_files]
    if TableEntry.CRL in contents:
        crls.append(Crl.parse(contents[TableEntry.CRL]))
    anchors = TrustAnchors.builtin()
    if simulated_root is not None:
        anchors = anchors.with_simulated_root(_read(simulated_root))
    return verify_report(
        report.raw,
        collect_chain(ek, others),
        roots=anchors.simulated if allow_simulated else anchors.amd,
        now=now if now is not None else datetime.now(UTC),
        expected_report_data=report_data,
        crls=crls,
    )


def _read_evidence(source: str, *, as_json: bool) -> tuple[Report, CertTable]:
    try:
        data = read_file(source)
        return Report.parse(data[:REPORT_SIZE]), CertTable.parse(data[REPORT_SIZE:])
    except SourceError as error:
        _stop(UNCHECKABLE, "source", str(error), as_json=as_json)
    except MalformedError as error:
        _stop(MALFORMED, error.code, f"{source}: {error}", as_json=as_json)


def _policy(path: Path | None) -> SnpPolicy:
    return SnpPolicy() if path is None else SnpPolicy.parse(_read(path))


def _read(path: Path) -> bytes:
    return read_file(str(path))


def _unread(error: SourceError) -> UncheckableError:
    return UncheckableError("source", str(error))


def _print(
    report: Report,
    verified: VerifiedReport | None,
    checks: tuple[Check, ...],
    error: AttestationError | None,
    *,
    marks: list[str],
    as_json: bool,
) -> None:
    line = verified.product_line if verified is not None else None
    if as_json:
        value = {
            "accepted": error is None,
            "tee_type": "sev-snp",
            "marks": marks,
            "product_line": line,
            "error": None
            if error is None
            else {"code": error.code, "message": str(error), "remedy": error.remedy},
            "checks": [
                {"id": check.name, "status": check.status.value, "detail": check.detail}
                for check in checks
            ],
            "fields": report_fields(report, line),
        }
        click.echo(json.dumps(value, indent=2))
        return
    for check in checks:
        click.echo(f"{_MARKS[check.status]} {check.name}: {printable(check.detail)}")
    mark = f" ({'; '.join(marks)})" if marks else ""
    if error is None:
        click.echo(f"accepted: SEV-SNP on {line}{mark}")
    else:
        word = _VERDICTS[exit_code(error)]
        click.echo(f"{word}: {error.diagnostics()}{mark}", err=True)


def _stop(code: int, name: str, message: str, *, as_json: bool) -> NoReturn:
    if as_json:
        value = {
            "accepted": False,
            "tee_type": "sev-snp",
            "marks": [],
            "product_line": None,
            "error": {"code": name, "message": message, "remedy": ""},
            "checks": [{"id": name, "status": "failed", "detail": message}],
            "fields": {},
        }
        click.echo(json.dumps(value, indent=2))
    click.echo(f"lucid: {printable(message)}", err=True)
    sys.exit(code)
