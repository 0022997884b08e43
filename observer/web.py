"""The HTTP side: the live page, the JSON API, server-sent events, health and metrics. Read only."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.types import Receive, Scope, Send

from observer import queries, views
from observer.config import ObserverConfig
from observer.events import Hub
from observer.filters import Filter, FilterError
from observer.metrics import Metrics
from observer.peers import Full, peer
from observer.registry import Registry
from observer.security import KnownHosts, SecurityHeaders
from observer.store import Store, StoreError

HERE: Final = Path(__file__).parent
PAGE_SIZE: Final = 100
MAX_PAGE: Final = 500
MAX_DIGITS: Final = 19

_log = logging.getLogger("observer.web")


def _problem(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status)


def _number(request: Request, name: str, *, least: int, most: int) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise FilterError(f"{name!r} is a whole number")
    if not least <= int(text) <= most:
        raise FilterError(f"{name!r} is between {least} and {most}")
    return int(text)


def _id(text: str) -> int | None:
    """A number that can be one of a row; None: it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < MAX_DIGITS else None


def _filter(request: Request, *also: str) -> Filter:
    return Filter.from_query(dict(request.query_params), also=frozenset(also))


class Web:
    """The routes and what they read."""

    def __init__(
        self,
        *,
        config: ObserverConfig,
        store: Store,
        registry: Registry,
        hub: Hub,
        metrics: Metrics,
        version: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._store = store
        self._registry = registry
        self._hub = hub
        self._metrics = metrics
        self._version = version
        self._clock = clock
        self._templates = Jinja2Templates(directory=HERE / "templates")

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/api/decisions", self.decisions),
                Route("/api/decisions/{boot}/{seq}", self.decision),
                Route("/api/agents", self.agents),
                Route("/api/alarms", self.alarms),
                Route("/api/alarms/{id}", self.alarm),
                Route("/api/export", self.export),
                Route("/api/events", self.events),
                Route("/healthz", self.healthz),
                Route("/readyz", self.readyz),
                Route("/metrics", self.metrics),
                Mount("/static", StaticFiles(directory=HERE / "static"), name="static"),
            ],
            middleware=[
                Middleware(SecurityHeaders),
                Middleware(KnownHosts, hosts=self._config.allowed_hosts),
            ],
            exception_handlers={
                FilterError: _bad_query,
                StoreError: _database,
                HTTPException: _http,
            },
        )

    async def page(self, request: Request) -> Response:
        return self._templates.TemplateResponse(
            request,
            "index.html",
            {
                "version": self._version,
                "grpc": str(self._config.listen_grpc),
                "allow_simulated": self._config.allow_simulated,
                "tls": self._config.grpc_certificate is not None,
            },
        )

    async def decisions(self, request: Request) -> Response:
        wanted = _filter(request, "before", "limit")
        limit = _number(request, "limit", least=1, most=MAX_PAGE) or PAGE_SIZE
        before = _number(request, "before", least=1, most=2**63 - 1)
        page = await queries.decisions(self._store, wanted, before=before, limit=limit)
        return JSONResponse(
            {"decisions": [views.decision(row) for row in page.rows], "before": page.before}
        )

    async def decision(self, request: Request) -> Response:
        boot, seq = request.path_params["boot"], _id(request.path_params["seq"])
        found = None
        try:
            boot_id = bytes.fromhex(boot)
        except ValueError:
            boot_id = b""
        if boot_id and seq is not None:
            found = await queries.one(self._store, boot_id, seq)
        if found is None:
            return _problem(404, "decision_unknown", "no such decision is stored here")
        answer = views.full(
            found.record, previous_head=found.previous_head, checkpoint=found.checkpoint
        )
        answer["attestation"] = views.boot(found.boot, now_s=self._clock())
        return JSONResponse(answer)

    async def agents(self, _request: Request) -> Response:
        now = self._clock()
        answer = []
        for agent, boots, alarms in await queries.agents_with_boots(self._store):
            live = self._registry.find(agent["agent_id"])
            shown = [
                views.boot(boot, now_s=now, answers=place == 0) for place, boot in enumerate(boots)
            ]
            running = shown[0]
            durable = live.durable_seq if live else agent["durable_seq"]
            answer.append(
                {
                    "agent": agent["agent_id"],
                    "version": agent["version"],
                    "connected": live is not None,
                    "state": live.state if live else agent["state"],
                    "first_seen": views.moment(agent["first_seen_ns"]),
                    "last_seen": views.moment(live.last_seen_ns if live else agent["last_seen_ns"]),
                    "lag": max(durable - running["verified_seq"], 0),
                    "boot": running["boot"],
                    "passport": running["passport"],
                    "boots": shown,  # the running one first
                    "alarms": [views.alarm(alarm) for alarm in alarms],
                }
            )
        return JSONResponse({"agents": answer, "now": views.moment(int(now * 10**9))})

    async def alarms(self, _request: Request) -> Response:
        rows = await queries.all_alarms(self._store)
        return JSONResponse({"alarms": [views.alarm(row) for row in rows]})

    async def alarm(self, request: Request) -> Response:
        number = _id(request.path_params["id"])
        row = None if number is None else await queries.one_alarm(self._store, number)
        if row is None:
            return _problem(404, "alarm_unknown", "no such alarm is stored here")
        return JSONResponse(views.alarm(row) | {"evidence": row["evidence"].hex()})

    async def export(self, request: Request) -> Response:
        wanted = _filter(request, "before")
        before = _number(request, "before", least=1, most=2**63 - 1)
        # The first row is read before the answer starts: a database that fails is a 503.
        rows = queries.export(self._store, wanted, before=before)
        first = await anext(rows, None)

        async def lines() -> AsyncIterator[bytes]:
            if first is not None:
                yield _line(first)
                async for row in rows:
                    yield _line(row)

        return StreamingResponse(
            lines(),
            media_type="application/x-ndjson",
            headers={"content-disposition": 'attachment; filename="decisions.ndjson"'},
        )

    async def events(self, request: Request) -> Response:
        wanted = _filter(request)
        last = request.headers.get("last-event-id", "")
        after = _id(last)
        try:
            client = self._hub.join(wanted, peer(request.client.host if request.client else ""))
        except Full as full:
            text = "too many pages are watching; close one or try again later"
            if full.why == "address":
                text = (
                    "too many pages from this address are watching; close one. If many people come"
                    " from there, name the address to the Observer: --proxy"
                )
            return _problem(503, "too_many_pages", text)

        async def replay() -> tuple[int, list[queries.Row]]:
            return await queries.since(
                self._store, wanted, after=after or 0, limit=self._hub.replay_limit
            )

        return Watching(
            self._hub.stream(client, replay=replay if after is not None else None),
            gone=lambda: self._hub.leave(client),
        )

    async def healthz(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, _request: Request) -> Response:
        await self._store.ping()
        if not self._store.healthy:
            return PlainTextResponse("the last write to the database failed\n", status_code=503)
        return PlainTextResponse("ready\n")

    async def metrics(self, _request: Request) -> Response:
        return Response(
            self._metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )


class Watching(StreamingResponse):
    """The events of one page. `gone` is called when it ends: a stream that never began, because its
    page was gone before, ends nothing itself.
    """

    def __init__(self, events: AsyncIterator[bytes], gone: Callable[[], None]) -> None:
        super().__init__(
            events, media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )
        self._gone = gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._gone()


def _line(row: Any) -> bytes:
    shown = views.decision(row) | {
        "head": row["head"].hex(),
        "raw": row["record"].hex(),
        "received": views.moment(row["received_ns"]),
    }
    return json.dumps(shown, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


async def _bad_query(_request: Request, error: Exception) -> Response:
    return _problem(400, "bad_query", str(error))


async def _database(_request: Request, error: Exception) -> Response:
    _log.error("the database failed: %s", error)
    return _problem(503, "database", "the database of the Observer does not answer")


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, "http", error.detail)
