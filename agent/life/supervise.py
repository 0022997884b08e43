"""Keeps a task of the daemon alive: a fault of one part must not be the end of all.

Only for parts that the daemon can do without for a while (the stream, the pulse, a reload). What
records decisions is not one of them: a fault there ends the daemon, and the service manager starts
it again.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

from agent import logs
from attestation.panics import FaultsEndHere

FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 60.0
STEADY_SECONDS: Final = 60.0  # a task that ran this long begins the back-off anew
_LOG = logs.get("supervise")


def first_of(error: BaseException) -> BaseException:
    """The first error of a group, however deep; an error that is none, itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def place_of(error: BaseException) -> str:
    """Where it was raised (`file.py:12`). Its message may hold what no log may, its place not."""
    error = first_of(error)
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"


class Faults:
    """Counts what went wrong inside the daemon, by (task,), and says it in the log."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], int] = {}

    def note(self, task: str, error: BaseException) -> str:
        """Count and log a fault; gives what may be said of it."""
        text = f"{type(first_of(error)).__name__} at {place_of(error)}"
        key = (task,)
        self.counts[key] = self.counts.get(key, 0) + 1
        _LOG.error("task.fault", task=task, fault=text, faults=self.counts[key])
        return text


async def keep_alive(
    task: str, run: Callable[[], Awaitable[None]], faults: Faults, *, rng: random.Random
) -> None:
    """Run it until it returns by itself; after a fault again, with a bounded back-off."""
    wait = FIRST_WAIT_SECONDS
    while True:
        started = trio.current_time()
        with FaultsEndHere(partial(faults.note, task)):
            await run()
            return
        if trio.current_time() - started >= STEADY_SECONDS:
            wait = FIRST_WAIT_SECONDS
        await trio.sleep(wait * rng.uniform(0.5, 1.0))
        wait = min(wait * 2, LONGEST_WAIT_SECONDS)
