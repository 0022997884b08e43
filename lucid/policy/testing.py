"""`lucid policy test`: does the bundle decide as its test cases say?"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import click

from enforcement.policy.bundle import Bundle
from enforcement.policy.policy_source import PolicySource, parse_policies
from lucid.exits import BAD_INPUT, DONE, NOT_SO, UNCHECKED
from lucid.policy.cases import read_cases
from lucid.policy.cedar_tests import CedarTestsError, run_cedar_tests
from lucid.policy.common import json_option, load_bundle, stop, stop_for
from lucid.policy.running import Result, coverage, junit, run_cases
from lucid.sources import SourceError, read_file, read_text
from lucid.terminal import printable


@click.command("test")
@click.argument("path", metavar="DIR|FILE.cedar", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--cedar-tests",
    "cedar_files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Also run a test file of Cedar's own command (`cedar run-tests`). May be repeated."
    " With it, a file of plain Cedar policies can be tested, too.",
)
@click.option(
    "--junit",
    "junit_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the results as JUnit XML.",
)
@click.option(
    "--require-coverage",
    is_flag=True,
    help="A policy that decided no case is a failure.",
)
@json_option
def test(
    path: Path,
    *,
    cedar_files: tuple[Path, ...],
    junit_file: Path | None,
    require_coverage: bool,
    as_json: bool,
) -> None:
    """Run the test cases of a bundle (tests/*.yaml, and tests/*.json in Cedar's own form).

    Each case gives a request and its claims, and says what must come of it: outcome, reasons,
    obligations. At the end stands which policies decided a case, and which none.

    \b
    Exit codes: 0 all passed; 1 a case failed (or, if required, a policy is not covered);
    2 the bundle or a test file is broken; 3 there is nothing to run.
    """
    bundle: Bundle | None = None
    results: list[Result] = []
    silent: list[str] = []
    if path.is_dir():
        bundle = load_bundle(path, as_json=as_json)
        cases, problems = read_cases(bundle)
        if problems:
            stop_for(problems, "a test file is broken", as_json=as_json)
        results += run_cases(bundle, cases)
        silent = [f"{case.file}:{case.line}  {case.name}" for case in cases if case.expect is None]
    try:
        results += _cedar(path, bundle, cedar_files)
    except CedarTestsError as error:
        stop(BAD_INPUT, str(error), as_json=as_json)
    counts = {} if bundle is None else coverage(bundle, results)
    failed = [result for result in results if result.failures]
    uncovered = [name for name, count in counts.items() if not count]
    if junit_file is not None:
        try:
            junit_file.write_text(junit(path.name, results), encoding="utf-8")
        except OSError as error:
            stop(BAD_INPUT, f"{junit_file} cannot be written: {error.strerror}", as_json=as_json)
    if not results:
        stop(
            UNCHECKED,
            f"{path} has no tests: nothing was checked; write cases with `expect` into"
            f" {path / 'tests'}/*.yaml",
            as_json=as_json,
        )
    sound = not failed and not (require_coverage and uncovered)
    if as_json:
        report = {
            "ok": sound,
            "digest": None if bundle is None else bundle.digest.hex(),
            "passed": len(results) - len(failed),
            "failed": len(failed),
            "without_expect": silent,
            "cases": [result.as_json() for result in results],
            "coverage": {"policies": counts, "uncovered": uncovered},
        }
        click.echo(json.dumps(report, indent=2))
    else:
        _show(results, counts, uncovered)
        for place in silent:
            click.echo(f"not checked, for it expects nothing: {printable(place)}", err=True)
    sys.exit(DONE if sound else NOT_SO)


def _cedar(path: Path, bundle: Bundle | None, files: tuple[Path, ...]) -> list[Result]:
    try:
        contents = {str(file): read_file(file) for file in files}
    except SourceError as error:
        raise CedarTestsError(str(error)) from None
    sources: list[PolicySource] = []
    names: dict[int, str] = {}
    if bundle is None:
        try:
            text = read_text(path)
        except SourceError as error:
            raise CedarTestsError(str(error)) from None
        sources, problems = parse_policies(path.name, text)
        if problems:
            raise CedarTestsError(str(problems[0]))
        names = {p.position: p.annotations.get("id", f"policy{p.position}") for p in sources}
        if len(set(names.values())) < len(names):
            names = {p.position: f"policy{p.position}" for p in sources}
        if not files:
            raise CedarTestsError("a policy file alone has no tests: name some with --cedar-tests")
    else:
        contents |= {
            name: content
            for name, content in bundle.files.items()
            if name.startswith("tests/") and name.endswith(".json")
        }
        for name, content in bundle.files.items():
            if name.startswith("policies/"):
                for source in parse_policies(name, content.decode())[0]:
                    # In a bundle, places count over all of its files.
                    place = len(sources)
                    names[place] = source.annotations["id"]
                    sources.append(replace(source, position=place))
    return [
        result
        for name, content in contents.items()
        for result in run_cedar_tests(name, content, sources, names=names)
    ]


def _show(results: list[Result], counts: dict[str, int], uncovered: list[str]) -> None:
    for result in results:
        place = f"{result.file}:{result.line}" if result.line else result.file
        click.echo(f"{'FAIL' if result.failures else 'ok':<5}{place}  {printable(result.name)}")
        for failure in result.failures:
            click.echo(f"       {printable(failure)}")
    failed = sum(bool(result.failures) for result in results)
    click.echo(f"{len(results) - failed} passed, {failed} failed")
    if counts:
        click.echo(f"{len(counts) - len(uncovered)} of {len(counts)} policies decided a case")
        for name in uncovered:
            click.echo(f"     not covered: {name}")
