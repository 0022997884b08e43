"""Non-blocking sockets for the door: one task reads and writes each, time limits come from outside.

A cancel scope and a timer for each wait would cost more than the wait. Instead every socket says
until when its task will wait, one sweep four times a second looks at all of them, and wakes the
task of one whose time has come. `trio.lowlevel.notify_closing` wakes without closing, so the task
can still say goodbye on the same socket.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
from collections.abc import Callable
from typing import Final

import trio
from trio.lowlevel import notify_closing, wait_readable, wait_writable

TICK: Final = 0.25  # seconds between two sweeps
RECEIVE_SIZE: Final = 64 * 1024
_GREEDY: Final = 16  # receives without waiting before other tasks get a turn


class WireError(Exception):
    """The connection is gone: reset, or closed under a send."""


class WireTimeoutError(Exception):
    """Nothing happened until the deadline."""


class InterruptedWaitError(Exception):
    """Somebody woke the task: the exchange, or the door, is at its end."""


class Wire:
    """One connected, non-blocking TCP socket.

    Attributes:
        deadline: on the sweep's clock; `math.inf` while no time limit runs.
        gone: the peer has closed its side or reset the connection (clients only, see `Hangups`).
        partner: the upstream that the peer's task waits for; woken when the peer goes.
        unused: no task has it; it lies in a pool until its deadline.
    """

    __slots__ = (
        "_expired",
        "_greed",
        "_interrupted",
        "_send",
        "_sock",
        "_sweep",
        "_when_unused",
        "deadline",
        "fd",
        "gone",
        "partner",
        "unused",
    )

    def __init__(self, sock: socket.socket, sweep: Sweep) -> None:
        self._sock = sock
        self._send = sock.send
        self._sweep = sweep
        self._expired = False
        self._interrupted = False
        self._greed = 0
        self.unused = False
        self._when_unused: Callable[[], None] | None = None
        self.fd = sock.fileno()
        self.deadline = math.inf
        self.gone = False
        self.partner: Wire | None = None
        sweep.wires.add(self)

    def within(self, seconds: float) -> float:
        """A deadline that many seconds from now, for `deadline`."""
        return self._sweep.now + seconds + TICK

    async def receive(self) -> bytes:
        """Wait (until `deadline`) and read what there is; empty at the peer's end.

        Raises:
            WireTimeoutError, WireError, InterruptedWaitError: see the classes.
        """
        while True:
            if self._interrupted or self._expired:
                self._stop()
            try:
                await wait_readable(self.fd)
                self._greed = 0
                return self._sock.recv(RECEIVE_SIZE)
            except BlockingIOError:
                continue
            except trio.ClosedResourceError:
                self._stop()
            except OSError as error:
                raise WireError(error.strerror) from None

    async def receive_more(self) -> bytes:
        """As `receive`, for data that is likely there already: reads first and waits after."""
        self._greed += 1
        if self._greed < _GREEDY and not self._interrupted:
            try:
                return self._sock.recv(RECEIVE_SIZE)
            except BlockingIOError:
                pass
            except OSError as error:
                raise WireError(error.strerror) from None
        return await self.receive()

    async def send(self, data: bytes, seconds: float) -> None:
        """Send all. `seconds` is how long the peer may take no byte at all.

        Raises:
            WireTimeoutError, WireError, InterruptedWaitError: see the classes.
        """
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise WireError(error.strerror) from None
        if sent != len(data):
            await self._send_rest(memoryview(data)[sent:], seconds)

    async def _send_rest(self, rest: memoryview, seconds: float) -> None:
        kept = self.deadline
        try:
            while rest:
                if self._interrupted or self._expired:
                    self._stop()
                self.deadline = self.within(seconds)
                try:
                    await wait_writable(self.fd)
                    rest = rest[self._send(rest) :]
                except BlockingIOError:
                    continue
                except trio.ClosedResourceError:
                    self._stop()
                except OSError as error:
                    raise WireError(error.strerror) from None
        finally:
            self.deadline = kept

    @property
    def calm(self) -> bool:
        """Whether no interruption or timeout is left over for the next wait."""
        return not (self._interrupted or self._expired)

    def quiet(self) -> bool:
        """Whether an unused connection is still usable: open, and nothing was sent on it."""
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def half_close(self) -> None:
        """Tell the peer that nothing more comes; reading goes on."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close. Safe to call again."""
        if self.fd != -1:
            self._sweep.wires.discard(self)
            notify_closing(self.fd)
            self.fd = -1
            self._sock.close()

    def interrupt(self) -> None:
        """Wake the waiting task with InterruptedWaitError; a later wait gets it too."""
        self._interrupted = True
        if self.fd != -1:
            notify_closing(self.fd)

    def when_unused(self, call: Callable[[], None]) -> None:
        """What to do at the deadline while the wire is `unused`."""
        self._when_unused = call

    def expire(self) -> None:
        """Called by the sweep at the deadline."""
        self.deadline = math.inf
        if self.unused and self._when_unused is not None:
            self._when_unused()
        else:
            self._expired = True
            notify_closing(self.fd)

    def _stop(self) -> None:
        if self._expired:
            self._expired = False
            raise WireTimeoutError
        raise InterruptedWaitError


class Sweep:
    """The clock of all wires: coarse, one task, no timer per wait."""

    def __init__(self) -> None:
        self.now = 0.0
        self.wires: set[Wire] = set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            self.now = now = trio.current_time()
            for wire in [wire for wire in self.wires if wire.deadline < now]:
                wire.expire()
            await trio.sleep(TICK)


class Hangups:
    """Notices that a client hangs up while its task waits for the model server.

    One task cannot wait for two sockets, and a nursery for each request would cost more than the
    request. An epoll of its own is told once about each client connection (edge-triggered, only
    hang-ups) and is itself waited for by one task.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wires: dict[int, Wire] = {}

    def watch(self, wire: Wire) -> None:
        """Begin to watch; `forget` before the wire is closed."""
        self._wires[wire.fd] = wire
        self._epoll.register(wire.fd, select.EPOLLRDHUP | select.EPOLLET)

    def forget(self, wire: Wire) -> None:
        """Stop to watch."""
        del self._wires[wire.fd]
        with contextlib.suppress(OSError):
            self._epoll.unregister(wire.fd)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await wait_readable(self._epoll.fileno())
            for fd, _ in self._epoll.poll(0, 256):
                wire = self._wires.get(fd)
                if wire is not None:
                    wire.gone = True
                    if wire.partner is not None:
                        wire.partner.interrupt()

    def close(self) -> None:
        """Close, after `run` has ended and no wire is watched any more."""
        self._epoll.close()
