"""The way of an admitted request to the model server, and of its reply back to the client.

The order is the security property. The request's decision was appended before this begins. A whole
reply is read, decided, and its decision durable (with everything before it) before its first byte
leaves. A streamed reply starts when the request's decision is durable, and ends when its own is.
"""

from __future__ import annotations

from typing import Final

import trio

from attestation.records import DecisionRecord
from enforcement import asking
from enforcement.admission import ExchangeLike, GuardLike
from enforcement.gateway import replies
from enforcement.gateway.client import Client, Shared
from enforcement.http.fields import HttpError
from enforcement.http.metrics import count
from enforcement.http.reply_head import ReplyHead
from enforcement.http.request_head import RequestHead
from enforcement.http.upstream import UpstreamConnection, UpstreamError
from enforcement.http.wire import InterruptedWaitError, WireError, WireTimeoutError
from enforcement.ruling import Ruling

CLIENT_GONE: Final = 499  # nginx's number; no client ever reads it
_STOPPED: Final = ("gateway_stopped", "the gateway was stopped", 503)
HELD_STEP: Final = 64 * 1024  # bytes that a stream holds back without being counted


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
        data: bytes | None = None
        try:
            try:
                upstream = self._upstream = await self._take()
                upstream.tell(self._request.sent_on(self._shared.pool.authority, body))
                reply = await upstream.hear()
                if not _is_stream(reply):
                    data = upstream.whole_now()
                    if data is None:
                        data = await upstream.whole(self._client.hold)
            except UpstreamError as error:
                count(self._shared.metrics.upstream_errors, error.code)
                await self._tell_failure(error)
                return
            except HttpError as error:  # the reply is too much for the memory of the door
                await self._tell_failure(error)
                return
            except InterruptedWaitError:
                self._shared.metrics.client_gone += 1
                self._record_failure("client_gone", "the client closed the connection", CLIENT_GONE)
                raise
            except trio.Cancelled:
                self._record_failure(*_STOPPED)
                raise
            if data is None:
                await self._stream(reply, upstream, seq)
            else:
                self._release()
                await self._send_whole(reply, data)
        finally:
            self._release()

    async def _take(self) -> UpstreamConnection:
        pool, client_wire = self._shared.pool, self._client.wire
        upstream = pool.take() or await pool.connect()
        client_wire.partner = upstream.wire
        if client_wire.gone:
            self._upstream = upstream
            raise InterruptedWaitError
        return upstream

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

    async def _tell_failure(self, error: UpstreamError | HttpError) -> None:
        """Record that there was no usable reply, and tell the client."""
        self._release()
        await self._refuse(
            self._exchange.upstream_failed(error.code, str(error), status=error.status)
        )

    async def _refuse(self, ruling: Ruling) -> None:
        await self._shared.admission.recorder.durable(self._append(ruling))
        assert ruling.refusal is not None
        await self._client.refuse(ruling.refusal)

    def _append(self, ruling: Ruling | GuardLike) -> int:
        """Append a decision that is final; see `record_decision`."""
        return record_decision(self._shared, ruling.record)

    # -- whole replies ----------------------------------------------------------------------------

    async def _send_whole(self, reply: ReplyHead, data: bytes) -> None:
        exchange, kind = self._exchange, reply.content_type
        if exchange.auditors is None:
            ruling = exchange.response(status=reply.status, content_type=kind, body=data)
        else:
            try:
                ruling = await asking.response(
                    exchange, status=reply.status, content_type=kind, body=data
                )
            except trio.Cancelled:
                self._record_failure(*_STOPPED)
                raise
        if ruling.refusal is not None:
            await self._refuse(ruling)
            return
        await self._shared.admission.recorder.durable(self._append(ruling))
        body = ruling.forward_body if ruling.forward_body is not None else b""
        fields = reply.fields(edited=body is not data, request_id=self._request.request_id)
        if ruling.headers:
            fields += replies.lines(ruling.headers)
        line = replies.status_line(reply.status)
        await self._client.reply(line, fields, None if reply.status in (204, 304) else body)

    # -- streamed replies -------------------------------------------------------------------------

    async def _stream(self, reply: ReplyHead, upstream: UpstreamConnection, seq: int) -> None:
        recorder, metrics = self._shared.admission.recorder, self._shared.metrics
        await recorder.durable(seq)
        metrics.streams += 1
        guard = self._exchange.stream(status=reply.status)
        # The head waits for the first bytes that may leave: a stream that is refused before is
        # refused with a status.
        fields = reply.fields(edited=True, request_id=self._request.request_id)
        line = replies.status_line(reply.status)
        head = self._client.stream_head(line, fields + replies.lines(guard.headers))
        try:
            last = await self._pass_on(guard, upstream, head)
        except BaseException as error:  # noqa: BLE001 - also a cancelled stream is recorded
            self._release()  # at once, so that the engine stops
            await self._broken_off(guard, error)
            return
        self._release()
        await recorder.durable(self._append(guard))
        if guard.refusal is not None and not self._client.started:
            await self._client.refuse(guard.refusal)
            return
        piece = self._client.piece(last, last=True)
        await self._client.send(piece if self._client.started else head + piece)

    async def _pass_on(self, guard: GuardLike, upstream: UpstreamConnection, head: bytes) -> bytes:
        """Feed the guard and send what it releases; returns the bytes that wait for the record."""
        client, counted = self._client, 0
        while (piece := await upstream.some()) is not None:
            released = guard.feed(piece)
            if guard.held > counted + HELD_STEP:
                client.hold(guard.held - counted)
                counted = guard.held
            if guard.question is not None:
                released += await asking.stream(guard, guard.question)
            if guard.denied:
                return released
            if released:
                data = client.piece(released)
                await client.send(data if client.started else head + data)
        last = guard.finish()
        if guard.question is not None:
            last += await asking.stream(guard, guard.question)
        return last

    async def _broken_off(self, guard: GuardLike, error: BaseException) -> None:
        """The stream ends without its end: recorded as incomplete, and the client sees a cut."""
        metrics = self._shared.metrics
        guard.aborted(_reason(error))
        seq = self._append(guard)
        if not isinstance(error, (UpstreamError, HttpError)):
            if isinstance(error, (InterruptedWaitError, WireError, WireTimeoutError)):
                metrics.client_gone += 1
            raise error
        if isinstance(error, UpstreamError):
            count(metrics.upstream_errors, error.code)
        self._client.closing = True  # no last chunk: the client must not take it for complete
        self._client.wire.broken = self._client.started
        if not self._client.started:
            await self._shared.admission.recorder.durable(seq)
            await self._client.refuse(replies.refusal(error.code, str(error), error.status))


def record_decision(shared: Shared, record: DecisionRecord) -> int:
    """Append a decision to the journal and count it; returns its place.

    Raises:
        RecordError: it cannot be recorded.
    """
    seq = shared.admission.recorder.append(record)
    decisions, key = shared.metrics.decisions, (record.phase, record.outcome)
    decisions[key] = decisions.get(key, 0) + 1
    return seq


def _is_stream(reply: ReplyHead) -> bool:
    """Whether the reply is an event stream.

    Raises:
        UpstreamError: it is none, and nothing that can be looked at.
    """
    if reply.encoding not in (b"", b"identity"):
        raise UpstreamError(
            "upstream_encoding", "the model server's reply is compressed; it cannot be read"
        )
    if reply.status == 206:
        raise UpstreamError("upstream_malformed", "the model server sent a part of a reply")
    return reply.is_event_stream


def _reason(error: BaseException) -> str:
    if isinstance(error, (UpstreamError, HttpError)):
        return error.code
    if isinstance(error, WireTimeoutError):
        return "client_stalled"
    if isinstance(error, (InterruptedWaitError, WireError)):
        return "client_gone"
    return "gateway_stopped" if isinstance(error, trio.Cancelled) else "internal_error"
