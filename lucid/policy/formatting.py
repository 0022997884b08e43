"""`lucid policy format`: policies in Cedar's own style; their meaning is compared afterwards."""

from __future__ import annotations

import difflib
import json
import os
import sys
from pathlib import Path

import cedarpy
import click

from enforcement.policy.cedar_text import statements
from enforcement.policy.policy_source import parse_policies
from lucid.exits import BAD_INPUT, DONE, NOT_SO
from lucid.policy.common import json_option, show_problems, stop
from lucid.sources import SourceError, read_text


@click.command("format")
@click.argument("path", metavar="DIR|FILE.cedar", type=click.Path(path_type=Path, exists=True))
@click.option("--check", is_flag=True, help="Change nothing; exit 1 if something would change.")
@click.option("--diff", "show_diff", is_flag=True, help="Change nothing; show what would change.")
@json_option
def format_policies(path: Path, *, check: bool, show_diff: bool, as_json: bool) -> None:
    """Write the policies of a bundle (or one file) in the style of Cedar's formatter.

    Comments stay. A file is written only if its policies mean the same afterwards.

    \b
    Exit codes: 0 done, or nothing to do; 1 (--check, --diff) something would change;
    2 a file does not parse.
    """
    files = sorted((path / "policies").glob("*.cedar")) if path.is_dir() else [path]
    if not files:
        stop(BAD_INPUT, f"{path} has no policies/*.cedar", as_json=as_json)
    changed: list[str] = []
    for file in files:
        try:
            text = read_text(file)
        except SourceError as error:
            stop(BAD_INPUT, str(error), as_json=as_json)
        _, problems = parse_policies(str(file), text)
        if problems:
            if as_json:
                listed = [problem.as_json() for problem in problems]
                stop(BAD_INPUT, f"{file} does not parse", as_json=True, problems=listed)
            show_problems(problems)
            sys.exit(BAD_INPUT)
        fresh = formatted(text)
        if fresh == text:
            continue
        changed.append(str(file))
        if show_diff and not as_json:
            lines = difflib.unified_diff(
                text.splitlines(keepends=True), fresh.splitlines(keepends=True), str(file), "after"
            )
            click.echo("".join(lines), nl=False)
        if not check and not show_diff:
            _write(file, fresh)
    only_look = check or show_diff
    if as_json:
        report = {"ok": not (only_look and changed), "changed": changed, "written": not only_look}
        click.echo(json.dumps(report, indent=2))
    elif not show_diff:
        for name in changed:
            click.echo(f"{'would change' if check else 'formatted'}: {name}")
    sys.exit(NOT_SO if only_look and changed else DONE)


def formatted(text: str) -> str:
    """Policies in Cedar's style; the text as it is where that would change what they mean.

    Cedar's formatter needs time with the square of a text's length, so each policy goes alone.
    """
    pieces = statements(text)
    if not pieces:
        return text
    out: list[str] = []
    start = 0
    for piece in pieces:
        last = piece.tokens[-1]
        end = last.start + len(last.text)
        # What stands apart from the policy, with an empty line between, stays apart.
        apart = text[start : piece.start].rpartition("\n\n")[0]
        if apart.strip():
            out.append(apart.strip())
        out.append(cedarpy.format_policies(text[start + len(apart) : end], line_width=100).strip())
        start = end
    rest = text[start:].strip()
    fresh = "\n\n".join(out) + (f"\n\n{rest}" if rest else "") + "\n"
    before, _ = parse_policies("before", text)
    after, problems = parse_policies("after", fresh)
    if problems or [p.est for p in before] != [p.est for p in after]:
        return text
    return fresh


def _write(file: Path, text: str) -> None:
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(text, encoding="utf-8")
    os.chmod(beside, file.stat().st_mode & 0o7777)  # noqa: PTH101
    beside.replace(file)
