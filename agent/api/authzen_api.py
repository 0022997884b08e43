"""AuthZEN 1.0 on the local API: HTTP around `enforcement.authzen`.

A denial is an answer (200, `"decision": false`); what is no request is 400. Where nothing can be
decided or recorded, 503 says so, and no decision is given.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from agent.api.local_api import Request, Response
from enforcement.admission import GateState
from enforcement.authzen import (
    CONFIGURATION,
    EVALUATION,
    EVALUATIONS,
    Pdp,
    configuration,
)
from enforcement.authzen_request import AuthzenError
from enforcement.recorder import Recorder, RecordError
from enforcement.snapshot import Snapshot

REQUEST_ID: Final = "x-request-id"
PATHS: Final = frozenset({EVALUATION, EVALUATIONS, CONFIGURATION})
_HOST: Final = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]{1,128}")


class AuthzenApi:
    """Answers what is below `/access/v1`, and the configuration document.

    Args:
        gate: whether requests are decided now, as at the gateway.
    """

    def __init__(
        self,
        *,
        snapshot: Callable[[], Snapshot],
        gate: Callable[[], GateState],
        recorder: Recorder,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._gate = gate
        self._pdp = Pdp(snapshot=snapshot, recorder=recorder, clock=clock)

    async def __call__(self, request: Request) -> Response:
        """Answer one request. Its X-Request-ID is given back."""
        response = await self._answer(request)
        name = request.headers.get(REQUEST_ID, "")
        return response.with_header(REQUEST_ID, name) if _PRINTABLE.fullmatch(name) else response

    async def _answer(self, request: Request) -> Response:
        match request.method, request.path:
            case "GET", path if path == CONFIGURATION:
                host = request.headers.get("host", "")
                return Response.json(
                    configuration(f"http://{host if _HOST.fullmatch(host) else 'localhost'}")
                )
            case "POST", path if path == EVALUATION:
                return await self._decide(request.body, self._pdp.evaluation)
            case "POST", path if path == EVALUATIONS:
                return await self._decide(request.body, self._pdp.evaluations)
            case _:
                return Response.error(405, "method_not_allowed", "GET or POST, as AuthZEN says")

    async def _decide(
        self, body: bytes, decide: Callable[[bytes], Awaitable[dict[str, Any]]]
    ) -> Response:
        gate = self._gate()
        if not gate.open:
            return Response.error(503, gate.code, gate.message)
        try:
            return Response.json(await decide(body))
        except AuthzenError as error:
            return Response.error(400, "invalid_request", str(error))
        except RecordError:
            return Response.error(
                503, "journal_unavailable", "the decision cannot be recorded; none was given"
            )
