"""sd_notify: telling systemd the state over its datagram socket. A no-op without NOTIFY_SOCKET.

Source: sd_notify(3), sd_watchdog_enabled(3). Names that begin with `@` are in the abstract
namespace.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Self


class Notifier:
    """Sends `KEY=value` lines to the service manager.

    Attributes:
        watchdog_seconds: the service manager expects to hear from us at least so often; None: it
            does not.
        dropped: messages that could not be sent.
    """

    def __init__(self, address: str | None, *, watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds
        self.dropped = 0
        self._owed: tuple[str, ...] = ()
        self._socket: socket.socket | None = None
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """As the service manager says it: NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID."""
        usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        ours = usec.isascii() and usec.isdigit() and int(usec) > 0 and pid in ("", str(os.getpid()))
        return cls(environ.get("NOTIFY_SOCKET"), watchdog_seconds=int(usec) / 1e6 if ours else None)

    def send(self, *lines: str, must: bool = False) -> bool:
        """Send one message; whether it was taken. One that is not is not our failure.

        Args:
            must: it would not come again by itself (READY=1): where its queue is full, it is sent
                before the next message.
        """
        if self._put((*self._owed, *lines)):
            self._owed = ()
            return True
        if must:
            self._owed = (*self._owed, *lines)
        return False

    def _put(self, lines: tuple[str, ...]) -> bool:
        if self._socket is None:
            return True
        message = "\n".join(" ".join(line.split("\n")) for line in lines)
        try:
            # Not connected: a socket that is made anew at this address is found again.
            self._socket.sendto(message.encode(), self._address or "")
        except OSError:
            self.dropped += 1
            return False
        return True

    def close(self) -> None:
        """Close the socket; later sends do nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
