"""The way of an admitted request to the model server, and of its reply back to the client.

The order is the security property. The request's decision was appended before this begins. A whole
reply is read, decided, and its decision durable (with everything before it) before its first byte
leaves. A streamed reply starts when the request's decision is durable, and ends when its own is.
"""

from __future__ import annotations

from typing import Final

import trio

from enforcement import replies
from enforcement.admission import ExchangeLike
from enforcement.client import Client, Shared
from enforcement.exchange import Ruling, StreamGuard
from enforcement.gateway_metrics import count
from enforcement.http1 import HttpError, RequestHead
from enforcement.http1_reply import ReplyHead
from enforcement.upstream import UpstreamConnection, UpstreamError
from enforcement.wire import InterruptedWaitError, WireError, WireTimeoutError

CLIENT_GONE: Final = 499  # nginx's number; no client ever reads it


class Relay:
    """One exchange between one client and the model server. Used once."""

    __slots__ = ("_client", "_exchange", "_request", "_shared", "_upstream")

    def __init__(
        self, client: Client, shared: Shared, request: RequestHead, exchange: ExchangeLike
    ) -> None:
        self._client = client
        self._shared = shared
        self._request = request
        self._exchange = exchange
        self._upstream: UpstreamConnection | None = None

    async def run(self, body: bytes, seq: int) -> None:
        """Send the request on and bring the reply back.

        Args:
            seq: the place of the request's decision in the journal.

        Raises:
            RecordError: a decision cannot be recorded; nothing more may leave.
            WireError, WireTimeoutError, InterruptedWaitError: the client is gone.
        """
        try:
            try:
                reply, data = await self._ask(body)
            except UpstreamError as error:
                count(self._shared.metrics.upstream_errors, error.code)
                ruling = self._exchange.upstream_failed(error.code, str(error), status=error.status)
            except (InterruptedWaitError, HttpError) as error:
                await self._give_up(error)
                return
            except trio.Cancelled:
                self._record_failure("gateway_stopped", "the gateway was stopped", 503)
                raise
            else:
                if data is None:
                    await self._stream(reply, seq)
                    return
                self._release()
                ruling = self._exchange.response(
                    status=reply.status, content_type=reply.content_type, body=data
                )
                if ruling.refusal is None:
                    await self._recorded(ruling)
                    await self._send_whole(reply, ruling, data)
                    return
            self._release()
            await self._recorded(ruling)
            assert ruling.refusal is not None
            await self._client.refuse(ruling.refusal)
        finally:
            self._release()

    async def _ask(self, body: bytes) -> tuple[ReplyHead, bytes | None]:
        """The reply's head and body; no body where it is an event stream."""
        shared, request, client_wire = self._shared, self._request, self._client.wire
        self._upstream = upstream = await shared.pool.take()
        client_wire.partner = upstream.wire
        if client_wire.gone:
            raise InterruptedWaitError
        # A body always goes on with its length: it is whole, whatever its framing was.
        if body or request.method != "GET":
            data = b"%bHTTP/1.1\r\nhost: %b%b\r\ncontent-length: %d\r\n\r\n%b" % (
                request.line,
                shared.pool.authority,
                request.forward,
                len(body),
                body,
            )
        else:
            data = b"%bHTTP/1.1\r\nhost: %b%b\r\n\r\n" % (
                request.line,
                shared.pool.authority,
                request.forward,
            )
        await upstream.send(data)
        reply = await upstream.head()
        if reply.encoding not in (b"", b"identity"):
            raise UpstreamError(
                "upstream_encoding", "the model server's reply is compressed; it cannot be read"
            )
        if reply.status == 206:
            raise UpstreamError("upstream_malformed", "the model server sent a part of a reply")
        if reply.is_event_stream:
            return reply, None
        return reply, await upstream.whole(self._client.hold)

    def _release(self) -> None:
        # First of all: a client that hangs up from now on must not wake who has it next.
        self._client.wire.partner = None
        if self._upstream is not None:
            self._upstream.release()
            self._upstream = None

    def _record_failure(self, code: str, message: str, status: int) -> None:
        """Record that there was no reply, where nobody can be told any more."""
        self._release()
        self._append(self._exchange.upstream_failed(code, message, status=status))

    async def _give_up(self, error: InterruptedWaitError | HttpError) -> None:
        """The client is gone, or the reply is too much for the memory of the door."""
        if isinstance(error, HttpError):
            self._release()
            ruling = self._exchange.upstream_failed(error.code, str(error), status=error.status)
            await self._recorded(ruling)
            assert ruling.refusal is not None
            await self._client.refuse(ruling.refusal)
            return
        self._shared.metrics.client_gone += 1
        self._record_failure("client_gone", "the client closed the connection", CLIENT_GONE)
        raise error

    def _append(self, ruling: Ruling) -> int:
        record = ruling.record
        seq = self._shared.admission.recorder.append(record)
        count(self._shared.metrics.decisions, record.phase, record.outcome)
        return seq

    async def _recorded(self, ruling: Ruling) -> None:
        await self._shared.admission.recorder.durable(self._append(ruling))

    # -- whole replies ----------------------------------------------------------------------------

    async def _send_whole(self, reply: ReplyHead, ruling: Ruling, data: bytes) -> None:
        body = ruling.forward_body if ruling.forward_body is not None else b""
        fields = reply.fields(edited=body is not data, request_id=self._request.request_id)
        bodiless = reply.status in (204, 304)
        await self._client.reply(
            reply.line, fields + replies.lines(ruling.headers), None if bodiless else body
        )

    # -- streamed replies -------------------------------------------------------------------------

    async def _stream(self, reply: ReplyHead, seq: int) -> None:
        recorder, metrics = self._shared.admission.recorder, self._shared.metrics
        await recorder.durable(seq)
        metrics.streams += 1
        guard = self._exchange.stream(status=reply.status)
        # The head waits for the first bytes that may leave: a stream that is refused before is
        # refused with a status.
        fields = reply.fields(edited=True, request_id=self._request.request_id)
        head = self._client.stream_head(reply.line, fields + replies.lines(guard.headers))
        try:
            last = await self._pass_on(guard, head)
        except BaseException as error:  # noqa: BLE001 - also a cancelled stream is recorded
            self._release()  # at once, so that the engine stops
            await self._broken_off(guard, error)
            return
        self._release()
        await recorder.durable(self._append_stream(guard))
        if guard.refusal is not None and not self._client.started:
            await self._client.refuse(guard.refusal)
            return
        piece = self._client.piece(last, last=True)
        await self._client.send(piece if self._client.started else head + piece)

    async def _pass_on(self, guard: StreamGuard, head: bytes) -> bytes:
        """Feed the guard and send what it releases; returns the bytes that wait for the record."""
        upstream, client = self._upstream, self._client
        assert upstream is not None
        while (piece := await upstream.some()) is not None:
            released = guard.feed(piece)
            if guard.denied:
                return released
            if released:
                data = client.piece(released)
                await client.send(data if client.started else head + data)
        return guard.finish()

    async def _broken_off(self, guard: StreamGuard, error: BaseException) -> None:
        """The stream ends without its end: recorded as incomplete, and the client sees a cut."""
        metrics = self._shared.metrics
        guard.aborted(_reason(error))
        seq = self._append_stream(guard)
        if not isinstance(error, UpstreamError):
            if isinstance(error, (InterruptedWaitError, WireError, WireTimeoutError)):
                metrics.client_gone += 1
            raise error
        count(metrics.upstream_errors, error.code)
        self._client.closing = True  # no last chunk: the client must not take it for complete
        if not self._client.started:
            await self._shared.admission.recorder.durable(seq)
            await self._client.refuse(replies.refusal(error.code, str(error), error.status))

    def _append_stream(self, guard: StreamGuard) -> int:
        record = guard.record
        seq = self._shared.admission.recorder.append(record)
        count(self._shared.metrics.decisions, record.phase, record.outcome)
        return seq


def _reason(error: BaseException) -> str:
    if isinstance(error, UpstreamError):
        return error.code
    if isinstance(error, WireTimeoutError):
        return "client_stalled"
    if isinstance(error, (InterruptedWaitError, WireError)):
        return "client_gone"
    return "gateway_stopped" if isinstance(error, trio.Cancelled) else "internal_error"
