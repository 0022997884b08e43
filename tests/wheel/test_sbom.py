"""The bill of materials names all that is shipped, and nothing of the machine it is made on."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.wheel


def written(path: Path) -> bytes:
    subprocess.run(
        [ROOT / ".venv-supply" / "bin" / "python", ROOT / "deploy" / "sbom.py", path],
        check=True,
        timeout=120,
    )
    return path.read_bytes()


def test_every_pinned_requirement_is_in_it_and_it_is_the_same_twice(tmp_path: Path) -> None:
    text = written(tmp_path / "one.json")
    assert written(tmp_path / "two.json") == text
    bom: dict[str, Any] = json.loads(text)
    assert bom["specVersion"] == "1.6"
    assert bom["metadata"]["component"]["name"] == "lucid-agent"
    found = {c["purl"].partition("?")[0].lower() for c in bom["components"]}
    pinned = re.findall(
        r"^([A-Za-z0-9_.-]+)==([^ \\;]+)",
        (ROOT / "requirements" / "runtime.txt").read_text(),
        re.MULTILINE,
    )
    assert pinned
    assert {f"pkg:pypi/{name.lower()}@{version}" for name, version in pinned} <= found
    for private in (str(ROOT), str(tmp_path.parent), "file://"):
        assert private not in text.decode()


def test_where_the_image_was_built_its_debian_packages_are_in_it(tmp_path: Path) -> None:
    status = ROOT / ".image" / "status.d"
    if not status.is_dir():
        pytest.skip("no image was built (make image)")
    bom: dict[str, Any] = json.loads(written(tmp_path / "bom.json"))
    debian = {c["name"] for c in bom["components"] if c["purl"].startswith("pkg:deb/debian/")}
    assert debian == {path.name for path in status.iterdir()}
    assert {"libc6", "libssl3"} <= debian
