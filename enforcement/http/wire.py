"""Non-blocking sockets for the door: one task reads and writes each, time limits come from outside.

Two things would cost more than the work between them, and are done once for many:

- A cancel scope and a timer for each wait. Instead every socket says until when its task will
  wait, and one sweep four times a second wakes the tasks whose time has come.
- Telling the kernel before each wait what is waited for. Instead every socket is registered once,
  edge-triggered, with an epoll of the door's own, which trio's loop waits for like for any other
  file. Each time the loop has waited, sockets are marked as ready and the tasks that wait for them
  rescheduled, so that they run in this turn of the loop and not in the next. Tasks stay tasks: no
  code of an exchange runs in a callback.

The same registration tells at once when a client hangs up while its task waits for the model
server, which one task could not notice: it waits for one thing at a time.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
from collections.abc import Callable
from typing import Final

import trio
from trio.lowlevel import (
    Abort,
    Task,
    checkpoint,
    current_task,
    notify_closing,
    reschedule,
    wait_readable,
    wait_task_rescheduled,
    wait_writable,
)

TICK: Final = 0.25  # seconds between two sweeps
RECEIVE_SIZE: Final = 64 * 1024
_GREEDY: Final = 16  # receives without waiting before other tasks get a turn
_EVENTS: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_HANGUP: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


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
        gone: the peer has closed its side, or reset the connection.
        partner: whose task is woken when this peer goes.
        broken: what was sent stops in the middle, and its end must not look like a proper one.
        unused: no task has it; it lies in a pool until its deadline.
    """

    __slots__ = (
        "_expired",
        "_greed",
        "_interrupted",
        "_ready",
        "_send",
        "_sock",
        "_task",
        "_watch",
        "_when_unused",
        "_writing",
        "broken",
        "deadline",
        "fd",
        "gone",
        "partner",
        "unused",
    )

    def __init__(self, sock: socket.socket, watch: Watch, *, ready: bool = False) -> None:
        """`ready`: there may be something to read already."""
        self._sock = sock
        self._send = sock.send
        self._watch = watch
        self._ready = ready
        self._task: Task | None = None
        self._writing = False
        self._expired = False
        self._interrupted = False
        self._greed = 0
        self._when_unused: Callable[[], None] | None = None
        self.fd = sock.fileno()
        self.deadline = math.inf
        self.gone = False
        self.partner: Wire | None = None
        self.broken = False
        self.unused = False
        watch.add(self)

    def within(self, seconds: float) -> float:
        """A deadline that many seconds from now, for `deadline`."""
        return self._watch.now + seconds + TICK

    async def receive(self) -> bytes:
        """Wait (until `deadline`) and read what there is; empty at the peer's end.

        Raises:
            WireTimeoutError, WireError, InterruptedWaitError: see the classes.
        """
        while True:
            if self._interrupted or self._expired:
                self._stop()
            if not self._ready:
                self._greed = 0
                self._task = current_task()
                await wait_task_rescheduled(self._give_up)
                continue
            self._greed += 1
            if self._greed > _GREEDY:
                self._greed = 0
                await checkpoint()
            try:
                data = self._sock.recv(RECEIVE_SIZE)
            except BlockingIOError:
                self._ready = False
                continue
            except OSError as error:
                raise WireError(error.strerror) from None
            # A short read took all there was; what comes later makes a new edge. After a hang-up
            # there is no later edge: reading goes on to the end.
            self._ready = self.gone or len(data) == RECEIVE_SIZE
            return data

    def wake(self, events: int) -> None:
        """Called by the watch: there is something to read, or the peer hung up."""
        self._ready = True
        if events & _HANGUP:
            self.gone = True
            if self.partner is not None:
                self.partner.interrupt()
        self._resume()

    def _resume(self) -> None:
        task = self._task
        if task is not None:
            self._task = None
            reschedule(task)

    def _give_up(self, _raise_cancel: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED

    def send_now(self, data: bytes | memoryview) -> memoryview | None:
        """Send what can be sent without waiting; returns the rest, None where nothing is left.

        Raises:
            WireError: see the class.
        """
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise WireError(error.strerror) from None
        return None if sent == len(data) else memoryview(data)[sent:]

    async def send_rest(self, rest: memoryview, seconds: float) -> None:
        """Send what `send_now` left. `seconds` is how long the peer may take no byte at all.

        Raises:
            WireTimeoutError, WireError, InterruptedWaitError: see the classes.
        """
        kept = self.deadline
        self._writing = True
        try:
            while rest:
                if self._interrupted or self._expired:
                    self._stop()
                self.deadline = self.within(seconds)
                try:
                    await wait_writable(self.fd)
                    rest = rest[self._send(rest) :]
                except (BlockingIOError, trio.ClosedResourceError):
                    continue  # the latter: `_wake_up`
                except OSError as error:
                    raise WireError(error.strerror) from None
        finally:
            self.deadline = kept
            self._writing = False

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
            self._watch.remove(self)
            self.fd = -1
            self._sock.close()

    def interrupt(self) -> None:
        """Wake the waiting task with InterruptedWaitError; a later wait gets it too."""
        self._interrupted = True
        self._wake_up()

    def when_unused(self, call: Callable[[], None]) -> None:
        """What to do at the deadline while the wire is `unused`."""
        self._when_unused = call

    def expire(self) -> None:
        """Called by the watch at the deadline."""
        self.deadline = math.inf
        if self.unused and self._when_unused is not None:
            self._when_unused()
        else:
            self._expired = True
            self._wake_up()

    def _wake_up(self) -> None:
        if self._writing and self.fd != -1:
            notify_closing(self.fd)  # wakes the writer; it does not close
        self._resume()

    def _stop(self) -> None:
        if self._expired:
            self._expired = False
            raise WireTimeoutError
        raise InterruptedWaitError


class Watch:
    """All wires of a door: who is ready, and whose time has come.

    Attributes:
        now: seconds on trio's clock, as of the last sweep, or of the first wire after a rest.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._wires: dict[int, Wire] = {}
        self._epoll = select.epoll()
        self._looking = trio.CancelScope()
        self._fault: Exception | None = None
        self._begun = trio.Event()

    def add(self, wire: Wire) -> None:
        """Begin to watch a wire; what is there to read already is reported too."""
        if not self._wires:
            self.now = trio.current_time()
            self._begun.set()
        self._wires[wire.fd] = wire
        self._epoll.register(wire.fd, _EVENTS)

    def remove(self, wire: Wire) -> None:
        """Stop to watch; called before the socket is closed."""
        del self._wires[wire.fd]
        if not self._epoll.closed:  # a watch that is shared may end before one that uses it
            self._epoll.unregister(wire.fd)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled.

        Raises:
            RuntimeError: a fault of ours while looking; no wire would be woken any more.
        """
        looking = _Looking(self)
        async with trio.open_nursery() as nursery:
            self.now = trio.current_time()
            nursery.start_soon(self._sweep)
            trio.lowlevel.add_instrument(looking)
            try:
                task_status.started()
                with self._looking:
                    while True:
                        await wait_readable(self._epoll.fileno())
            finally:
                trio.lowlevel.remove_instrument(looking)
            raise RuntimeError("the sockets cannot be looked at") from self._fault

    def look(self) -> None:
        """Mark what is ready and reschedule the tasks that wait for it. Never raises."""
        wires = self._wires
        try:
            for number, events in self._epoll.poll(0, 256):
                wire = wires.get(number)
                if wire is not None:
                    wire.wake(events)
        except Exception as error:  # noqa: BLE001 - trio would log it and never look again
            self._fault = error
            self._looking.cancel()

    def close(self) -> None:
        """Close, after `run` has ended and all wires are closed."""
        self._epoll.close()

    async def _sweep(self) -> None:
        while True:
            if not self._wires:  # nothing has a deadline
                self._begun = trio.Event()
                await self._begun.wait()
            self.now = now = trio.current_time()
            for wire in [wire for wire in self._wires.values() if wire.deadline < now]:
                wire.expire()
            await trio.sleep(TICK)


class _Looking(trio.abc.Instrument):
    """Looks each time the loop has waited. On the gateway this saves 6 % of a request's CPU."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's interface
        self._watch.look()
