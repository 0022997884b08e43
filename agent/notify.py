"""sd_notify: telling systemd the state over its datagram socket. A no-op without NOTIFY_SOCKET.

Source: sd_notify(3). Names that begin with `@` are in the abstract namespace.
"""

from __future__ import annotations

import socket


class Notifier:
    """Sends `KEY=value` lines to the service manager."""

    def __init__(self, address: str | None) -> None:
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            name = "\0" + address[1:] if address.startswith("@") else address
            try:
                self._socket.connect(name)
            except OSError:
                self.close()

    def send(self, *lines: str) -> None:
        """Send one message. A service manager that does not listen is not our failure."""
        if self._socket is not None:
            try:
                self._socket.send("\n".join(lines).encode())
            except OSError:
                return

    def close(self) -> None:
        """Close the socket; later sends do nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
