"""What is done so that the boot's keys stay in memory, and in this process.

The keys are made in memory and no code writes them. What remains is what the system may do with the
memory: dump it when the process crashes, let others of the same user read it, or swap it out, to a
disk that in a confidential VM belongs to the host.
"""

from __future__ import annotations

import ctypes
import os
import resource
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

_PR_SET_DUMPABLE: Final = 4  # <linux/prctl.h>
_MCL_CURRENT: Final = 1  # <asm-generic/mman.h>
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
_CAP_IPC_LOCK: Final = 14  # <linux/capability.h>
_UNLIMITED: Final = "infinity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Custody:
    """What was possible.

    Attributes:
        core_dumps: the system may still write this process's memory into a file when it crashes.
        readable: other processes of the same user may still read its memory.
        locked: its memory is never swapped out. Code, which is read again from its files, does
            not stay locked (`agent/code_pages.py`).
        swap: this machine has swap at all.
        problems: why not, with what to do; empty where everything holds.
    """

    core_dumps: bool
    readable: bool
    locked: bool
    swap: bool
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def protect() -> Custody:
    """Do for this process what the system allows. Called once, before any key is made."""
    libc = ctypes.CDLL(None, use_errno=True)
    problems = []
    core_dumps = readable = False
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:  # pragma: no cover - lowering a limit is always allowed
        core_dumps = True
        problems.append(f"core dumps: {error}")
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:  # pragma: no cover - has no way to fail
        readable = True
        problems.append(f"memory is readable for others: {_last_error()}")
    why_not = _lock(libc)
    if why_not:
        problems.append(why_not)
    return Custody(
        core_dumps=core_dumps,
        readable=readable,
        locked=not why_not,
        swap=_has_swap(),
        problems=tuple(problems),
    )


def _lock(libc: ctypes.CDLL) -> str:
    """Lock what is in memory and what will come; gives why not, or nothing.

    Under a finite limit nothing is locked. The kernel counts whole mappings, not what is used of
    them, and with MCL_FUTURE every later allocation above the limit would fail: a process that runs
    is worth more. MCL_ONFAULT: only what is used is held, or every thread's stack and all libraries
    would be read into memory.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    if hard != resource.RLIM_INFINITY and not _may_lock():
        return (
            f"memory is not locked: its limit is {hard} bytes;"
            f" give the agent LimitMEMLOCK={_UNLIMITED}"
        )
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return f"memory is not locked: {_last_error()}"
    return ""


def _may_lock() -> bool:
    """Whether the limit does not hold for this process (CAP_IPC_LOCK)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n"):
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False


def _has_swap() -> bool:
    try:
        lines = Path("/proc/swaps").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return True  # not known: say the worse
    return len(lines) > 1


def _last_error() -> str:
    return os.strerror(ctypes.get_errno())
