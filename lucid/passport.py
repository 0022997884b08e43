"""`lucid passport`: verify AI Passports offline, and explain them.

`show` and `verify` run the same verification. Neither ever needs a network: the passport embeds
quote, chain and claims buffer, and the trust anchors are built in (a simulated TEE's is given).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

import click

from attestation.errors import (
    AttestationError,
    MalformedError,
    UncheckableError,
    VerificationError,
)
from attestation.examination import Examination
from attestation.passport import Passport
from attestation.verifier import examine_passport
from lucid.exits import BAD_INPUT, DONE, NOT_SO, UNCHECKED
from lucid.guess import PASSPORT, guess
from lucid.options import Hex, Moment
from lucid.passport_terms import (
    ALLOW_SIMULATED,
    CRL,
    HARDWARE_POLICY,
    MEASUREMENT,
    SIMULATED_ROOT,
    read_terms,
)
from lucid.sources import SourceError, read_source
from lucid.terminal import printable


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.argument("source"),
            ALLOW_SIMULATED,
            SIMULATED_ROOT,
            click.option("--nonce", type=Hex(8, 64), help="The nonce that you challenged with."),
            click.option("--audience", help="Yourself, as named in the challenge."),
            MEASUREMENT,
            click.option(
                "--bundle-digest",
                type=Hex(32, 32),
                help="The policy bundle's digest that you expect.",
            ),
            HARDWARE_POLICY,
            CRL,
            click.option(
                "--at", "now", type=Moment(), help="Verify as of this time instead of now."
            ),
            click.option("--json", "as_json", is_flag=True, help="Print everything as JSON."),
        )
    ):
        command = option(command)
    return command


@click.group()
def passport() -> None:
    """Verify AI Passports offline, and explain them."""


@passport.command(short_help="Show a passport, verified offline, and explain it.")
@_options
def show(source: str, *, as_json: bool, **options: Any) -> None:
    """Show a passport (FILE, URL, or - for standard input), verified offline.

    Prints what the passport states and what of it is proved. The separate answers — genuine
    hardware, chain and TCB, binding and freshness, code measured as expected, policy enforced,
    simulated — are never merged into one; --json gives each with its checks, the skipped ones
    included.

    \b
    Exit codes: 0 verified; 1 it does not verify; 2 not a passport;
    3 could not be checked (for example simulated, without --allow-simulated).
    """
    examination = _examine(source, as_json=as_json, **options)
    if as_json:
        click.echo(json.dumps(examination.as_json(), indent=2))
    else:
        for name, value in lines_of(examination):
            click.echo(f"{name}: {value}")
    sys.exit(exit_code(examination.error))


@passport.command(short_help="The same as a gate for scripts: one line, exit code.")
@_options
def verify(source: str, *, as_json: bool, **options: Any) -> None:
    """Verify a passport (FILE, URL, or - for standard input) as a gate for scripts.

    Prints one line, or with --json the whole examination.

    \b
    Exit codes: 0 valid; 1 not valid; 2 not a passport; 3 could not be checked.
    """
    examination = _examine(source, as_json=as_json, **options)
    code = exit_code(examination.error)
    if as_json:
        click.echo(json.dumps(examination.as_json(), indent=2))
    elif examination.error is None:
        mark = " (SIMULATED: proves nothing about hardware)" if examination.simulated else ""
        click.echo(f"valid: {examination.passport_id}{mark}")
    else:
        word = "not valid" if code == NOT_SO else "could not be checked"
        click.echo(f"{word}: {examination.error.diagnostics()}", err=True)
    sys.exit(code)


def exit_code(error: AttestationError | None) -> int:
    """The exit code for how an examination ended."""
    match error:
        case None:
            return DONE
        case UncheckableError():
            return UNCHECKED
        case VerificationError() | MalformedError():
            # Malformed here: the passport could be read, its evidence could not.
            return NOT_SO
        case _:
            return UNCHECKED


def lines_of(examination: Examination) -> list[tuple[str, str]]:
    """What `show` prints, as (name, value). Text from the passport is made printable."""
    claims, error = examination.passport.claims, examination.error
    vendor = "Intel" if examination.passport.evidence.format == "tdx" else "AMD"
    root = "SIMULATED root" if examination.simulated else f"{vendor} Root CA"
    signature = (
        f"Valid ({root})" if error is None else f"NOT VERIFIED ({printable(error.diagnostics())})"
    )
    moment = datetime.fromtimestamp
    rows = [
        ("Passport ID", examination.passport_id),
        ("Hardware Attested", "true" if examination.hardware_attested else "false"),
        ("TEE Type", examination.tee.display),
        ("Signature", signature),
        ("Subject", printable(claims.subject)),
        ("Issued", moment(claims.issued_at, UTC).isoformat()),
        ("Expires", moment(claims.expires_at, UTC).isoformat()),
        ("Policy", f"{printable(claims.bundle[0])} {printable(claims.bundle[1])}"),
        ("Policy Digest", claims.bundle[2].hex()),
        ("Measurement", claims.hardware.measurement.hex()),
        ("Journal", f"{claims.journal_seq} decisions, head {claims.journal_head.hex()}"),
        ("Software", f"{printable(claims.swname)} {printable(claims.swversion)}"),
    ]
    rows += [
        (
            answer.title,
            f"{answer.status.replace('_', ' ')}" + (f" ({answer.detail})" if answer.detail else ""),
        )
        for answer in examination.answers
    ]
    return rows


def _examine(
    source: str,
    *,
    as_json: bool,
    now: datetime | None,
    nonce: bytes | None,
    audience: str | None,
    bundle_digest: bytes | None,
    **given: Any,
) -> Examination:
    try:
        token = read_source(source)
    except SourceError as error:
        _stop(UNCHECKED, "source", str(error), as_json=as_json)
    terms = read_terms(**given)
    try:
        kind = Passport.parse(token).evidence.format
    except MalformedError as error:
        found = guess(token)
        why = str(error) if found in ("", PASSPORT) else f"this is {found}"
        _stop(BAD_INPUT, error.code, f"{source}: not a passport: {why}", as_json=as_json)
    expected = terms.expectations(kind)
    expected["nonce"], expected["audience"] = nonce, audience
    expected["bundle_digest"] = bundle_digest
    return examine_passport(token, now=now if now is not None else datetime.now(UTC), **expected)


def _stop(code: int, name: str, message: str, *, as_json: bool) -> NoReturn:
    if as_json:
        value = {"hardware_attested": False, "error": {"code": name, "message": message}}
        click.echo(json.dumps(value, indent=2))
    click.echo(f"lucid: {printable(message)}", err=True)
    sys.exit(code)
