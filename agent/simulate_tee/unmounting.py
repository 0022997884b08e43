"""Removes a dead mount: started by `lucid-agent simulate-tee` as a process of its own.

It waits at the end of a pipe. Its first line names the mount's device (major:minor); when the pipe
ends, whoever served the mount is gone, and what is still mounted there with that device goes too.
FUSE's own option `auto_unmount` does not look which mount it removes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from agent.attesting.tee_search import mounts


def unmount(point: Path, device: str) -> bool:
    """Take a mount away, even a dead one that is in use. False: it is not there (any more)."""
    there = [mount for mount in mounts() if mount.point == point]
    if not there or there[-1].device != device:
        return False
    tool = shutil.which("fusermount3")
    command = [tool, "-u", "-q", "-z", "--", str(point)] if tool else ["umount", "-l", str(point)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=30)  # noqa: S603
    return done.returncode == 0


def main() -> None:
    """Wait for the end of the pipe."""
    device = sys.stdin.readline().strip()
    while sys.stdin.readline():
        pass
    if device:
        unmount(Path(sys.argv[1]), device)


if __name__ == "__main__":
    main()
