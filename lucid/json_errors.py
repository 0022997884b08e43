"""Errors of usage for scripts: with `--json`, they are JSON, too."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click


class JsonErrors(click.Group):
    """A group that prints `{"ok": false, "error": …}` on the standard output where `--json` is
    among the arguments. Exit codes are what they are without it."""

    def main(self, args: Sequence[str] | None = None, **settings: Any) -> Any:  # type: ignore[override]
        """Run the command."""
        given = sys.argv[1:] if args is None else list(args)
        if not settings.get("standalone_mode", True) or "--json" not in given:
            return super().main(args, **settings)
        settings["standalone_mode"] = False
        try:
            code = super().main(args, **settings)
        except click.ClickException as error:
            click.echo(json.dumps({"ok": False, "error": error.format_message()}, indent=2))
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)
