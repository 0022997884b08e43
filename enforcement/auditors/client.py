"""One auditor at the other end of kept-alive connections, over TCP or a Unix socket.

A call has a deadline, a place among the calls under way, a bound on its answer, and a circuit
breaker before it. Unlike a request to the model server, a call may be made twice: an auditor only
looks. So a kept connection that turns out to be closed costs one more try, not a denial.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import trio

from enforcement.auditors.breaker import Breaker, Rules, State
from enforcement.auditors.contract import AnswerError
from enforcement.http.fields import HttpError
from enforcement.http.limits import Limits
from enforcement.http.metrics import GatewayMetrics
from enforcement.http.upstream import Address, Pool, UpstreamConnection, UpstreamError
from enforcement.http.wire import InterruptedWaitError, Watch, Wire, WireError, WireTimeoutError

UNIX: Final = "unix:"
# Seconds; upper bounds of the buckets of a histogram.
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_WAITING: Final = 4  # calls that may wait for a place, for each place

_STATUS: Final = {
    "upstream_unreachable": "unreachable",
    "upstream_timeout": "timeout",
    "upstream_closed": "closed",
    "upstream_reply_too_large": "too_large",
    "upstream_head_too_large": "too_large",
}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditorSettings:
    """One auditor, as the agent knows it.

    Attributes:
        url: `http://HOST:PORT`, or `unix:/path/of/socket`.
        deadline: seconds for one call, everything included.
        concurrency: calls under way at one moment; more wait for a place, within their deadline.
        text_characters: a longer text is not sent; the auditor's claims are missing then.
        answer_bytes: a longer answer is cut off.
        config: JSON; the contract's `auditor_config`.
        start: seconds that it may take to be ready, when the agent starts.
    """

    name: str
    url: str
    deadline: float = 0.5
    concurrency: int = 64
    text_characters: int = 1024 * 1024
    answer_bytes: int = 256 * 1024
    config: bytes = b"{}"
    start: float = 30.0
    breaker: Rules = field(default_factory=Rules)

    @property
    def address(self) -> Address | Path:
        """Where it is.

        Raises:
            ValueError: neither form of URL.
        """
        if self.url.startswith(UNIX):
            path = Path(self.url.removeprefix(UNIX))
            if not path.is_absolute():
                raise ValueError(f"{self.url!r} does not name an absolute path")
            return path
        return Address.from_url(self.url)


@dataclass(slots=True)
class AuditorMetrics:
    """What is counted of one auditor.

    Attributes:
        calls: by status: `ok`, or the part of a failure's code before its colon.
        buckets: successful and failed calls by time, as BUCKETS and one beyond.
        seconds: all calls together.
        retries: calls made again because a kept connection was closed.
    """

    calls: dict[str, int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0
    retries: int = 0

    def count(self, status: str, seconds: float) -> None:
        """One call has ended."""
        status = status.partition(":")[0]
        self.calls[status] = self.calls.get(status, 0) + 1
        self.seconds += seconds
        place = 0
        while place < len(BUCKETS) and seconds > BUCKETS[place]:
            place += 1
        self.buckets[place] += 1


class _UnixPool(Pool):
    """Connections to a Unix socket."""

    def __init__(self, path: Path, limits: Limits, watch: Watch, metrics: GatewayMetrics) -> None:
        super().__init__(Address(host="localhost", port=80), limits, watch, metrics)
        self._path = str(path)

    async def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            # A Unix socket connects at once, or its queue is full (EAGAIN): then it is busy.
            code = sock.connect_ex(self._path)
        except OSError as error:  # the path is too long
            code = error.errno or errno.EINVAL
        if code:
            sock.close()
            raise UpstreamError("upstream_unreachable", "the socket takes no connection")
        await trio.lowlevel.checkpoint()
        return sock


class Call:
    """A call that has begun. Times are trio's.

    Attributes:
        connection: the kept one over which the request has left; None: there was none to be had.
        wire: of that connection, until the call has ended.
    """

    __slots__ = ("connection", "due", "request", "start", "wire")

    def __init__(self, request: bytes, start: float, due: float) -> None:
        self.request = request
        self.start = start
        self.due = due
        self.connection: UpstreamConnection | None = None
        self.wire: Wire | None = None


class AuditorClient:
    """Calls one auditor."""

    def __init__(self, settings: AuditorSettings, watch: Watch) -> None:
        """Raises ValueError: the URL is of no known form."""
        self.settings = settings
        self.metrics = AuditorMetrics()
        self.breaker = Breaker(settings.breaker)
        self.under_way = 0
        self._places = trio.lowlevel.ParkingLot()
        self._calls: deque[Call] = deque()
        self._begun = trio.Event()
        limits = Limits(
            reply_bytes=settings.answer_bytes,
            idle_upstreams=settings.concurrency,
            connect_seconds=settings.deadline,
            first_byte_seconds=settings.deadline,
            upstream_idle_seconds=settings.deadline,
            send_seconds=settings.deadline,
        )
        address, counters = settings.address, GatewayMetrics()
        self._pool = (
            _UnixPool(address, limits, watch, counters)
            if isinstance(address, Path)
            else Pool(address, limits, watch, counters)
        )
        self._post = (
            b"POST /claims HTTP/1.1\r\nhost: %b\r\nuser-agent: lucid-agent\r\n"
            b"accept: application/json\r\ncontent-type: application/json\r\ncontent-length: "
            % self._pool.authority
        )

    @property
    def state(self) -> State:
        """The breaker's."""
        return self.breaker.state

    def close(self) -> None:
        """Close what is unused."""
        self._pool.close()

    def begin(self, body: bytes) -> Call:
        """POST a question. Never waits; who has begun a call must `finish` it.

        Raises:
            AnswerError: `circuit_open`; nothing has begun.
        """
        now = trio.current_time()
        if not self.breaker.allows(now):
            self.metrics.count("circuit_open", 0.0)
            raise AnswerError("circuit_open")
        return self._begin(b"%b%d\r\n\r\n%b" % (self._post, len(body), body), now)

    async def finish(self, call: Call, read: Callable[[bytes], _T]) -> _T:
        """Wait for the answer; `read` makes something of it.

        Raises:
            AnswerError: there is none, or `read` says that it cannot be used.
        """
        status = "cancelled"
        try:
            answer = await self._finish(call, read)
            status = "ok"
        except AnswerError as error:
            status = error.status
            raise
        finally:
            now = trio.current_time()
            self.metrics.count(status, now - call.start)
            self._tell_breaker(status, now)
        return answer

    async def get(self, path: str, read: Callable[[bytes], _T]) -> _T:
        """GET `/health` or `/vocabulary`. The same bounds; the breaker is not asked or told.

        Raises:
            AnswerError: see `finish`.
        """
        head = f"GET {path} HTTP/1.1\r\naccept: application/json\r\nhost: ".encode("ascii")
        request = b"%b%b\r\n\r\n" % (head, self._pool.authority)
        return await self._finish(self._begin(request, trio.current_time()), read)

    async def run(self) -> None:
        """End calls at their deadlines, until cancelled.

        A cancel scope for each call would cost more than all else here. All deadlines are equally
        far, so calls end in the order in which they began, and one task looks at the oldest alone.
        """
        calls = self._calls
        while True:
            while calls and calls[0].wire is None:
                calls.popleft()
            if not calls:
                self._begun = trio.Event()
                await self._begun.wait()
            elif calls[0].due <= trio.current_time():
                overdue = calls.popleft().wire
                if overdue is not None:
                    overdue.expire()
            else:
                await trio.sleep_until(calls[0].due)

    def _begin(self, request: bytes, now: float) -> Call:
        call = Call(request, now, now + self.settings.deadline)
        if self.under_way < self.settings.concurrency:
            connection = self._pool.take()
            if connection is not None:
                connection.tell(request)
                call.connection, call.wire = connection, connection.wire
                self._calls.append(call)
                self._begun.set()
                self.under_way += 1
        return call

    async def _finish(self, call: Call, read: Callable[[bytes], _T]) -> _T:
        if call.connection is not None:
            answer = await self._quick(call, call.connection)
            if answer is not None:
                return read(answer)
            self.metrics.retries += 1
        return await self._slow(call.request, read, call.due)

    async def _quick(self, call: Call, connection: UpstreamConnection) -> bytes | None:
        """The answer over a kept connection; None: it was closed, another must be made."""
        try:
            return await self._hear(connection)
        except UpstreamError as error:
            if error.code == "upstream_closed":
                return None
            raise AnswerError(_STATUS.get(error.code, "malformed")) from None
        except HttpError:
            raise AnswerError("malformed") from None
        finally:
            call.wire = None
            self._free_place()

    async def _slow(self, request: bytes, read: Callable[[bytes], _T], due: float) -> _T:
        """Wait for a place, make a connection, ask over it."""
        status = "busy"  # as long as there is no place
        with trio.move_on_at(due):
            await self._take_place()
            status = "timeout"
            try:
                return read(await self._answer(request))
            finally:
                self._free_place()
        raise AnswerError(status)

    def _tell_breaker(self, status: str, now: float) -> None:
        if status == "ok" or status.startswith("error"):
            # The latter: it is alive and says itself that it cannot, about this text, perhaps. What
            # one client sends must not close the way for all.
            self.breaker.succeeded()
        elif status in ("cancelled", "busy"):
            self.breaker.dropped()
        else:
            self.breaker.failed(now)

    async def _take_place(self) -> None:
        """A place among the calls under way; too many that wait for one are `busy`."""
        if self.under_way < self.settings.concurrency:
            self.under_way += 1
        elif len(self._places) >= _WAITING * self.settings.concurrency:
            raise AnswerError("busy")
        else:
            await self._places.park()  # who ends hands the place over

    def _free_place(self) -> None:
        if len(self._places):
            self._places.unpark()
        else:
            self.under_way -= 1

    async def _answer(self, request: bytes) -> bytes:
        """Send over a new connection, and read the whole answer."""
        try:
            connection = await self._pool.connect()
            connection.tell(request)
            return await self._hear(connection)
        except UpstreamError as error:
            raise AnswerError(_STATUS.get(error.code, "malformed")) from None
        except (HttpError, WireError, WireTimeoutError, InterruptedWaitError):
            raise AnswerError("closed") from None

    async def _hear(self, connection: UpstreamConnection) -> bytes:
        try:
            reply = await connection.hear()
            data = connection.whole_now()
            if data is None:
                data = await connection.whole(_hold_nothing)
            if reply.status != 200:
                raise AnswerError(f"http:{reply.status}")
            if reply.encoding not in (b"", b"identity"):
                raise AnswerError("malformed")
            return data
        finally:
            connection.release()


def _hold_nothing(_size: int) -> None:
    """Answers are bounded by themselves: `answer_bytes` times `concurrency`."""
