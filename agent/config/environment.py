"""`LUCID_*` variables: each overrides one key of the file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final, get_type_hints

import msgspec

from agent.config.base import Table
from agent.config.config import Config
from agent.config.keys import readable, subtable

ENV_PREFIX: Final = "LUCID_"
# Variables with the prefix that are not configuration of the daemon.
NOT_CONFIGURATION: Final = frozenset(
    {"LUCID_CONFIG", "LUCID_VECTORS", "LUCID_AGENT_SOCKET", "LUCID_TEST_HANG"}
)
# Kubernetes tells every container of services: `lucid-observer` gives LUCID_OBSERVER_SERVICE_HOST,
# LUCID_OBSERVER_PORT_50051_TCP_ADDR and so on. The Observer has variables of its own, too.
_OTHERS: Final = re.compile(
    r"LUCID_\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)|LUCID_OBSERVER_RUN_\w+"
)

_LISTS: Final = frozenset({"keys", "tokens", "auditors", "trusted_keys", "trust_domains"})


def _known_variables(table: type[Table], path: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    known: dict[str, tuple[str, ...]] = {}
    for key, hint in get_type_hints(table).items():
        sub = subtable(hint)
        if sub is not None:
            known |= _known_variables(sub, (*path, key))
        elif key not in _LISTS:  # a list has no single value
            known[ENV_PREFIX + "_".join((*path, key)).upper()] = (*path, key)
    return known


def apply_environment(data: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    """Put the values of variables into `data`; gives what is wrong with them."""
    known = _known_variables(Config, ())
    problems = []
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or name in NOT_CONFIGURATION:
            continue
        if name not in known and _OTHERS.fullmatch(name):
            continue
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"{name}: unknown variable{hint}")
            continue
        *tables, key = known[name]
        target: Any = data
        for table in tables:
            target = target.setdefault(table, {})
            if not isinstance(target, dict):
                break
        if not isinstance(target, dict):
            continue  # the file has a value where the table would be, which is a problem of its own
        try:
            target[key] = _from_text(environ[name], Config, known[name])
        except ValueError as error:
            problems.append(f"{name}: {error}")
    return problems


def _from_text(text: str, table: type[Table], path: tuple[str, ...]) -> object:
    *tables, key = path
    for name in tables:
        sub = subtable(get_type_hints(table)[name])
        if sub is None:  # pragma: no cover - the path comes from _known_variables
            raise ValueError("not a table")
        table = sub
    hint = get_type_hints(table, include_extras=True)[key]
    try:
        return msgspec.convert(text, hint, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(readable(str(error))) from None
