"""The import arrows between the rooms: who may know whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("agent", "attestation", "enforcement", "lucid", "observer")

# What each room may import of the others. `lucid` may know every room, because `lucid demo`
# starts them; nothing imports `lucid` or `observer`.
MAY_IMPORT = {
    "attestation": set[str](),
    "enforcement": {"attestation"},
    "agent": {"attestation", "enforcement"},
    "observer": {"attestation"},
    "lucid": {"attestation", "enforcement", "agent", "observer"},
}

# The same within `enforcement`. A module of none of these packages is part of "exchange".
ENFORCEMENT = {
    "detectors": set[str](),
    "http": set[str](),
    "policy": {"detectors", "outcome"},
    "bodies": {"detectors"},
    "apis": {"bodies"},
    "content": {"bodies", "apis", "detectors", "outcome"},
    "streams": {"bodies", "content", "apis", "detectors", "outcome", "exchange"},
    "identity": {"policy"},
    "auditors": {"http", "policy", "detectors", "outcome", "auditing"},
    "exchange": {"detectors", "policy", "bodies", "apis", "content", "streams", "identity", "http"},
    "gateway": {"http", "content", "identity", "policy", "exchange"},
}

# Modules with sockets, files, threads or clocks of their own. Everything else in `attestation`
# takes bytes and a clock value.
NETWORK = {"socket", "httpx", "grpc", "trio", "asyncio", "http", "urllib.request", "ssl"}


def modules(room: str) -> Iterator[Path]:
    yield from sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_it_may_know(room: str) -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in modules(room)
        for name in imports(path)
        if (top := name.split(".")[0]) in ROOMS and top != room and top not in MAY_IMPORT[room]
    }
    assert found == set()


def test_within_enforcement_each_package_knows_only_those_that_it_may() -> None:
    def part(name: str) -> str:
        parts = [*name.split("."), ""]
        return parts[1] if parts[1] in ENFORCEMENT else "exchange"

    paths = list(modules("enforcement"))
    known = frozenset(map(name_of, paths))
    found = set()
    for path in paths:
        own = part(name_of(path))
        for name in modules_imported(path, known):
            if name != "enforcement":
                other, module = part(name), name.split(".")[1]
                if other != own and not {other, module} & ENFORCEMENT[own]:
                    found.add((name_of(path), name))
    assert found == set()


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_imported(path: Path, known: frozenset[str]) -> Iterator[str]:
    """Those imported for their types alone, and inside of functions, included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield node.module


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = {name_of(path): path for room in ROOMS for path in modules(room)}
    known = frozenset(paths)
    arrows = {name: set(modules_imported(path, known)) for name, path in paths.items()}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_every_room_is_there() -> None:
    assert all(list(modules(room)) for room in ROOMS)


# What fetches certificates. Nothing else in the room may know it: verification needs no network.
FETCHES = {
    ROOT / "attestation" / "snp" / "kds.py",
    ROOT / "attestation" / "snp" / "endorse.py",
    ROOT / "attestation" / "tdx" / "pcs.py",
    *(ROOT / "attestation" / "fetching").glob("*.py"),
}
FETCHING = {
    "attestation.snp.kds",
    "attestation.snp.endorse",
    "attestation.tdx.pcs",
    "attestation.fetching.asker",
    "attestation.fetching.flights",
    "attestation.fetching.kept",
}


def test_nothing_in_attestation_reaches_the_network_but_what_fetches_certificates() -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in modules("attestation")
        if path not in FETCHES
        for name in imports(path)
        if name in NETWORK or name.split(".")[0] in NETWORK or name in FETCHING
    }
    assert found == set()


@pytest.mark.parametrize("room", ["enforcement", "agent"])
def test_trio_rooms_do_not_use_asyncio(room: str) -> None:
    assert not [path for path in modules(room) if "asyncio" in imports(path)]
