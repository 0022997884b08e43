"""Serves a simulated tree with faults that a test plans: `… DIR STATE TEE`.

Each line of standard input is a JSON list of faults; `ok` answers it. The end of the input ends it.
"""

from __future__ import annotations

import functools
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import trio

from agent.attesting.platform import simulated_machine
from agent.simulate_tee.serving import serve
from attestation.simulated.tree import SimulatedTree


async def main(mount: Path, state: Path, tee: str) -> None:
    tree = SimulatedTree(simulated_machine(tee, state, now=datetime.now(UTC)))
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(serve, tree, mount))
        print("ok", flush=True)  # noqa: T201 - the test reads it
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            tree.faults.plan(json.loads(line))
            print("ok", flush=True)  # noqa: T201
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
