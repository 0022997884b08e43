"""Journals for tests: written by the agent's own code, with passports of a simulated TEE, and bent
afterwards as somebody can who has the file.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import trio
from click.testing import CliRunner, Result

from agent.journal import Journal
from attestation import chain
from attestation.errors import AttestationError
from attestation.journal_format import BOOT_SPAN
from attestation.records import DecisionRecord, decode_record
from attestation.simulated.vendor import SimulatedVendor
from lucid.journal.cli import journal
from tests.attestation.passports import DIGEST, NOW, Maker

AGENT = "agent"  # whose passports the maker makes
LATER = NOW + timedelta(days=2)
WALL = int(NOW.timestamp()) * 10**9


def decision(number: int, named: str, **changes: Any) -> DecisionRecord:
    made = DecisionRecord(
        decision_id=f"dec-{number}", request_id="r", trace_id="t", phase="request", route="x",
        model="m", principal=("User", "a"), action="invoke", resource=("Agent", "b"),
        outcome="proceed", reasons=("p0",), bundle=("test", "1", DIGEST), passport=named,
        claims={"pii_found": False}, latency_us={"policy": 1},
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


@dataclass
class BootPlan:
    """One boot: how many decisions, where it is signed, and how it ends.

    Attributes:
        states: what its passport says of the journal: issued after this many records.
        killed: nobody signs its end.
        passport: False: it never had one.
    """

    seed: bytes
    records: int
    signed_at: Sequence[int] = ()
    states: int = 0
    killed: bool = False
    passport: bool = True
    agent: str = AGENT
    number: int = 0
    changes: dict[str, Any] = field(default_factory=dict)  # of every decision

    @property
    def boot_id(self) -> bytes:
        return chain.boot_id(self.seed)


def passport_id(seed: bytes) -> bytes:
    return seed[:16]


async def write_boot(path: Path, vendor: SimulatedVendor, plan: BootPlan) -> None:
    """Run the agent's journal for one boot."""
    ticks = iter(range(10**6))
    opened = Journal.open(
        path, agent_id=plan.agent, boot_seed=plan.seed,
        wall=lambda: WALL + next(ticks) * 1_000_000, boot=lambda: next(ticks),
    )  # fmt: skip
    maker, name = Maker(vendor), "pass-" + passport_id(plan.seed).hex()
    async with trio.open_nursery() as nursery:
        await nursery.start(opened.run)
        for number in range(plan.records + 1):
            if number:
                has = plan.passport and number > plan.states
                made = decision(number, name if has else "", **plan.changes)
                await opened.durable(opened.append(made))
            if number == plan.states and plan.passport:
                maker = replace(maker, seed=plan.seed, head=opened.head)
                token = maker.token(
                    journal_seq=number, passport_id=passport_id(plan.seed), subject=plan.agent
                )
                opened.set_signer(maker.key, token)
            if number in plan.signed_at:
                await opened.checkpoint()
        if plan.killed:
            opened.set_signer(None, b"")  # type: ignore[arg-type]
        await opened.close()
        nursery.cancel_scope.cancel()


def write(path: Path, vendor: SimulatedVendor, *plans: BootPlan) -> Path:
    """A journal of these boots, one after another."""

    async def boots() -> None:
        for plan in plans:
            await write_boot(path, vendor, plan)

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    trio.run(boots)
    return path


@dataclass
class File:
    """A journal's file that a test may bend."""

    path: Path
    root: Path

    def execute(self, sql: str, *values: Any) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute(sql, values)

    def rows(self, sql: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as db:
            return db.execute(sql, values).fetchall()

    def head(self, number: int, seq: int) -> bytes:
        ((head,),) = self.rows("SELECT head FROM records WHERE place = ?", place(number, seq))
        return bytes(head)

    def rechain(self, number: int, records: dict[int, bytes], seed: bytes = b"") -> None:
        """Other records from some place on, and heads that fit; what is not named stays."""
        before = min(records) - 1
        head = self.head(number, before) if before else chain.genesis(seed)
        rows = self.rows(
            "SELECT place, record FROM records WHERE place > ? AND place < ? ORDER BY place",
            place(number, before), place(number + 1, 0),
        )  # fmt: skip
        known = {at - place(number, 0): data for at, data in rows} | records
        with closing(sqlite3.connect(self.path)) as db, db:
            for seq, data in sorted(known.items()):
                head = chain.advance(head, data)
                db.execute(
                    "INSERT INTO records VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE"
                    " SET wall_ns = ?2, head = ?3, record = ?4",
                    (place(number, seq), _wall_ns(data), head, data),
                )

    def ask(self, *options: str, allow: bool = True) -> Result:
        allowed = ["--allow-simulated", "--simulated-root", str(self.root)] if allow else []
        arguments = ["verify", str(self.path), "--at", LATER.isoformat(), *allowed, *options]
        return CliRunner().invoke(journal, arguments)

    def found(self, *options: str) -> dict[str, Any]:
        """What `--json` says."""
        done = self.ask("--json", *options)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        value: dict[str, Any] = json.loads(done.stdout)
        return value | {"exit": done.exit_code}

    def fault(self, *options: str) -> tuple[int, str, int | None, int | None]:
        """Exit code, the error's code, number of the boot, record."""
        said = self.found(*options)
        error = said["error"] or {}
        assert said["valid"] == (said["exit"] == 0)
        return said["exit"], error.get("code", ""), error.get("boot_number"), error.get("seq")


def _wall_ns(data: bytes) -> int:
    try:
        return min(decode_record(data).wall_ns, 2**63 - 1)
    except AttestationError:
        return WALL


def place(number: int, seq: int) -> int:
    return number * BOOT_SPAN + seq
