"""What is freed can be used again by all threads, and what is in use can be told from what is kept.

glibc gives threads heaps of their own, up to eight for each processor, and a heap keeps what was
freed in it. The threads of a stream come and go with the Observer: each may find another heap than
the last one had, and what is kept grows for hours without being used by anybody. Two heaps are
enough here, the main one and one for all helping threads: they allocate little.

Source: mallopt(3), mallinfo2(3). Another C library keeps its own ways.
"""

from __future__ import annotations

import ctypes
from typing import Final

HEAPS: Final = 2
_M_ARENA_MAX: Final = -8  # <malloc.h>


class _Info(ctypes.Structure):
    """`struct mallinfo2`, of all heaps together."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def share_heaps() -> bool:
    """Bound the heaps of this process; False: its C library knows no such thing.

    Called once, before there is a second thread: a heap that is there stays.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_ARENA_MAX, HEAPS))


def bytes_in_use() -> int | None:
    """Bytes that were allocated and not freed, of what Python does not manage itself (blocks of
    more than 512 bytes, and everything that libraries allocate); None: it cannot be told.
    """
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return None
    mallinfo2.restype = _Info
    info = mallinfo2()
    return int(info.uordblks) + int(info.hblkhd)
