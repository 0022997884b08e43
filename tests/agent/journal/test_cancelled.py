"""A cancellation at every step of the writer: nothing that has a place is lost or there twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.abc
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.records import decode_record
from tests.agent.journal.test_journal import opened, record, stored

KEY = ec.generate_private_key(ec.SECP256R1())
DECISIONS = 6


class CancelAt(trio.abc.Instrument):
    """Cancels a scope after so many steps of any task."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self._scope, self._left = scope, steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def _live(path: Path, steps: int) -> tuple[int, bool]:
    """A life that is cancelled after so many steps; its last place, and whether it was."""
    journal = opened(path)
    with trio.CancelScope() as scope:
        instrument = CancelAt(scope, steps)
        trio.lowlevel.add_instrument(instrument)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(journal.run)
                journal.set_signer(KEY, b"passport")
                for number in range(DECISIONS):
                    seq = journal.append(record(number))
                    if number % 2:
                        await journal.durable(seq)
                await journal.checkpoint()
                nursery.cancel_scope.cancel()
        finally:
            trio.lowlevel.remove_instrument(instrument)
            with trio.CancelScope(shield=True):
                await journal.close()
    return journal.last_seq, scope.cancel_called


@pytest.mark.parametrize("start", range(1, 12))
async def test_a_cancellation_at_any_step_loses_nothing(tmp_path: Path, start: int) -> None:
    tmp_path.chmod(0o700)
    for steps in range(start, 120, 11):
        path = tmp_path / f"{steps}"
        path.mkdir(mode=0o700)
        last, cancelled = await _live(path, steps)
        assert [decode_record(data).seq for data in stored(path)] == list(range(1, last + 1))
        if not cancelled:
            assert last == DECISIONS
            return
    raise AssertionError("a life has more steps than these")
