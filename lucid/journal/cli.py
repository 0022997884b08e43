"""`lucid journal`: check a journal that somebody hands over, offline."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import click

from attestation.errors import AttestationError, UncheckableError
from attestation.history import Signed
from attestation.journal_format import BOOT_SPAN
from lucid.exits import BAD_INPUT, DONE, NOT_SO, UNCHECKED
from lucid.journal.boots import Expected, Vouched, vouch
from lucid.journal.file import NotAJournalError
from lucid.journal.opening import open_journal
from lucid.journal.report import json_of, lines_of
from lucid.journal.verify import Demands, FaultError, Verified, verify_journal
from lucid.options import Hex, Moment
from lucid.passport_terms import (
    ALLOW_SIMULATED,
    CRL,
    HARDWARE_POLICY,
    MEASUREMENT,
    SIMULATED_ROOT,
    Terms,
    read_terms,
)
from lucid.sources import SourceError, read_file
from lucid.terminal import printable, printable_lines

_WORDS: Final = {
    NOT_SO: "not valid",
    BAD_INPUT: "not a journal",
    UNCHECKED: "could not be checked",
}


class _Head(click.ParamType[Expected]):
    """`BOOT:SEQ:HEAD`: 32 hexadecimal digits, a number, 64 hexadecimal digits."""

    name = "boot:seq:head"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Expected:
        if isinstance(value, Expected):
            return value
        boot, _, rest = value.partition(":")
        seq, _, head = rest.partition(":")
        try:
            boot_id, digest = bytes.fromhex(boot), bytes.fromhex(head)
        except ValueError:
            boot_id = digest = b""
        plain = seq.isascii() and seq.isdigit() and len(seq) < 14
        if (len(boot_id), len(digest)) != (16, 32) or not plain or int(seq) >= BOOT_SPAN:
            self.fail("not BOOT:SEQ:HEAD: 16 bytes and 32 bytes in hexadecimal", param, ctx)
        signed = Signed(seq=int(seq), head=digest, by="--expect-head")
        return Expected(boot_id=boot_id, signed=signed)


@click.group()
def journal() -> None:
    """Check an agent's journal offline: is every decision on record, and was none changed?"""


@journal.command(short_help="Verify a journal file offline, record by record.")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@ALLOW_SIMULATED
@SIMULATED_ROOT
@MEASUREMENT
@click.option(
    "--bundle-digest",
    "bundle_digests",
    type=Hex(32, 32),
    multiple=True,
    help="Refuse records that were decided by another policy bundle. May be repeated.",
)
@HARDWARE_POLICY
@CRL
@click.option(
    "--expect-head",
    "heads",
    type=_Head(),
    multiple=True,
    help="A head that a boot is known to have had, from the Observer (/api/agents). Where the file"
    " has other records, ends before it, or has no such boot, it is refused. May be repeated.",
)
@click.option(
    "--expect-passport",
    "passport_files",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    multiple=True,
    help="The same with a passport that somebody kept: it is verified, and what it says of its"
    " boot's journal must be so. May be repeated.",
)
@click.option(
    "--allow-unsigned",
    is_flag=True,
    help="Accept records at a boot's end that nobody signed: they hang together, and whoever wrote"
    " the file could have made or removed them. Only a boot that was killed has such, until the"
    " next start of the agent.",
)
@click.option("--at", "now", type=Moment(), help="Verify as of this time instead of now.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def verify(
    file: Path,
    *,
    as_json: bool,
    allow_unsigned: bool,
    now: datetime | None,
    bundle_digests: tuple[bytes, ...],
    heads: tuple[Expected, ...],
    passport_files: tuple[Path, ...],
    **given: Any,
) -> None:
    """Verify an agent's journal: FILE is journal.sqlite of an agent that is stopped, or a copy.

    Nothing is written and nothing is fetched. If a -wal file lies beside FILE it is part of the
    journal and has to be copied along. Checked is:

    \b
    * each boot's passport, as `lucid passport verify` does, at the time of its
      issue, and that its quote's journal head and policy fit the records;
    * each record: its form, its place, its clock, and the chain of hashes from
      the boot's beginning to its end, without a gap;
    * each signed head, and the end of a boot that crashed, as the next one
      signed it.

    The first fault ends it and is named: the boot, the record, what was expected. What was pruned
    is listed as not in this file, and what no signature covers as unsigned.

    A file cannot show what it has lost together with all signatures of it: an older copy, or one
    without its newest boots, is whole in itself. Give a head or a passport from elsewhere
    (--expect-head, --expect-passport) to refuse those; see LIMITATIONS.md.

    \b
    Exit codes: 0 everything holds, and all records are signed (or --allow-unsigned);
    1 it is not so: changed, cut, forged; 2 not a journal;
    3 could not be checked (unreadable; records that are unsigned; simulated,
    without --allow-simulated).

    \b
    Example, with what the Observer has of the newest boot:
      lucid journal verify journal.sqlite --expect-head BOOT:SEQ:HEAD
    """
    terms = read_terms(**given)
    moment = now if now is not None else datetime.now(UTC)
    verified: Verified | None = None
    error: AttestationError | None = None
    try:
        demands = Demands(
            terms=terms,
            now=moment,
            bundle_digests=frozenset(bundle_digests),
            heads=heads,
            passports=[_kept(path, terms, moment) for path in passport_files],
        )
        with _Progress() as progress, open_journal(file) as opened:
            verified = verify_journal(opened, demands, progress)
        if verified.unsigned and not allow_unsigned:
            error = UncheckableError(
                "journal.unsigned",
                f"{verified.unsigned} records are covered by no signature",
                remedy="the agent's next start signs them; to accept them: --allow-unsigned",
            )
    except AttestationError as caught:
        error = caught
    code = _exit_code(error)
    if as_json:
        value = {"valid": error is None, "error": _error_json(error)}
        click.echo(json.dumps(value | (json_of(verified) if verified else {}), indent=2))
    elif verified is not None:
        for line in lines_of(verified):
            click.echo(line)
        if error is None:
            click.echo(f"valid: {_total(verified)}")
    if error is not None:
        text = printable_lines(error.diagnostics())
        click.echo(f"{_WORDS[code]}: {printable(str(file))}: {text}", err=True)
    sys.exit(code)


def _kept(path: Path, terms: Terms, now: datetime) -> Vouched:
    try:
        return vouch(read_file(path), terms=terms, now=now)
    except SourceError as error:
        raise click.UsageError(f"--expect-passport: {error}") from None
    except AttestationError as error:
        text = f"--expect-passport {path}: {error} [{error.code}]"
        raise click.UsageError(printable(text)) from None


def _exit_code(error: AttestationError | None) -> int:
    match error.error if isinstance(error, FaultError) else error:
        case None:
            return DONE
        case NotAJournalError():
            return BAD_INPUT
        case UncheckableError():
            return UNCHECKED
        case _:
            return NOT_SO


def _error_json(error: AttestationError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    found = {"code": error.code, "message": str(error), "remedy": error.remedy}
    if isinstance(error, FaultError):
        return found | {
            "boot": error.boot_id.hex(),
            "boot_number": error.number,
            "seq": error.seq,
        }
    return found | {"boot": None, "boot_number": None, "seq": None}


def _total(verified: Verified) -> str:
    records = sum(found.records for found in verified.boots)
    marks = ""
    if any(vouched.simulated for found in verified.boots for vouched in found.boot.vouched):
        marks += " (SIMULATED: proves nothing about hardware)"
    if verified.unsigned:
        marks += f" ({verified.unsigned} of them UNSIGNED)"
    return f"{records} records of {len(verified.boots)} boots{marks}"


class _Progress:
    """A count on the terminal, where there is one."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> Self:
        if self._shown:
            click.echo("reading the file's pages…", nl=False, err=True)
        return self

    def __call__(self, count: int) -> None:
        if self._shown:
            click.echo(f"\r\x1b[K{count:,} records", nl=False, err=True)

    def __exit__(self, *_error: object) -> None:
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
