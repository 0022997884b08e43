"""What the kernel says of this process, for metrics. Source: proc(5); Linux only."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_SELF: Final = Path("/proc/self")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One look at `/proc/self`. Sizes in bytes, times in seconds.

    Attributes:
        started: seconds since boot, suspend included.
    """

    resident: int
    virtual: int
    cpu_seconds: float
    threads: int
    started: float
    open_fds: int
    max_fds: int

    @classmethod
    def look(cls) -> Self:
        """Read it now.

        Raises:
            OSError: /proc is not there.
        """
        # The command's name, in parentheses, may hold anything; the fields follow the last one.
        fields = (_SELF / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
        stat = fields.split()  # from field 3 on
        virtual, resident = (_SELF / "statm").read_text(encoding="ascii").split()[:2]
        return cls(
            resident=int(resident) * _PAGE,
            virtual=int(virtual) * _PAGE,
            cpu_seconds=(int(stat[11]) + int(stat[12])) / _TICKS,
            threads=int(stat[17]),
            started=int(stat[19]) / _TICKS,
            open_fds=len(os.listdir(_SELF / "fd")) - 1,  # noqa: PTH208 - names alone; one is ours
            max_fds=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )
