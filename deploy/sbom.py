"""Write a CycloneDX bill of materials of what is shipped. `make sbom`.

    python3 sbom.py OUT.json        (in the environment of requirements/supply.txt; wheel in dist/)

Components are what really gets installed, read from an environment made for it: the wheel and
the pinned requirements, with licences. Where the image was built (`make image`), the Debian
packages in it are listed too. The same input gives the same bytes; the result is validated against
CycloneDX's schema before it is written.

Exit codes: 0 written; 1 not valid; 2 something is missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

ROOT = Path(__file__).resolve().parents[1]
DEBIAN = ROOT / ".image" / "status.d"  # written by `make image`


def installed(wheel: Path, place: Path) -> Path:
    """An environment with the wheel and the pinned requirements, and nothing else; its Python."""
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    subprocess.run(
        [*pip, "--require-hashes", "-r", ROOT / "requirements" / "runtime.txt"], check=True
    )
    subprocess.run([*pip, wheel], check=True)
    return python


def of_environment(python: Path) -> dict[str, Any]:
    """cyclonedx-py's answer about the environment."""
    done = subprocess.run(
        [
            Path(sys.executable).with_name("cyclonedx-py"), "environment", "--output-reproducible",
            "--spec-version", "1.6", "--output-format", "JSON", "--no-validate",
            "--mc-type", "application", "--pyproject", ROOT / "pyproject.toml", python,
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    for component in found["components"]:  # the path of this machine is nobody's business
        component.pop("externalReferences", None)
    return found


def of_image(status: Path) -> list[dict[str, Any]]:
    """The Debian packages that files of the image are from."""
    components = []
    for file in sorted(status.iterdir()):
        fields = HeaderParser().parsestr(file.read_text(encoding="utf-8"))
        name, version = fields["Package"], fields["Version"]
        purl = PackageURL("deb", "debian", name, version, {"arch": fields["Architecture"]})
        components.append({
            "type": "library", "bom-ref": str(purl), "name": name, "version": version,
            "purl": str(purl), "description": fields["Description"].splitlines()[0],
        })  # fmt: skip
    return components


def main(out: Path) -> int:
    """As the module says."""
    wheels = sorted((ROOT / "dist").glob("lucid_agent-*.whl"))
    if len(wheels) != 1:
        print(f"sbom: one wheel is needed in dist/, found {len(wheels)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as place:
        bom = of_environment(installed(wheels[0], Path(place) / "venv"))
    packages = of_image(DEBIAN) if DEBIAN.is_dir() else []
    bom["components"] += packages
    text = json.dumps(bom, indent=2, sort_keys=True) + "\n"
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        print(f"sbom: not valid: {error}", file=sys.stderr)
        return 1
    out.write_text(text, encoding="utf-8")
    kinds = f"{len(bom['components']) - len(packages)} Python, {len(packages)} Debian packages"
    print(f"{out}: CycloneDX 1.6, valid; {kinds}" + ("" if packages else " (no image was built)"))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
