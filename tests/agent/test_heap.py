"""The C library's heaps are bounded, and what is in use is told from what is kept."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from agent import heap

GLIBC = hasattr(ctypes.CDLL(None), "mallinfo2")
# Sixteen threads that allocate at one time; the heaps that this took are mapped beside the stacks,
# aligned to 64 MB, with some of it accessible.
COUNT = """
import ctypes, re, sys, threading
from agent.heap import share_heaps
if sys.argv[1] == "shared":
    assert share_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
gate = threading.Barrier(17)
def work():
    gate.wait()
    for _ in range(200):
        assert libc.malloc(4096)
    gate.wait()
threads = [threading.Thread(target=work) for _ in range(16)]
[thread.start() for thread in threads]
gate.wait(); gate.wait()
maps = re.findall(r"^([0-9a-f]+)-[0-9a-f]+ rw-p", open("/proc/self/maps").read(), re.M)
print(sum(int(start, 16) % (64 << 20) == 0 for start in maps))
"""


def heaps(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNT, how],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return int(done.stdout)


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_helping_threads_share_one_heap() -> None:
    assert heaps("shared") <= heap.HEAPS - 1 < heaps("as it comes")


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_what_is_freed_is_not_in_use() -> None:
    def used() -> int:
        found = heap.bytes_in_use()
        assert found is not None
        return found

    before = used()
    held = [bytes(4000) for _ in range(1000)]
    assert 3_900_000 < used() - before < 4_500_000
    del held
    assert used() - before < 400_000


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert not heap.share_heaps()
    assert heap.bytes_in_use() is None
