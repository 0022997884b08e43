"""What the local API answers."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from agent.api import health
from agent.api.authzen_api import PATHS as AUTHZEN_PATHS
from agent.api.local_api import Request, Response
from agent.errors import FatalError
from agent.metrics.metrics import CONTENT_TYPE, exposition
from agent.metrics.scrape import Scraped, scrape
from agent.quotes.line import ChallengeRefusedError
from attestation.errors import AttestationError

EAT_CWT = "application/eat+cwt"

Challenge = Callable[[bytes, str | None], Awaitable[bytes]]


class ChallengeBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/passport`: `nonce` in hex or base64url (8 to 64 bytes decoded)."""

    nonce: str
    audience: str | None = None


class Api:
    """The routes. Called once per request."""

    def __init__(
        self,
        parts: Scraped,
        challenge: Challenge,
        policy: Callable[[Request], Awaitable[Response]],
        authzen: Callable[[Request], Awaitable[Response]],
    ) -> None:
        """`policy` answers what is below `/v1/policy` and `/v1/decisions`, `authzen` what AuthZEN
        defines.
        """
        self._authzen = authzen
        self._parts = parts
        self._policy = policy
        self._challenge = challenge

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        match request.method, request.path:
            case "GET", "/healthz":
                return self._alive()
            case "GET", "/readyz":
                is_ready, why = health.ready(self._parts)
                return Response.json(
                    {"ready": is_ready, "reason": why}, status=200 if is_ready else 503
                )
            case "GET", "/metrics":
                text = exposition(scrape(self._parts))
                return Response(status=200, body=text, content_type=CONTENT_TYPE)
            case "GET", "/v1/status":
                return Response.json(health.status(self._parts))
            case "GET", "/v1/passport":
                return self._passport()
            case "POST", "/v1/passport":
                return await self._fresh_passport(request.body)
            case _, path if path.startswith(("/v1/policy", "/v1/decisions")):
                return await self._policy(request)
            case _, path if path in AUTHZEN_PATHS:
                return await self._authzen(request)
            case _, path if path in KNOWN:
                return Response.error(
                    405, "method_not_allowed", f"{path} does not know this method"
                )
            case _:
                return Response.error(404, "not_found", "known: " + ", ".join(sorted(KNOWN)))

    def _alive(self) -> Response:
        """What the service manager's watchdog is told, for those who probe instead."""
        late = self._parts.freshness.late()
        if not late:
            return Response.json({"status": "alive"})
        reason = ", ".join(f"{part} for {seconds:.0f} s" for part, seconds in late.items())
        return Response.json({"status": "hangs", "reason": f"hangs: {reason}"}, status=503)

    def _passport(self) -> Response:
        issued = self._parts.renewal.current
        if issued is None or not self._parts.renewal.valid:
            reason = self._parts.lifecycle.look().reason
            return Response.error(503, "no_passport", f"there is no valid passport: {reason}")
        return Response(status=200, body=issued.token, content_type=EAT_CWT)

    async def _fresh_passport(self, body: bytes) -> Response:
        try:
            asked = msgspec.json.decode(body, type=ChallengeBody)
            nonce = decode_nonce(asked.nonce)
        except (msgspec.MsgspecError, ValueError) as error:
            return Response.error(400, "bad_challenge", str(error))
        if asked.audience is not None and not 0 < len(asked.audience) <= 256:
            return Response.error(400, "bad_challenge", "audience has 1 to 256 characters")
        if self._parts.snapshot is None:
            return Response.error(503, "no_passport", "the agent has not been attested yet")
        try:
            token = await self._challenge(nonce, asked.audience)
        except ChallengeRefusedError as error:
            status = 429 if error.outcome == "limited" else 503
            refusal = Response.error(status, f"challenges_{error.outcome}", str(error))
            return refusal.with_header("retry-after", str(math.ceil(error.retry_seconds)))
        except (AttestationError, FatalError) as error:
            remedy = f"; {error.remedy}" if error.remedy else ""
            return Response.error(503, "quote_failed", f"{error}{remedy}")
        except OSError as error:
            return Response.error(503, "quote_failed", str(error))
        return Response(status=200, body=token, content_type=EAT_CWT)


class Probes:
    """What anybody may ask, over TCP ([api] listen): numbers and health, nothing of a decision."""

    PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})

    def __init__(self, api: Api) -> None:
        self._api = api

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        if request.path in self.PATHS:
            return await self._api(request)
        return Response.error(404, "not_found", "known: " + ", ".join(sorted(self.PATHS)))


KNOWN = {
    "/healthz",
    "/readyz",
    "/metrics",
    "/v1/status",
    "/v1/passport",
    "/v1/policy",
    "/v1/decisions",
    *AUTHZEN_PATHS,
}


def decode_nonce(text: str) -> bytes:
    """A nonce from hex or unpadded base64url.

    Raises:
        ValueError: neither, or not 8 to 64 bytes.
    """
    try:
        nonce = bytes.fromhex(text)
    except ValueError:
        try:
            nonce = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("nonce is neither hex nor base64url") from None
    if not 8 <= len(nonce) <= 64:
        raise ValueError(f"nonce has {len(nonce)} bytes; 8 to 64 are needed")
    return nonce
