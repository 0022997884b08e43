"""Starts an example auditor as a process and asks it through the agent's own client."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from enforcement.auditing import Audit
from enforcement.auditors.client import AuditorSettings
from enforcement.auditors.panel import AuditorService
from enforcement.outcome import Phase
from enforcement.policy.vocabulary import Claim, ClaimType, Vocabulary
from tests.enforcement.auditors.peers import FakeBundle, question

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "auditors"


def vocabulary(**claims: ClaimType) -> Vocabulary:
    """Claims of the auditor `example`, in both phases."""
    return Vocabulary(
        Claim(name=name, type=kind, sources=("auditor:example",), phases=frozenset(Phase))
        for name, kind in claims.items()
    )


class Asked:
    """A running example."""

    def __init__(self, service: AuditorService, bundle: FakeBundle) -> None:
        self.service = service
        self.bundle = bundle

    async def ask(self, *texts: str, output: tuple[str, ...] | None = None) -> Audit:
        auditors = self.service.for_bundle(self.bundle)
        assert auditors is not None
        return await auditors.ask(question(auditors, *texts, output=output))


@asynccontextmanager
async def running(
    name: str,
    bundle: FakeBundle,
    socket: Path,
    *,
    python: str = sys.executable,
    config: bytes = b"{}",
) -> AsyncIterator[Asked]:
    """The example `name` on a Unix socket; its vocabulary is checked against the bundle's."""
    command = [python, "-I", str(EXAMPLES / name / "auditor.py"), "--unix", str(socket)]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            with trio.fail_after(60):
                line = await process.stdout.receive_some()
            assert line.startswith(b"listening on"), line
            service = AuditorService(
                [
                    AuditorSettings(
                        name="example", url=f"unix:{socket}", deadline=10.0, config=config
                    )
                ]
            )
            await nursery.start(service.run)
            await service.check(bundle, wait=True)
            yield Asked(service, bundle)
        finally:
            process.terminate()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()
