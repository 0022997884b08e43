"""Are there known vulnerabilities in what is shipped? `make audit`, which fails for 1 and 3 alike.

    python3 audit.py REQUIREMENTS.txt…      (pip-audit beside this interpreter, or on the PATH)

Exit codes: 0 every package was looked up and none has a known vulnerability; 1 some have; 3 could
not be checked. pip-audit itself calls a package that the service does not know "skipped" and ends
with 0; here that is 3.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CLEAN, VULNERABLE, UNCHECKED = 0, 1, 3
SERVICES = ("pypi", "osv")  # the next one is asked where one does not answer for everything


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """What pip-audit's JSON says: exit code, and a line for each package that is not clean."""
    lines, code = [], CLEAN
    packages = report.get("dependencies", [])
    for package in packages:
        name = f"{package['name']} {package.get('version', '')}".strip()
        if "skip_reason" in package or "vulns" not in package:
            code = code or UNCHECKED
            lines.append(f"not checked: {name}: {package.get('skip_reason', 'no answer')}")
    for package in packages:
        for found in package.get("vulns", ()):
            code = VULNERABLE
            name = f"{package['name']} {package['version']}"
            fixed = ", ".join(found["fix_versions"]) or "no version"
            lines.append(f"VULNERABLE: {name}: {found['id']} (fixed in {fixed})")
    if not packages:
        return UNCHECKED, ["not checked: the report names no packages"]
    return code, lines


def audit(service: str, requirements: list[str]) -> tuple[int, list[str]]:
    """Ask one service about every pinned requirement."""
    beside = Path(sys.executable).with_name("pip-audit")
    command = [beside if beside.exists() else "pip-audit", "--vulnerability-service", service]
    command += [
        "--require-hashes",
        "--disable-pip",
        "--format",
        "json",
        "--progress-spinner",
        "off",
    ]
    for file in requirements:
        command += ["--requirement", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    try:
        return verdict(json.loads(done.stdout))
    except ValueError:
        words = done.stderr.strip().splitlines() or ["no answer"]
        return UNCHECKED, [f"not checked: {service}: {words[-1]}"]


def main(requirements: list[str]) -> int:
    """As the module says."""
    for service in SERVICES:
        code, lines = audit(service, requirements)
        print(f"asked {service}:", *(lines or ["no known vulnerabilities"]), sep="\n  ")
        if code != UNCHECKED:
            return code
    print("could not be checked: this says nothing about vulnerabilities", file=sys.stderr)
    return UNCHECKED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
