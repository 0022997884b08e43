"""What the local API answers about policy and decisions.

    GET    /v1/policy                what is in force, what comes next, who signed it
    POST   /v1/policy                push a bundle: CBOR, a map from path to content
    GET    /v1/policy/history        what came into force, newest last
    POST   /v1/policy/rollback       {"digest": …}, or {} for the one before
    GET    /v1/policy/bundle         the files of a bundle (?digest=…, default: in force), as CBOR
    GET    /v1/policy/shadow         how a candidate would have decided
    POST   /v1/policy/shadow         begin to ask a candidate (as for a push)
    DELETE /v1/policy/shadow         stop
    GET    /v1/decisions             the newest decisions (?last=100)
    GET    /v1/decisions/<id>        one

Reading is for everyone whom the socket lets in; changing is for root and the agent's own user, for
a member of the socket's group must not change what is enforced.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, Final, Protocol
from urllib.parse import parse_qs

import msgspec
import trio

from agent import logs
from agent.api import decisions
from agent.api.local_api import MAX_BODIES, Request, Response
from agent.journal import Journal
from agent.policy.policies import Loaded, Policies
from agent.policy.policy_vault import VaultError
from attestation import cbor
from attestation.errors import MalformedError
from enforcement.policy.bundle import BundleError
from enforcement.policy.bundle_files import SIGNATURE
from enforcement.snapshot import Snapshot

_LOG = logs.get("policy")
CBOR: Final = "application/cbor"
DEFAULT_LAST: Final = 100
MAX_DIGITS: Final = 9


class Obstacle(msgspec.Struct, frozen=True, kw_only=True):
    """Why no passport comes that could put a bundle in force.

    Attributes:
        reboot: none will until the machine is rebooted.
        code: stable; reason, next: for people.
    """

    reboot: bool
    code: str
    reason: str
    next: str


class Parts(Protocol):
    """What is asked and changed. `agent.parts` are."""

    policies: Policies
    journal: Journal

    @property
    def snapshot(self) -> Snapshot | None:
        """What exchanges are decided with; None until the first passport."""

    def obstacle(self) -> Obstacle | None:
        """What stands between a bundle and its passport now; None: nothing is known to."""


class RollbackBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/policy/rollback`: the digest in hex; null: the bundle before the newest."""

    digest: str | None = None


class PolicyApi:
    """The routes. Called once per request."""

    def __init__(self, parts: Parts, *, may_push: bool) -> None:
        self._parts = parts
        self._may_push = may_push
        self._routes: dict[tuple[str, str], Callable[[Request], Awaitable[Response]]] = {
            ("GET", "/v1/policy"): self._show,
            ("POST", "/v1/policy"): self._push,
            ("GET", "/v1/policy/history"): self._history,
            ("POST", "/v1/policy/rollback"): self._rollback,
            ("GET", "/v1/policy/bundle"): self._bundle,
            ("GET", "/v1/policy/shadow"): self._shadow,
            ("POST", "/v1/policy/shadow"): self._set_shadow,
            ("DELETE", "/v1/policy/shadow"): self._set_shadow,
            ("GET", "/v1/decisions"): self._decisions,
        }

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        route = self._routes.get((request.method, request.path))
        try:
            if route is not None:
                return await route(request)
            if request.path.startswith("/v1/decisions/"):
                return await self._decision(request)
        except BundleError as error:
            return _refused(error)
        except KeyError as error:
            return Response.error(
                404,
                "not_found",
                f"no such bundle is kept: {error.args[0]}; `lucid policy history` lists those that"
                " were taken, and the last ones are kept",
            )
        except (VaultError, OSError) as error:
            return Response.error(500, "storage", str(error))
        except MalformedError as error:
            return Response.error(400, error.code, str(error))
        if request.path in {path for _, path in self._routes}:
            return Response.error(405, "method_not_allowed", "this path does not know the method")
        known = sorted({path for _, path in self._routes})
        return Response.error(404, "not_found", "known: " + ", ".join(known))

    # -- reading ----------------------------------------------------------------------------------

    async def _show(self, _request: Request) -> Response:
        policies, snapshot = self._parts.policies, self._parts.snapshot
        newest, trust = policies.newest.bundle, policies.trust
        in_force = None if snapshot is None else snapshot.bundle.digest
        return Response.json(
            {
                "in_force": None
                if snapshot is None
                else {
                    "name": snapshot.bundle.name,
                    "version": snapshot.bundle.version,
                    "digest": snapshot.bundle.digest.hex(),
                    "passport": snapshot.passport_id,
                },
                "newest": {
                    "name": newest.name,
                    "version": newest.version,
                    "digest": newest.digest.hex(),
                    "source": policies.newest.action,
                    "policies": len(newest.policies),
                    "signed": SIGNATURE in newest.files,
                    "signer": None if newest.signer is None else newest.signer.hex(),
                    "in_force": newest.digest == in_force,
                },
                "waits_for": None if newest.digest == in_force else self._waits_for(),
                "require_signature": trust.required,
                "trusted_keys": [kid.hex() for kid in trust.keys],
                "refused": policies.failures,
                "superseded": policies.superseded,
                "shadow": policies.candidate.digest,
                "shadow_problem": policies.candidate.problem,
                "platform": None if snapshot is None else asdict(snapshot.platform),
            }
        )

    async def _history(self, _request: Request) -> Response:
        entries = [msgspec.to_builtins(entry) for entry in self._parts.policies.history()]
        newest = self._parts.policies.newest
        waiting = self._parts.policies.state_of(newest) == "waiting"
        return Response.json(
            {
                "newest": newest.bundle.digest.hex(),
                "waits_for": self._waits_for() if waiting else None,
                "entries": entries,
            }
        )

    async def _bundle(self, request: Request) -> Response:
        digest = parse_qs(request.query).get("digest", [""])[0]
        policies = self._parts.policies
        if not digest and self._parts.snapshot is not None:
            digest = self._parts.snapshot.bundle.digest.hex()
        files = await policies.files(digest or policies.newest.bundle.digest.hex())
        return Response(status=200, body=cbor.encode(dict(files)), content_type=CBOR)

    async def _shadow(self, _request: Request) -> Response:
        candidate = self._parts.policies.candidate
        if candidate.shadow is None:
            why = f": {candidate.problem}" if candidate.problem else ""
            return Response.error(404, "no_shadow", f"no candidate is asked beside the bundle{why}")
        return Response.json({**candidate.shadow.report(), "problem": candidate.problem})

    async def _decisions(self, request: Request) -> Response:
        text = parse_qs(request.query).get("last", [str(DEFAULT_LAST)])[0]
        if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS) or not (
            0 < int(text) <= decisions.MAX_LAST
        ):
            return Response.error(
                400, "bad_request", f"last is a number from 1 to {decisions.MAX_LAST}"
            )
        path = self._parts.journal.path

        def answer() -> Response:  # ten thousand as JSON take half a second: not in the event loop
            found = decisions.last_decisions(path, int(text))
            return Response.json({"decisions": [decisions.as_json(placed) for placed in found]})

        return await trio.to_thread.run_sync(answer)

    async def _decision(self, request: Request) -> Response:
        wanted = request.path.removeprefix("/v1/decisions/")
        path = self._parts.journal.path
        found = await trio.to_thread.run_sync(decisions.find_decision, path, wanted)
        if found is None:
            return Response.error(
                404,
                "not_found",
                "no such decision is in the journal; it may be older than what is kept, or another"
                " agent's",
            )
        return Response.json(decisions.as_json(found))

    # -- changing ---------------------------------------------------------------------------------

    async def _push(self, request: Request) -> Response:
        if (refusal := self._not_allowed(request)) is not None:
            return refusal
        files = _files(request.body, MAX_BODIES["/v1/policy"])
        loaded = await self._parts.policies.push(files, by=f"uid {request.uid}")
        return await self._taken(loaded)

    async def _rollback(self, request: Request) -> Response:
        if (refusal := self._not_allowed(request)) is not None:
            return refusal
        try:
            asked = msgspec.json.decode(request.body or b"{}", type=RollbackBody)
        except msgspec.MsgspecError as error:
            return Response.error(400, "bad_request", str(error))
        loaded = await self._parts.policies.rollback(asked.digest, by=f"uid {request.uid}")
        return await self._taken(loaded)

    async def _set_shadow(self, request: Request) -> Response:
        if (refusal := self._not_allowed(request)) is not None:
            return refusal
        begin = request.method == "POST"
        files = _files(request.body, MAX_BODIES["/v1/policy/shadow"]) if begin else None
        candidate = self._parts.policies.candidate
        await candidate.set(files)
        return Response.json({"shadow": candidate.digest})

    def _not_allowed(self, request: Request) -> Response | None:
        if not self._may_push:
            return Response.error(403, "push_disabled", "policy.push is false in the configuration")
        if request.uid not in (0, os.geteuid()):
            _LOG.warning("policy.push_refused", uid=request.uid)
            return Response.error(
                403, "not_allowed", "only root and the agent's own user may change the policy"
            )
        return None

    def _waits_for(self) -> dict[str, Any] | None:
        obstacle = self._parts.obstacle()
        return None if obstacle is None else msgspec.to_builtins(obstacle)

    async def _taken(self, loaded: Loaded) -> Response:
        policies, obstacle = self._parts.policies, self._parts.obstacle()
        hopeless = obstacle is not None and obstacle.reboot
        state = policies.state_of(loaded) if hopeless else await policies.in_force(loaded)
        in_force = state == "in_force"
        bundle, snapshot = loaded.bundle, self._parts.snapshot
        value = {
            "name": bundle.name,
            "version": bundle.version,
            "digest": bundle.digest.hex(),
            "signer": None if bundle.signer is None else bundle.signer.hex(),
            "in_force": in_force,
            "state": state,
            "passport": snapshot.passport_id if in_force and snapshot is not None else None,
            "waits_for": self._waits_for() if state == "waiting" else None,
        }
        # 202: kept, and it comes into force with the next passport, which is not there yet; or a
        # newer bundle did in its place.
        return Response.json(value, status=200 if in_force else 202)


def _files(body: bytes, limit: int) -> dict[str, bytes]:
    value = cbor.decode(body, max_size=limit, max_depth=2)
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and isinstance(content, bytes) for name, content in value.items()
    ):
        raise MalformedError("policy.body", "a bundle is a CBOR map from path to content")
    return value


def _refused(error: BundleError) -> Response:
    return Response.json(
        {
            "error": {
                "code": error.code,
                "message": "the bundle cannot be used; what is in force stays",
                "problems": [problem.as_json() for problem in error.problems],
            }
        },
        status=422,
    )
