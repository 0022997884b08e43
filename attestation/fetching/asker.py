"""Asks one service over HTTP: one request at a time, bounded in size and time, with patience."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import trio

from attestation.errors import UncheckableError

if TYPE_CHECKING:
    import httpx

REQUEST_SECONDS: Final = 10.0
LONGEST_WAIT_SECONDS: Final = 120.0
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is known of a service.

    Attributes:
        name: for people; code: how error codes begin.
        spacing: seconds between two requests.
        largest: bytes that an answer may have.
        remedy: what to do where it gives nothing.
        meanings: what a status says there.
        doubtful: statuses that also mean an outage: asked once more before they are believed.
    """

    name: str
    code: str
    spacing: float
    largest: int
    remedy: str
    meanings: Mapping[int, str] = field(default_factory=dict)
    doubtful: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came with status 200."""

    body: bytes
    headers: httpx.Headers


class Asker:
    """One for each service and process.

    Args:
        client: an HTTP client; the owner closes it.
        patience: seconds that one call may take, waiting for others included.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        service: Service,
        *,
        patience: float,
        now: Callable[[], datetime],
        rng: random.Random,
    ) -> None:
        self._client, self._service, self._patience = client, service, patience
        self._now, self._rng = now, rng
        self._turn = trio.Lock()
        self._next_request = -math.inf

    async def get(self, url: str) -> Answer:
        """What the service has there.

        Raises:
            UncheckableError: `….unavailable`: nothing came in time, or it has no such thing;
                `….answer`: it answered what makes no sense.
        """
        last, tries, status = "no answer", 0, 0
        with trio.move_on_after(self._patience):
            while True:
                tries += 1
                try:
                    return await self._ask(url)
                except _LaterError as again:
                    last = str(again)
                    known = again.status in self._service.meanings
                    if known and (again.status == status or not self._doubtful(again.status)):
                        raise self._unavailable(url, last, tries, again.status) from None
                    status = again.status
                    wait = min(2.0**tries, LONGEST_WAIT_SECONDS) * self._rng.uniform(0.5, 1.0)
                    await trio.sleep(again.wait if again.wait is not None else wait)
        raise self._unavailable(url, last, tries, status)

    def _doubtful(self, status: int) -> bool:
        return status in self._service.doubtful

    async def _ask(self, url: str) -> Answer:
        """One request, when it is our turn.

        Raises:
            _LaterError: it may work later.
            UncheckableError: it will not.
        """
        import httpx  # noqa: PLC0415 - an agent that asks nobody saves its 3 MB

        async with self._turn:
            await trio.sleep(max(self._next_request - trio.current_time(), 0))
            self._next_request = trio.current_time() + self._service.spacing
        data, largest = bytearray(), self._service.largest
        headers = httpx.Headers()
        try:
            with trio.move_on_after(REQUEST_SECONDS) as scope:
                async with self._client.stream(
                    "GET",
                    url,
                    headers={"accept-encoding": "identity"},
                    follow_redirects=False,
                    timeout=REQUEST_SECONDS,
                ) as answer:
                    headers = answer.headers
                    self._check_status(answer, url)
                    async for piece in answer.aiter_bytes():
                        data += piece
                        if len(data) > largest:
                            scope.cancel()  # ends the reading where it waits
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _LaterError(type(error).__name__) from None
        if len(data) > largest:
            raise self._nonsense(f"sent more than {largest} bytes", url)
        if scope.cancelled_caught:
            raise _LaterError(f"no whole answer in {REQUEST_SECONDS:.0f} s")
        return Answer(body=bytes(data), headers=headers)

    def _check_status(self, answer: httpx.Response, url: str) -> None:
        status = answer.status_code
        if status == 200:
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise self._nonsense("sent what it was asked not to compress", url)
            return
        if status in self._service.meanings or status == 429 or status >= 500:
            wait = retry_after(answer.headers.get("retry-after"), self._now())
            raise _LaterError(f"it answered {status}", status=status, wait=wait)
        raise self._nonsense(f"answered {status}", url)

    def _nonsense(self, what: str, url: str) -> UncheckableError:
        service = self._service
        return UncheckableError(
            f"{service.code}.answer",
            f"{service.name} {what} for {_path(url)}",
            remedy=service.remedy,
        )

    def _unavailable(self, url: str, last: str, tries: int, status: int) -> UncheckableError:
        service = self._service
        meaning = service.meanings.get(status)
        return UncheckableError(
            f"{service.code}.unavailable",
            f"{service.name} gave no {_path(url)} in {tries} tries: {last}"
            + (f"; {meaning}" if meaning else ""),
            remedy=service.remedy,
        )


class _LaterError(Exception):
    """The service may answer later. `wait`: seconds that it asked for."""

    def __init__(self, what: str, *, status: int = 0, wait: float | None = None) -> None:
        super().__init__(what)
        self.status, self.wait = status, wait


def check_url(url: str, name: str) -> str:
    """A service's address without the last slash.

    Raises:
        ValueError: neither https nor on this machine.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ValueError(f"{url}: {name} is asked over https only")
    return url.rstrip("/")


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After field asks for (RFC 9110, 10.2.3), 0 to 120; None: unusable."""
    if value is None:
        return None
    seconds: float
    if value.isascii() and value.isdigit() and len(value) < 10:
        seconds = float(value)
    else:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)


def _path(url: str) -> str:
    return urlsplit(url).path
