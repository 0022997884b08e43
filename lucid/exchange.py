"""One HTTP exchange, bounded as a whole: who answers may be hostile, drip, or never end."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx


class ExchangeError(Exception):
    """There was no usable answer. The message says why, and not from where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back, whole."""

    status: int
    headers: httpx.Headers = field(repr=False)
    body: bytes = field(repr=False)


def exchange(
    method: str,
    url: str,
    *,
    largest: int,
    seconds: float,
    socket: str | None = None,
    body: bytes | None = None,
    content_type: str = "application/octet-stream",
) -> Reply:
    """Send one request and read the whole answer. Nobody is sent elsewhere (no redirects).

    Args:
        largest: bytes that the answer may have.
        seconds: for all of it, from the name's resolution to the last byte.
        socket: a Unix socket that leads to the server; None: the URL does.

    Raises:
        ExchangeError: nobody answers, not in time, too much, compressed, or no HTTP.
    """
    import trio  # noqa: PLC0415 - most commands ask nobody

    # The bytes as they come: what is small here and large when it is expanded would be a trap.
    headers = {"accept-encoding": "identity"}
    if body is not None:
        headers["content-type"] = content_type
    transport = httpx.AsyncHTTPTransport(uds=socket) if socket is not None else None

    data = bytearray()

    async def ask() -> Reply | None:
        # A timeout of the client would bound each step; this bounds all of them.
        with trio.move_on_after(seconds) as scope:
            async with (
                httpx.AsyncClient(transport=transport, timeout=httpx.Timeout(None)) as client,
                client.stream(method, url, headers=headers, content=body) as answer,
            ):
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise ExchangeError("it answered compressed, which it was asked not to")
                async for piece in answer.aiter_raw():
                    data.extend(piece)
                    if len(data) > largest:
                        scope.cancel()  # ends the reading where it waits
                return Reply(status=answer.status_code, headers=answer.headers, body=bytes(data))
        return None

    try:
        reply = trio.run(ask)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        raise ExchangeError(str(error) or type(error).__name__) from None
    if len(data) > largest:
        raise ExchangeError(f"the answer is larger than {largest} bytes")
    if reply is None:
        raise ExchangeError(f"no whole answer in {seconds:g} s")
    return reply
