"""One client connection: its requests, one after another, in one task.

A client that closes its sending side while its request is in the works counts as gone (as with
nginx): the model server's connection is closed at once, so that the engine stops. Such a client
cannot be told from one that closed both sides until something is sent to it.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import Final

import trio

from attestation.panics import is_fault
from enforcement import asking
from enforcement.content.apierror import Refusal
from enforcement.gateway import replies
from enforcement.gateway.client import Client, Shared
from enforcement.gateway.pages import Page
from enforcement.gateway.relay import Relay, record_decision
from enforcement.http.fields import HttpError
from enforcement.http.metrics import GatewayMetrics, count
from enforcement.http.request_head import RequestHead
from enforcement.http.wire import InterruptedWaitError, WireError, WireTimeoutError
from enforcement.recorder import RecordError
from enforcement.ruling import Ruling

_LOG = logging.getLogger("lucid.gateway")

# Bodies that are refused with a decision of their own; other faults of framing are no decision,
# because no request was understood.
_RECORDED: Final = frozenset({"body_too_large", "http_too_many_chunks"})
_RETRY_SECONDS: Final = 1


class Connection:
    """Runs one client connection to its end."""

    __slots__ = ("_pages", "_shared", "client")

    def __init__(self, sock: socket.socket, shared: Shared, pages: dict[str, Page]) -> None:
        self._shared = shared
        self._pages = pages
        self.client = Client(sock, shared)

    async def run(self) -> None:
        """Serve until the client, a fault, or the door ends it. Closes the socket."""
        client = self.client
        try:
            if await client.greet():
                await self._serve()
            await client.linger()
        except (WireError, WireTimeoutError, InterruptedWaitError):
            pass  # the client is gone; what there was to record is recorded
        except BaseException as error:
            if not is_fault(error):
                raise
            await self._fault(error)  # one exchange's fault must not end the daemon
        finally:
            client.wire.close()

    async def _serve(self) -> None:
        """Answer requests until one of them, or the client, ends the connection."""
        client, metrics = self.client, self._shared.metrics
        try:
            while not client.closing:
                request = await client.next_request()
                if request is None:
                    return
                metrics.requests += 1
                await self._answer(request)
                client.let_go()
        except HttpError as error:
            await self._refuse(error)
        except RecordError:
            await self._refuse_locally(
                "journal_unavailable", "the decision cannot be recorded; nothing was answered"
            )
        finally:
            client.let_go()

    async def turn_away(self, refusal: Refusal) -> None:
        """Refuse the whole connection without reading from it. Closes the socket."""
        try:
            if await self.client.greet():
                await self.client.refuse(refusal, close=True)
            await self.client.linger()
        except (WireError, WireTimeoutError, InterruptedWaitError):
            pass
        finally:
            self.client.wire.close()

    async def _answer(self, request: RequestHead) -> None:
        client, shared = self.client, self._shared
        page = self._pages.get(request.target)
        if page is not None and request.method == "GET" and request.length == 0:
            await trio.lowlevel.checkpoint()  # nothing else here waits: others get their turn
            await client.refuse(page())
            return
        gate = shared.admission.gate()
        if not gate.open:
            await self._refuse_locally(gate.code, gate.message)
            return
        if client.peer is not None:
            client.look_at_peer()
        begun = shared.admission.begin(request, client.peer)
        if isinstance(begun, Ruling):
            await self._deny(begun, close=request.length != 0)
            return
        body = client.body_now(request)
        if body is None:
            try:
                body = await client.body(request)
            except HttpError as error:
                if error.code not in _RECORDED:
                    raise
                await self._deny(begun.refuse(error.code, str(error), error.status), close=True)
                return
        if begun.auditors is None:
            ruling = begun.request(body)
        else:
            ruling = await asking.request(begun, body)
        if ruling.refusal is not None:
            await self._deny(ruling, close=False)
            return
        seq = record_decision(shared, ruling.record)
        del body  # some megabytes, perhaps, while the model thinks
        await Relay(client, shared, request, begun).run(ruling.forward_body or b"", seq)

    async def _deny(self, ruling: Ruling, *, close: bool) -> None:
        refusal = ruling.refusal
        assert refusal is not None
        seq = record_decision(self._shared, ruling.record)
        await self._shared.admission.recorder.durable(seq)
        await trio.lowlevel.checkpoint()
        await self.client.refuse(refusal, close=close)

    async def _refuse(self, error: HttpError) -> None:
        retry = _RETRY_SECONDS if error.status == 503 else None
        await self._send_own(
            error.code, replies.refusal(error.code, str(error), error.status, retry_after=retry)
        )

    async def _refuse_locally(self, code: str, message: str) -> None:
        await self._send_own(code, replies.refusal(code, message, 503, retry_after=_RETRY_SECONDS))

    async def _send_own(self, code: str, refusal: Refusal) -> None:
        """Send the door's own refusal, if no reply has begun; either way the connection ends."""
        count(self._shared.metrics.refusals, code)
        self.client.closing = True
        if self.client.started:
            self.client.wire.broken = True
        else:
            await self.client.refuse(refusal, close=True)

    async def _fault(self, error: BaseException) -> None:
        note_fault(self._shared.metrics, error)
        with contextlib.suppress(WireError, WireTimeoutError, InterruptedWaitError):
            await self._send_own(
                "internal_error", replies.refusal("internal_error", "the agent failed", 500)
            )


def note_fault(metrics: GatewayMetrics, error: BaseException) -> None:
    """Our own fault. Its message may hold text of the request, so only its place is logged."""
    metrics.internal_errors += 1
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = "" if frame is None else f"{frame.tb_frame.f_code.co_qualname}:{frame.tb_lineno}"
    values = {"error": type(error).__name__, "where": where}
    _LOG.error("gateway.internal_error", extra={"values": values})
