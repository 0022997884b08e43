"""KDS as it can be: on loopback, over real sockets, or behind the HTTP client on virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx
import trio

from attestation.errors import VerificationError
from attestation.snp.kds_judge import Term
from attestation.snp.product import EndorsementKey, ProductLine, Tcb

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class FakeJudge:
    """Accepts what begins with `good`; a list is good until `until`, and its number is the last
    word's."""

    def __init__(self) -> None:
        self.until = NOW + timedelta(days=365)

    def vcek(self, der: bytes, *, line: ProductLine, hwid: bytes, tcb: Tcb) -> None:
        del line, hwid, tcb
        self._judge(der)

    def chain(self, pem: bytes, *, line: ProductLine, key: EndorsementKey) -> None:
        del line, key
        self._judge(pem)

    def crl(self, der: bytes, *, line: ProductLine, ark: bytes) -> Term:
        del line, ark
        self._judge(der)
        return Term(until=self.until, number=int(der.removeprefix(b"good") or b"0"))

    def _judge(self, data: bytes) -> None:
        if not data.startswith(b"good"):
            raise VerificationError("fake.bad", "not good")


class Script(httpx.AsyncBaseTransport):
    """Answers in order, the last one for ever; notes when and for what it was asked."""

    def __init__(self, *answers: Callable[[], httpx.Response] | httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[float, str]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((trio.current_time(), str(request.url)))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await trio.lowlevel.checkpoint()
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer


@asynccontextmanager
async def on_loopback(answer: bytes, *, hang: bool = False) -> AsyncIterator[str]:
    """A server that reads a head, sends these bytes and closes, or hangs; gives its URL."""

    async def handle(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.receive_some()
            await stream.send_all(answer)
            if hang:
                await trio.sleep_forever()
            await stream.aclose()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, handle, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        port = listeners[0].socket.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()
