"""AuthZEN over HTTP on the local API: the interop tables, the semantics, and what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from agent.api import local_api
from agent.api.authzen_api import AuthzenApi
from agent.api.local_api import Request, Response
from attestation.records import DecisionRecord
from enforcement.admission import GateState
from enforcement.policy.bundle import Bundle
from enforcement.policy.engine import Engine
from enforcement.recorder import RecordError
from enforcement.shadow import Shadow
from enforcement.snapshot import Snapshot
from tests.enforcement.bundles import SIMULATED, problems, write

MANIFEST = """
name = "todo"
version = "1"
[authzen.subjects]
identity = "User"
[authzen.actions]
"*" = "access_data"
[authzen.resources]
"*" = "Service"
[claims.doing]
type = "string"
source = "authzen:action.name"
[claims.owner]
type = "string"
source = "authzen:resource.properties.ownerID"
optional = true
[claims.owner_in_drafts]
type = "string"
source = "authzen:resource.ownerID"
optional = true
[claims.amount]
type = "integer"
source = "authzen:context.amount"
optional = true
[claims.pii_found]
type = "bool"
source = "builtin"
optional = true
"""

POLICIES = """
@id("read") permit (principal, action, resource)
when { ["can_read_user", "can_read_todos", "GET"].contains(context.claims.doing) };
@id("write") permit (principal in Lucid::Group::"editor", action, resource)
when { ["can_create_todo", "POST", "PUT", "DELETE"].contains(context.claims.doing) };
@id("change-own") permit (principal in Lucid::Group::"editor", action, resource)
when {
  ["can_update_todo", "can_delete_todo"].contains(context.claims.doing) && principal has email
  && ((context.claims has owner && context.claims.owner == principal.email)
    || (context.claims has owner_in_drafts
      && context.claims.owner_in_drafts == principal.email))
};
@id("delete-any") permit (principal in Lucid::Group::"admin", action, resource)
when { context.claims.doing == "can_delete_todo" };
@id("update-any") permit (principal in Lucid::Group::"evil_genius", action, resource)
when { context.claims.doing == "can_update_todo" };
@id("speak") permit (principal, action, resource) when { context.claims.doing == "speak" };
@id("mask") @decision("redact") @redact("email") forbid (principal, action, resource)
when {
  context.claims.doing == "speak" && context.claims has pii_found && context.claims.pii_found
};
@id("capped") @max_tokens("5") permit (principal, action, resource)
when { context.claims.doing == "write_a_little" };
@id("once") @rate("1/day") permit (principal, action, resource)
when { context.claims.doing == "once" };
@id("hardware") @require_hardware permit (principal, action, resource)
when { context.claims.doing == "on_hardware" };
@id("amount") permit (principal, action, resource)
when { context.claims.doing == "pay" && context.claims has amount && context.claims.amount < 9 };
"""

PEOPLE = {
    "rick@the-citadel.com": ("0", ["admin", "editor", "evil_genius"]),
    "morty@the-citadel.com": ("1", ["editor"]),
    "summer@the-smiths.com": ("2", ["editor"]),
    "beth@the-smiths.com": ("3", ["viewer"]),
    "jerry@the-smiths.com": ("4", ["viewer"]),
}
IDENTITIES = {
    "0": "CiRmZDA2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs",
    "1": "CiRmZDE2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs",
    "2": "CiRmZDI2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs",
    "3": "CiRmZDM2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs",
    "4": "CiRmZDQ2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs",
}
RICK, BETH = IDENTITIES["0"], IDENTITIES["3"]
ENTITIES = [
    {
        "uid": {"type": "Lucid::User", "id": name},
        "attrs": {"email": email},
        "parents": [{"type": "Lucid::Group", "id": group} for group in groups],
    }
    for email, (number, groups) in PEOPLE.items()
    for name in (email, IDENTITIES[number])
]


@dataclass
class Journal:
    """Remembers; can fail."""

    records: list[DecisionRecord] = field(default_factory=list)
    durable_to: int = 0
    fails: bool = False

    def append(self, record: DecisionRecord) -> int:
        if self.fails:
            raise RecordError("the disk is full")
        self.records.append(record)
        return len(self.records)

    async def durable(self, seq: int) -> None:
        await trio.lowlevel.checkpoint()
        self.durable_to = seq


@dataclass
class Pdp:
    """The local API with AuthZEN alone, and a client."""

    client: httpx.AsyncClient
    journal: Journal
    gate: list[GateState]

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = await self.client.post(path, content=content, headers=headers)
        assert self.journal.durable_to == len(self.journal.records)
        return reply

    async def evaluate(self, body: Any) -> dict[str, Any]:
        reply = await self.post("/access/v1/evaluation", body)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    async def decides(self, body: Any) -> tuple[bool, list[str]]:
        found = await self.evaluate(body)
        return found["decision"], found["context"]["reasons"]


OPEN = GateState(open=True, code="", message="")


@asynccontextmanager
async def pdp(
    folder: Path,
    policies: str = POLICIES,
    manifest: str = MANIFEST,
    shadow: Shadow | None = None,
) -> AsyncIterator[Pdp]:
    bundle = Bundle.load(
        write(folder / "b", policies, manifest=manifest, entities=json.dumps(ENTITIES))
    )
    snapshot = Snapshot(
        engine=Engine(bundle),
        bundle=bundle,
        passport_id="pass-0",
        platform=SIMULATED,
        agent_id="agent",
        shadow=shadow,
    )
    journal, gate = Journal(), [OPEN]
    api = AuthzenApi(snapshot=lambda: snapshot, gate=lambda: gate[0], recorder=journal)
    path = folder / "s"
    listener = local_api.bind(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(local_api.serve, listener, _only(api))
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://pdp.local") as client:
            yield Pdp(client, journal, gate)
        nursery.cancel_scope.cancel()


def _only(api: AuthzenApi) -> Callable[[Request], Any]:
    async def handle(request: Request) -> Response:
        return await api(request)

    return handle


def ask(doing: str, subject: str = RICK, **more: Any) -> dict[str, Any]:
    return {
        "subject": {"type": "user", "id": subject},
        "action": {"name": doing},
        "resource": {"type": "todo", "id": "1"},
        **more,
    }


# -- the interop tables ---------------------------------------------------------------------------


async def test_the_decision_tables_of_the_interop_events_hold(
    tmp_path: Path, vectors: Path
) -> None:
    counts = {"evaluation": 0, "evaluations": 0, "decisions": 0}
    async with pdp(tmp_path) as asked:
        for file in sorted((vectors / "authzen").glob("*.json")):
            tables = json.loads(file.read_text())
            for kind, cases in tables.items():
                for case in cases:
                    counts[kind] += 1
                    if kind == "evaluations":
                        reply = await asked.post("/access/v1/evaluations", case["request"])
                        got = [{"decision": e["decision"]} for e in reply.json()["evaluations"]]
                        assert got == case["expected"], case
                    else:
                        assert (await asked.evaluate(case["request"]))["decision"] is case[
                            "expected"
                        ], case
        assert counts == {"evaluation": 65, "evaluations": 3, "decisions": 40}
        assert len(asked.journal.records) == 65 + 40 + 6


# -- answers --------------------------------------------------------------------------------------


async def test_an_answer_names_its_record_and_reasons(tmp_path: Path) -> None:
    async with pdp(tmp_path) as asked:
        found = await asked.evaluate(ask("can_read_todos"))
        record = asked.journal.records[0]
        assert found["context"]["id"] == record.decision_id
        assert found["context"]["reasons"] == ["read"]
        assert found["context"]["bundle"] == record.bundle[2].hex()
        assert (record.route, record.action) == ("authzen", "access_data")
        assert record.principal == ("User", RICK)
        assert record.resource == ("Service", "1")
        assert record.claims["doing"] == "can_read_todos"


async def test_the_request_id_comes_back(tmp_path: Path) -> None:
    async with pdp(tmp_path) as asked:
        reply = await asked.post(
            "/access/v1/evaluation", ask("can_read_todos"), **{"X-Request-ID": "r-1"}
        )
        assert reply.headers["x-request-id"] == "r-1"
        reply = await asked.post("/access/v1/evaluation", b"{", **{"X-Request-ID": "r-2"})
        assert (reply.status_code, reply.headers["x-request-id"]) == (400, "r-2")


async def test_the_configuration_document_names_the_endpoints(tmp_path: Path) -> None:
    async with pdp(tmp_path) as asked:
        reply = await asked.client.get("/.well-known/authzen-configuration")
        assert reply.json() == {
            "policy_decision_point": "http://pdp.local",
            "access_evaluation_endpoint": "http://pdp.local/access/v1/evaluation",
            "access_evaluations_endpoint": "http://pdp.local/access/v1/evaluations",
        }
        assert (await asked.client.get("/access/v1/evaluation")).status_code == 405


# -- evaluations ----------------------------------------------------------------------------------

YES, NO = {"action": {"name": "can_read_todos"}}, {"action": {"name": "nothing"}}


@pytest.mark.parametrize(
    ("semantic", "items", "decisions"),
    [
        (None, [YES, NO, YES], [True, False, True]),
        ("execute_all", [NO, YES, NO], [False, True, False]),
        ("deny_on_first_deny", [YES, NO, YES], [True, False]),
        ("deny_on_first_deny", [YES, YES], [True, True]),
        ("permit_on_first_permit", [NO, YES, NO], [False, True]),
        ("permit_on_first_permit", [NO, NO], [False, False]),
    ],
)
async def test_several_are_decided_as_their_semantic_says(
    tmp_path: Path, semantic: str | None, items: list[Any], decisions: list[bool]
) -> None:
    body = {**ask("x"), "evaluations": items}
    if semantic is not None:
        body["options"] = {"evaluations_semantic": semantic}
    async with pdp(tmp_path) as asked:
        reply = await asked.post("/access/v1/evaluations", body)
        assert [found["decision"] for found in reply.json()["evaluations"]] == decisions
        assert len(asked.journal.records) == len(decisions)


async def test_an_item_replaces_a_default_whole(tmp_path: Path) -> None:
    body = {
        "subject": {"type": "user", "id": RICK},
        "action": {"name": "pay"},
        "resource": {"type": "till", "id": "1"},
        "context": {"amount": 3},
        "evaluations": [{}, {"context": {"amount": 10}}, {"context": {}}],
    }
    async with pdp(tmp_path) as asked:
        reply = await asked.post("/access/v1/evaluations", body)
        assert [e["decision"] for e in reply.json()["evaluations"]] == [True, False, False]


async def test_without_a_list_it_is_one_evaluation(tmp_path: Path) -> None:
    async with pdp(tmp_path) as asked:
        for body in (ask("can_read_todos"), {**ask("can_read_todos"), "evaluations": []}):
            reply = await asked.post("/access/v1/evaluations", body)
            assert reply.json()["decision"] is True


# -- what is no request ---------------------------------------------------------------------------

DEEP = b'{"subject":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{", b"\xff", b'"x"', DEEP, {},
        {**ask("x"), "subject": None},
        {**ask("x"), "subject": {"type": "user"}},
        {**ask("x"), "subject": {"type": "user", "id": ""}},
        {**ask("x"), "subject": {"type": "user", "id": 1}},
        {**ask("x"), "subject": {"type": "user", "id": "x" * 1025}},
        {**ask("x"), "subject": {"type": "user", "id": "\ud800"}},
        {**ask("x"), "subject": {"type": "user", "id": {"__entity": {"type": "U", "id": "a"}}}},
        {**ask("x"), "action": {"name": None}},
        {**ask("x"), "action": "read"},
        {**ask("x"), "resource": {"type": "t", "id": "1", "properties": []}},
        {**ask("x"), "context": []},
        {**ask("x"), "context": {"amount": float("nan")}},
        {**ask("x"), "resource": {"type": "t", "id": "1", "properties": {"ownerID": "\ud800"}}},
        {**ask("x"), "context": {"input": 3}},
        {**ask("x"), "evaluations": {}},
        {**ask("x"), "evaluations": [1]},
        {**ask("x"), "evaluations": [{"action": {}}]},
        {**ask("x"), "evaluations": [{}] * 101},
        {**ask("x"), "evaluations": [{}], "options": {"evaluations_semantic": "my secret"}},
        {**ask("x"), "evaluations": [{}], "options": {"evaluations_semantic": "`$.my secret`"}},
    ],
)  # fmt: skip
async def test_what_is_no_request_is_400_and_decides_nothing(tmp_path: Path, body: Any) -> None:
    async with pdp(tmp_path) as asked:
        reply = await asked.post("/access/v1/evaluations", body)
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert error["code"] == "invalid_request"
        assert "secret" not in error["message"]
        assert asked.journal.records == []


async def test_where_nothing_can_be_decided_or_recorded_there_is_no_decision(
    tmp_path: Path,
) -> None:
    async with pdp(tmp_path) as asked:
        asked.gate[0] = GateState(open=False, code="attestation_expired", message="expired")
        reply = await asked.post("/access/v1/evaluation", ask("can_read_todos"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "attestation_expired")
        asked.gate[0] = OPEN
        asked.journal.fails = True
        reply = await asked.post("/access/v1/evaluation", ask("can_read_todos"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "journal_unavailable")


# -- traps: nothing that a client writes is more than a typed value --------------------------------


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"context": {"amount": 3}}, "amount"),
        ({"context": {"amount": "3"}}, "claim_invalid:amount"),
        ({"context": {"amount": 3.0}}, "claim_invalid:amount"),
        ({"context": {"amount": True}}, "claim_invalid:amount"),
        ({"context": {"amount": 2**63}}, "claim_invalid:amount"),
        ({"context": {"amount": {"__extn": {"fn": "decimal", "arg": "1.0"}}}},
         "claim_invalid:amount"),
        ({"context": {"amount": {"__entity": {"type": "Lucid::User", "id": "x"}}}},
         "claim_invalid:amount"),
        ({"context": {"amount": [3]}}, "claim_invalid:amount"),
        ({"context": {"amount": None}}, "default_deny"),
        ({"context": {"claims": {"amount": 3}}}, "default_deny"),
        ({"context": {"Amount": 3}}, "default_deny"),
        ({"resource": {"type": "todo", "id": "1",
                       "properties": {"ownerID": {"__entity": {"type": "U", "id": "x"}}}}},
         "claim_invalid:owner"),
        ({"resource": {"type": "todo", "id": "1", "properties": {"ownerID": "x" * 2000}}},
         "claim_invalid:owner"),
        ({"subject": {"type": "robot", "id": RICK}}, "authzen_unknown:subject"),
        ({"subject": {"type": "Lucid::User", "id": RICK}}, "authzen_unknown:subject"),
    ],
)  # fmt: skip
async def test_a_claim_is_what_its_type_says_or_the_decision_is_no(
    tmp_path: Path, given: dict[str, Any], reason: str
) -> None:
    async with pdp(tmp_path) as asked:
        allowed, reasons = await asked.decides({**ask("pay"), **given})
        assert reasons == [reason]
        assert allowed is (reason == "amount")


async def test_of_duplicate_keys_one_counts_everywhere(tmp_path: Path) -> None:
    body = (
        b'{"subject":{"type":"user","id":"x"},"action":{"name":"can_create_todo"},'
        b'"resource":{"type":"todo","id":"1"},"subject":{"type":"user","id":"%b"}}' % BETH.encode()
    )
    async with pdp(tmp_path) as asked:
        assert (await asked.decides(body))[0] is False
        assert asked.journal.records[0].principal == ("User", BETH)


async def test_a_required_claim_that_the_request_does_not_give_denies(tmp_path: Path) -> None:
    text = '@id("a") permit (principal, action, resource) when { !context.claims.pii_found };'
    required = MANIFEST.removesuffix("optional = true\n")
    async with pdp(tmp_path, text, required) as asked:
        assert await asked.decides(ask("x")) == (False, ["claim_missing:pii_found"])
        assert await asked.decides(ask("x", context={"input": "hello"})) == (True, ["a"])
        assert await asked.decides(ask("x", context={"input": "a@example.org"})) == (
            False, ["default_deny"],
        )  # fmt: skip
        record = asked.journal.records[1]
        assert record.texts[0].size == 5
        assert "a@example.org" not in str(msgspec.to_builtins(asked.journal.records))


# -- obligations ----------------------------------------------------------------------------------


async def test_a_permission_that_obliges_is_for_those_who_do_it(tmp_path: Path) -> None:
    text = {"input": "mail a@example.org"}
    async with pdp(tmp_path) as asked:
        assert await asked.decides(ask("speak", context=text)) == (
            False, ["obligation_unsupported:redact"],
        )  # fmt: skip
        found = await asked.evaluate(ask("speak", context={**text, "supports": ["redact"]}))
        assert found["decision"] is True
        assert found["context"]["outcome"] == "redact"
        assert found["context"]["obligations"] == {"redact": ["email"]}
        for supports in ([], None, "max_tokens", ["Max_tokens"], [["max_tokens"]]):
            body = ask("write_a_little", context={"input": "x", "supports": supports})
            assert await asked.decides(body) == (False, ["obligation_unsupported:max_tokens"])
        found = await asked.evaluate(
            ask("write_a_little", context={"input": "x", "supports": ["max_tokens"]})
        )
        assert found["context"]["obligations"] == {"max_tokens": ["5"]}


async def test_rates_and_hardware_are_judged_here(tmp_path: Path) -> None:
    async with pdp(tmp_path) as asked:
        assert await asked.decides(ask("once")) == (True, ["once"])
        assert await asked.decides(ask("once")) == (False, ["rate_limited:once"])
        assert await asked.decides(ask("once", BETH)) == (True, ["once"])
        assert await asked.decides(ask("on_hardware")) == (False, ["hardware_required"])


# -- in a bundle ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[claims.x]\ntype='string'\nsource='authzen:body.id'\n", "no place in an AuthZEN request"),
        ("[claims.x]\ntype='string'\nsource='authzen:subject'\n", "no place in an AuthZEN request"),
        ("[claims.x]\ntype='bool'\nsource=['authzen:subject.id','auditor:a']\n", "no other source"),
        ("[authzen.subjects]\nx='Robot'\n", "authzen.subjects"),
        ("[authzen.verbs]\nx='invoke'\n", "unknown key `authzen.verbs`"),
    ],
)
def test_what_a_bundle_says_of_authzen_must_make_sense(
    tmp_path: Path, text: str, words: str
) -> None:
    head = 'name = "t"\nversion = "1"\n'
    assert words in " ".join(map(str, problems(write(tmp_path, manifest=head + text))))


async def test_a_candidate_is_asked_beside(tmp_path: Path) -> None:
    stricter = POLICIES + '@id("never") forbid (principal, action, resource);'
    candidate = Bundle.load(
        write(tmp_path / "c", stricter, manifest=MANIFEST, entities=json.dumps(ENTITIES))
    )
    shadow = Shadow(candidate, Engine(candidate))
    async with pdp(tmp_path, shadow=shadow) as asked:
        assert await asked.decides(ask("can_read_todos")) == (True, ["read"])
        assert asked.journal.records[-1].shadow == f"{candidate.digest.hex()[:16]} deny never"
    assert shadow.report()["different"] == 1
