"""A hang on purpose, so that the watchdog can be tested. Out of reach in production: it needs
a variable of the environment, and with that an agent on real hardware does not start.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from typing import Final

import trio

from agent.errors import ExitCode, FatalError

VARIABLE: Final = "LUCID_TEST_HANG"
HANG_SECONDS: Final = 3600.0


def wanted(environ: Mapping[str, str], *, simulated: bool) -> bool:
    """Whether SIGUSR1 shall hang the event loop.

    Raises:
        FatalError: it is asked of an agent on real hardware.
    """
    if VARIABLE not in environ:
        return False
    if not simulated:
        raise FatalError(
            ExitCode.USAGE,
            f"{VARIABLE} is set, and the TEE is not simulated",
            remedy=f"remove {VARIABLE}: it is for tests of the watchdog",
        )
    return True


async def hang_on_signal() -> None:
    """Upon SIGUSR1, stop the whole loop, as a fault would."""
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        async for _number in signals:
            time.sleep(HANG_SECONDS)  # noqa: ASYNC251 - that is what it is for
