"""One thread for blocking work, one piece at a time.

`trio.to_thread` finds a thread for each piece; on a core of its own that costs some 20 µs more a
piece than a thread that stays, and the journal has a piece for nearly every decision.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import outcome
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

T = TypeVar("T")


class Worker:
    """Made by `open_worker`, whose block is the thread's life."""

    def __init__(self, name: str) -> None:
        self._pieces: queue.SimpleQueue[tuple[Callable[[], Any], Task] | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._work, name=name)
        self._thread.start()

    async def run(self, work: Callable[[], T]) -> T:
        """Do this in the thread, after what was asked for earlier. A cancelled caller waits for
        the end too: it must not go on as if nothing had been done.
        """
        self._pieces.put((work, current_task()))
        result: T = await wait_task_rescheduled(lambda _raise_cancel: Abort.FAILED)
        return result

    async def stop(self) -> None:
        """Wait until everything asked for is done and the thread has ended."""
        self._pieces.put(None)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            work, task = piece
            self._token.run_sync_soon(reschedule, task, outcome.capture(work))
            del piece, work, task  # nothing stays alive until the next piece comes


@asynccontextmanager
async def open_worker(name: str) -> AsyncIterator[Worker]:
    """A worker; its thread has ended when the block is left."""
    worker = Worker(name)
    try:
        yield worker
    finally:
        await worker.stop()
