"""Writes real evidence as seeds for `tests.fuzz.snp` into a directory.

python -m tests.fuzz.corpus VECTORS DIRECTORY
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from attestation.snp.table import CertTable, TableEntry


def main(vectors: Path, directory: Path) -> None:
    """The first byte is the number of the target in `tests.fuzz.snp.TARGETS`."""
    folder = vectors / "snp"
    directory.mkdir(parents=True, exist_ok=True)
    for case in json.loads((folder / "cases.json").read_text()):
        entry = TableEntry.VLEK if case["kind"] == "SEV-VLEK" else TableEntry.VCEK
        names = {entry: case["ek"], TableEntry.ICA: case["ica"][0], TableEntry.ARK: case["ark"][0]}
        certs = {e: (folder / "certs" / f"{h}.der").read_bytes() for e, h in names.items()}
        table = CertTable(certs).encode()
        report = (folder / "reports" / f"{case['report']}.bin").read_bytes()
        (directory / f"{case['report']}-{case['ek']}").write_bytes(b"\0" + report + table)
        (directory / f"table-{case['ek']}").write_bytes(b"\1" + table)
        (directory / f"cert-{case['ek']}").write_bytes(b"\2" + certs[entry])
    for crl in (folder / "crls").iterdir():
        (directory / f"crl-{crl.stem}").write_bytes(b"\4" + crl.read_bytes())
    (directory / "policy").write_bytes(b"\5vmpl = [0]\n[guest]\nallow_debug = true\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
