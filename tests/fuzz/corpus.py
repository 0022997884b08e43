"""Writes real evidence as seeds for `tests.fuzz.snp` and `tests.fuzz.tdx` into a directory.

python -m tests.fuzz.corpus VECTORS DIRECTORY
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from attestation.simulated.tdx import SimulatedIntel
from attestation.snp.table import CertTable, TableEntry
from attestation.tdx.abi import Quote
from attestation.tdx.chain import Chain


def snp(folder: Path, directory: Path) -> None:
    """The first byte is the number of the target in `tests.fuzz.snp.TARGETS`."""
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


def tdx(folder: Path, directory: Path) -> None:
    """The first byte is the number of the target in `tests.fuzz.tdx.TARGETS`."""
    directory.mkdir(parents=True, exist_ok=True)
    seeds: dict[str, bytes] = {"policy": b"\x08statuses = ['UpToDate']\n[td]\nallow_debug = true\n"}
    for case in json.loads((folder / "cases.json").read_text()):
        data = (folder / "quotes" / f"{case['quote']}.bin").read_bytes()
        read = Quote.parse(data)
        extensions = Chain.parse(read.pck_chain).leaf.sgx_extensions
        assert extensions is not None
        seeds[f"quote-{case['quote']}"] = b"\0" + data
        seeds[f"chain-{case['quote']}"] = b"\2" + read.pck_chain
        seeds[f"pck-{case['quote']}"] = b"\4" + extensions
    for path in (folder / "collateral").glob("*.json"):
        seeds[path.stem] = (b"\5" if path.stem.startswith("tcb") else b"\6") + path.read_bytes()
    for path in (folder / "crls").iterdir():
        seeds[f"crl-{path.stem}"] = b"\7" + path.read_bytes()
    now = datetime(2025, 8, 1, tzinfo=UTC)  # as in `tests.fuzz.tdx`
    vendor = SimulatedIntel.create(now=now)
    quote = vendor.quote(bytes(64))
    seeds["simulated"] = b"\1" + len(quote).to_bytes(2, "big") + quote + vendor.collateral(now)
    seeds["signer"] = b"\3" + vendor.signing_chain()
    for name, data in seeds.items():
        (directory / name).write_bytes(data)


def main(vectors: Path, directory: Path) -> None:
    snp(vectors / "snp", directory / "snp")
    tdx(vectors / "tdx", directory / "tdx")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
