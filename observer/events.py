"""Fan-out of what happens to the pages that watch, as server-sent events.

Each page has a bounded queue. A page that is too slow loses decisions from its queue, is told how
many, and asks `/api/decisions` again; nobody waits for it. Decisions are sent in bunches, at most
a few times a second. An event's id is the id of its last decision, so that a page that lost its
connection goes on from there (`Last-Event-ID`).
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from observer.filters import Filter
from observer.peers import Full, Places

Row = Mapping[str, Any]

BUNCH: Final = 200  # decisions in one event
PAUSE: Final = 0.2  # seconds between bunches
SILENCE: Final = 15.0  # seconds; a comment keeps proxies and dead peers honest
REPLAY: Final = 1000  # decisions a reconnecting page is sent again
KEPT: Final = 2000  # decisions whose JSON is kept for the next page


def _json(data: object) -> bytes:
    """Without line breaks, so that one `data:` line is enough."""
    return json.dumps(data, ensure_ascii=True, separators=(",", ":")).encode()


def event(name: str, data: object) -> bytes:
    """One server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _json(data))


class Shown:
    """Decisions as JSON, made once for all pages that get them.

    Args:
        show: a row as JSON-ready value.
    """

    def __init__(self, show: Callable[[Row], object]) -> None:
        self._show = show
        self._texts: OrderedDict[int, bytes] = OrderedDict()

    def bunch(self, rows: Sequence[Row]) -> bytes:
        """One event with these rows."""
        texts = b",".join([self._text(row) for row in rows])
        return b"id: %d\nevent: decisions\ndata: [%b]\n\n" % (rows[-1]["id"], texts)

    def _text(self, row: Row) -> bytes:
        text = self._texts.get(row["id"])
        if text is None:
            text = _json(self._show(row))
            self._texts[row["id"]] = text
            if len(self._texts) > KEPT:
                self._texts.popitem(last=False)
        return text


class Client:
    """One watching page, of one peer."""

    def __init__(self, wanted: Filter, size: int, peer: str) -> None:
        self.peer = peer
        self._filter = wanted
        self._size = size
        self._queue: deque[Row] = deque()
        self._wake = asyncio.Event()
        self._missed = 0
        self._notes: set[str] = set()
        self.last_id = 0  # of what was sent; older decisions are not sent again

    def offer(self, rows: Sequence[Row]) -> int:
        """Queue those that pass the filter; the number that had no place."""
        wanted = [row for row in rows if self._filter.matches(row)]
        missed = 0
        for row in wanted:
            if len(self._queue) >= self._size:
                self._queue.popleft()
                missed += 1
            self._queue.append(row)
        self._missed += missed
        if wanted:
            self._wake.set()
        return missed

    def note(self, name: str) -> None:
        """Something else changed; said once, however often it happened."""
        self._notes.add(name)
        self._wake.set()

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - a plain bound on a wait
        """True where there is something to say."""
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    def take(self) -> tuple[int, list[Row], set[str]]:
        """Decisions missed, the next bunch, notes; what is taken is gone."""
        missed, self._missed = self._missed, 0
        notes, self._notes = self._notes, set()
        bunch = [self._queue.popleft() for _ in range(min(BUNCH, len(self._queue)))]
        if not self._queue:
            self._wake.clear()
        return missed, [row for row in bunch if row["id"] > self.last_id], notes


class Hub:
    """Every watching page."""

    def __init__(
        self,
        *,
        places: Places,
        queue_size: int,
        show: Callable[[Row], object],
        on_missed: Callable[[int], object] = lambda _count: None,
    ) -> None:
        self._places = places
        self._queue_size = queue_size
        self._on_missed = on_missed
        self._shown = Shown(show)
        self._clients: set[Client] = set()
        self._closed = False

    @property
    def replay_limit(self) -> int:
        """How many decisions a reconnecting page is sent again."""
        return min(REPLAY, self._queue_size)

    @property
    def clients(self) -> int:
        """How many pages watch."""
        return len(self._clients)

    def decisions(self, rows: Sequence[Row]) -> None:
        """These rows of `records` are committed."""
        for client in self._clients:
            if missed := client.offer(rows):
                self._on_missed(missed)

    def agents_changed(self) -> None:
        """The state of an agent is another."""
        self._note("agents")

    def alarms_changed(self) -> None:
        """There is an alarm."""
        self._note("alarms")

    def _note(self, name: str) -> None:
        for client in self._clients:
            client.note(name)

    def close(self) -> None:
        """Let every page's stream end."""
        self._closed = True
        self._note("closing")

    def join(self, wanted: Filter, peer: str) -> Client:
        """A place for a page of a peer; give it back with `leave`.

        Raises:
            Full: none is free.
        """
        if self._closed:
            raise Full("all")
        self._places.take(peer)
        client = Client(wanted, self._queue_size, peer)
        self._clients.add(client)
        return client

    def leave(self, client: Client) -> None:
        """The page is gone; it may be said twice."""
        if client in self._clients:
            self._clients.discard(client)
            self._places.leave(client.peer)

    async def stream(
        self,
        client: Client,
        *,
        replay: Callable[[], Awaitable[tuple[int, list[Row]]]] | None,
    ) -> AsyncIterator[bytes]:
        """The events of one page, until it leaves or the hub closes.

        Args:
            replay: decisions missed count and rows since the page's last event id, oldest first.
                It runs after the page has joined, so that nothing falls between.
        """
        try:
            yield b"retry: 2000\n\n" + event("hello", {})
            if replay is not None:
                missed, rows = await replay()
                if missed:
                    yield event("missed", {"count": missed})
                for start in range(0, len(rows), BUNCH):
                    bunch = rows[start : start + BUNCH]
                    client.last_id = bunch[-1]["id"]
                    yield self._shown.bunch(bunch)
            while not self._closed:
                if not await client.wait(SILENCE):
                    yield b": still here\n\n"
                    continue
                missed, bunch, notes = client.take()
                if missed:
                    yield event("missed", {"count": missed})
                if bunch:
                    client.last_id = bunch[-1]["id"]
                    yield self._shown.bunch(bunch)
                for name in sorted(notes):
                    yield event(name, {})
                await asyncio.sleep(PAUSE)
        finally:
            self.leave(client)
