"""A Unix socket whose file never exists with wider permissions than it shall have."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def bind(path: Path, mode: int) -> socket.socket:
    """A bound stream socket; its file has this mode from the first moment on.

    Raises:
        OSError: the place cannot be used, or something is there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    umask = os.umask(0o777 & ~mode)  # bind() makes the file
    try:
        sock.bind(str(path))
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(umask)
    return sock
