"""Writes seeds into a directory: real evidence for `tests.fuzz.snp` and `tests.fuzz.tdx`, and whole
texts for targets that take them as they are.

python -m tests.fuzz.corpus VECTORS DIRECTORY
"""

from __future__ import annotations

import hashlib
import json
import ssl
import struct
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
        loose = b"".join(ssl.DER_cert_to_PEM_cert(der).encode() for der in certs.values())
        (directory / f"loose-{case['ek']}").write_bytes(b"\3" + loose)
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
    log = _event_log()
    seeds["log"], seeds["log-padded"] = b"\x09" + log, b"\x09" + log + b"\xff" * 64
    for name, data in seeds.items():
        (directory / name).write_bytes(data)


def _event_log() -> bytes:
    """A crypto-agile log (TCG) of one algorithm, SHA-384, with an event for each register."""
    spec = b"Spec ID Event03\0" + bytes(4) + b"\0\2\1\2" + struct.pack("<IHHB", 1, 12, 48, 0)
    head = struct.pack("<II20sI", 0, 3, bytes(20), len(spec)) + spec
    return head + b"".join(
        struct.pack("<IIIH48sI", register, kind, 1, 12, bytes(48), 4) + b"data"
        for register in (1, 2, 3, 4)
        for kind in (0x80000007, 4)
    )


def texts(directory: Path) -> None:
    """The first byte says that the rest is taken as it is."""
    project = Path(__file__).parents[2]
    for kind, pattern in (
        ("manifest", "**/bundle.toml"),
        ("policies", "**/*.cedar"),
        ("entities", "**/entities.json"),
    ):
        folder = directory / kind
        folder.mkdir(parents=True, exist_ok=True)
        for top in ("examples", "lucid/data"):
            for path in (project / top).glob(pattern):
                data = path.read_bytes()
                (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(b"\0" + data)


def main(vectors: Path, directory: Path) -> None:
    snp(vectors / "snp", directory / "snp")
    tdx(vectors / "tdx", directory / "tdx")
    texts(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
