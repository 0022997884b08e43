"""`lucid policy validate`: every problem of a bundle at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from enforcement.policy.bundle import Bundle, BundleError, Problem
from enforcement.policy.bundle_signature import KeyFileError, Trust, read_public_key
from enforcement.policy.engine import Engine
from lucid.exits import DONE, NOT_SO
from lucid.policy.cases import read_cases
from lucid.policy.common import bundle_argument, json_option, show_problems
from lucid.policy.lint import warnings


@click.command("validate")
@bundle_argument
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Public key in PEM: demand a signature by it (or by another one that is named).",
)
@click.option("--strict", is_flag=True, help="Warnings are problems, too.")
@json_option
def validate(directory: Path, *, keys: tuple[Path, ...], strict: bool, as_json: bool) -> None:
    """Check a policy bundle: layout, bundle.toml, policies, entities, tests, signature.

    Names every problem with file, line, column, rule and cure. Warns of policies that can never
    apply, of those that another one makes useless, and of claims nobody reads. What passes here is
    what an agent loads.

    \b
    Exit codes: 0 sound; 1 not sound (with --strict: or a warning); 2 no such directory or key.
    """
    try:
        trust = Trust.of([read_public_key(path) for path in keys], required=bool(keys))
    except KeyFileError as error:
        raise click.UsageError(str(error)) from None
    problems: list[Problem] = []
    found: list[Problem] = []
    bundle: Bundle | None = None
    try:
        bundle = Bundle.load(directory)
        Engine(bundle, cache_size=0)
    except BundleError as error:
        problems += error.problems
    if bundle is not None:
        problems += read_cases(bundle)[1]
        found = warnings(bundle)
        try:
            Bundle.from_files(bundle.files, trust=trust)
        except BundleError as error:
            problems += error.problems
    sound = not problems and not (strict and found)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "ok": sound,
                    "name": None if bundle is None else bundle.name,
                    "version": None if bundle is None else bundle.version,
                    "digest": None if bundle is None else bundle.digest.hex(),
                    "policies": None if bundle is None else len(bundle.policies),
                    "problems": [problem.as_json() for problem in sorted(problems)],
                    "warnings": [problem.as_json() for problem in found],
                },
                indent=2,
            )
        )
    else:
        show_problems(sorted(problems))
        show_problems(found, level="warning")
        if bundle is not None and not problems:
            click.echo(
                f"{bundle.name} {bundle.version}: {len(bundle.policies)} policies, sound"
                f"{f', {len(found)} warnings' if found else ''}\ndigest {bundle.digest.hex()}"
            )
        else:
            click.echo(f"{len(problems)} problem{'s'[: len(problems) != 1]}", err=True)
    sys.exit(DONE if sound else NOT_SO)
