"""Serves a simulated TEE's report tree as a file system, for programs that have no hardware.

The mount lives as long as the block that serves it: it is removed when the block is left, and by a
process of its own (`agent.simulate_tee.unmounting`) when this one is killed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

from agent.attesting.tee_search import SIMULATED_FILE_SYSTEM, mounts
from agent.errors import ExitCode, FatalError
from agent.simulate_tee.unmounting import unmount
from attestation.simulated.tree import SimulatedTree

DEVICE: Final = Path("/dev/fuse")
_NAME: Final = SIMULATED_FILE_SYSTEM.removeprefix("fuse.")
_INSTALL: Final = (
    "apt-get install fuse3 libfuse3-dev pkg-config gcc; pip install 'lucid-agent[fuse]'"
)
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_GUARD_SECONDS: Final = 10.0  # for the guard's end after ours (a guess)


async def serve(
    tree: SimulatedTree,
    mount: Path,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `tree` at an empty directory until cancelled, or until somebody unmounts it. One at a
    time in a process.

    Raises:
        FatalError: FUSE cannot be had here, or nothing can be mounted there.
    """
    mount = _place(mount)
    try:
        import pyfuse3  # noqa: PLC0415 - an extra that most installations have not

        from agent.simulate_tee.fuse_tree import FuseTree  # noqa: PLC0415 - needs it
    except ImportError as error:
        raise FatalError(
            ExitCode.USAGE, f"pyfuse3 cannot be used: {error}", remedy=_INSTALL
        ) from None
    # Without FUSE's own check of permissions: the tree knows better, root gets EACCES as well.
    options = {f"fsname={_NAME}", f"subtype={_NAME}"}
    with _guard(mount) as mounted:
        try:
            pyfuse3.init(FuseTree(tree), str(mount), options)
        except RuntimeError as error:
            raise FatalError(
                ExitCode.USAGE,
                f"the file system cannot be mounted at {mount}: {error}",
                remedy="mounting needs root, or fusermount3 of the package fuse3; a container needs"
                " /dev/fuse and the capability SYS_ADMIN",
            ) from None
        try:
            mounted()
            async with trio.open_nursery() as nursery:

                async def until_unmounted() -> None:
                    await pyfuse3.main()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(until_unmounted)
                task_status.started()
        finally:
            pyfuse3.close(unmount=True)


def watch_parent() -> None:
    """Ask the kernel for SIGTERM when the process (the thread) that started this one ends.

    Raises:
        FatalError: it has ended already, or the kernel refuses.
    """
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise FatalError(ExitCode.FAILED, f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        raise FatalError(ExitCode.FAILED, "the process that started this one has ended")


def _place(mount: Path) -> Path:
    """The place by the name that the kernel gives it; or what is wrong with it."""
    mount = mount.resolve()
    if not DEVICE.exists():
        raise FatalError(
            ExitCode.USAGE,
            f"{DEVICE} is not there: this kernel or container has no FUSE",
            remedy="modprobe fuse; for a container: --device /dev/fuse --cap-add SYS_ADMIN",
        )
    ours = [m for m in mounts() if m.point == mount and m.kind == SIMULATED_FILE_SYSTEM]
    try:
        filled = any(mount.iterdir())
    except OSError as error:
        if error.errno == errno.ENOTCONN and ours and unmount(mount, ours[-1].device):
            return mount  # what one that was killed together with its guard had left is gone
        raise FatalError(
            ExitCode.USAGE,
            f"nothing can be mounted at {mount}: {error.strerror}",
            remedy=f"mkdir -p {mount}",
        ) from None
    if ours:
        raise FatalError(
            ExitCode.USAGE,
            f"a simulated TEE is served at {mount} already",
            remedy="end that one first, or name another directory",
        )
    if filled:
        raise FatalError(
            ExitCode.USAGE,
            f"nothing is mounted at {mount}: the directory is not empty",
            remedy="name an empty one",
        )
    return mount


@contextmanager
def _guard(mount: Path) -> Iterator[Callable[[], None]]:
    """A process that removes the mount if this one is killed; to be called when it is mounted."""
    # In a session of its own, so that Ctrl-C or a killed process group does not end it with us.
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "agent.simulate_tee.unmounting", str(mount)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # whoever reads ours must not wait for it
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pipe = process.stdin
    assert pipe is not None

    def mounted() -> None:
        device = next((m.device for m in reversed(mounts()) if m.point == mount), "")
        pipe.write(f"{device}\n".encode())
        pipe.flush()

    try:
        yield mounted
    finally:
        pipe.close()
        try:
            process.wait(_GUARD_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
