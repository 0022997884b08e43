"""What the demo asks, and what must happen: at the client and on record."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from lucid.exchange import Reply, exchange

MAX_REPLY: Final = 8 * 1024 * 1024  # bytes
# Looks like a key and is none; assembled so that no scanner takes this file for a leak.
FAKE_KEY: Final = "sk-" + "aB3dE5fG7hJ9kL1mN2pQ4rS6" * 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One request and its expected end.

    Attributes:
        outcomes: the expected (phase, outcome) records, in order.
        visible: must be in what the client sees; `hidden`: must not be, in any byte.
    """

    name: str
    prompt: str
    status: int
    outcomes: tuple[tuple[str, str], ...]
    path: str = "/v1/chat/completions"
    stream: bool = False
    visible: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    header: str = ""


_SECRETS: Final = ("alice@example.com", "4111")
_PROCEED: Final = ("request", "proceed")

STEPS: Final = (
    Step(
        name="a plain question",
        prompt="What does confidential computing protect?",
        status=200,
        outcomes=(_PROCEED, ("response", "proceed")),
        visible=("Confidential computing",),
    ),
    Step(
        name="the same, streamed",
        prompt="What does confidential computing protect?",
        status=200,
        stream=True,
        outcomes=(_PROCEED, ("response", "proceed")),
        visible=("Confidential computing", "[DONE]"),
    ),
    Step(
        name="an e-mail address in the prompt",
        prompt="My address is bob@example.org. What is it protected by?",
        status=200,
        outcomes=(("request", "warn"), ("response", "proceed")),
        header="lucid-warning",
    ),
    Step(
        name="a reply with personal data",
        prompt="Whom can I contact?",
        status=200,
        outcomes=(_PROCEED, ("response", "redact")),
        visible=("[EMAIL]", "[CARD]", "Anything else?"),
        hidden=_SECRETS,
    ),
    Step(
        name="the same, streamed",
        prompt="Whom can I contact?",
        status=200,
        stream=True,
        outcomes=(_PROCEED, ("response", "redact")),
        visible=("[EMAIL]", "[CARD]", "Anything else?", "[DONE]"),
        hidden=_SECRETS,
    ),
    Step(
        name="an API key in the prompt",
        prompt=f"Please debug this: client = Client(key='{FAKE_KEY}')",
        status=403,
        outcomes=(("request", "deny"),),
        visible=("policy_denied", "decision_id"),
        hidden=(FAKE_KEY,),
    ),
    Step(
        name="a route that nobody guards",
        prompt="hello",
        path="/invocations",
        status=404,
        outcomes=(("request", "deny"),),
        visible=("unknown_route",),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A step that was run: what the client saw and what was wrong with it."""

    step: Step
    status: int
    problems: tuple[str, ...]


def text_of(reply: Reply, *, stream: bool) -> str:
    """What a person reads: the reply's bytes, and for a stream its deltas joined."""
    raw = reply.body.decode(errors="replace")
    if not stream or reply.status != 200:
        return raw
    joined = []
    for line in raw.splitlines():
        data = line.removeprefix("data: ")
        if data.startswith("{"):
            choices = json.loads(data).get("choices", [])
            joined += [choice.get("delta", {}).get("content") or "" for choice in choices]
    return raw + "\n" + "".join(joined)


def run_step(url: str, step: Step, *, model: str, exact: bool) -> Done:
    """Send one request and compare. Without `exact` (a real model) only the status, the hidden
    texts and the request's outcome are fixed.

    Raises:
        ExchangeError: the gateway gave no whole answer.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": step.prompt}],
        "max_tokens": 64,
        "stream": step.stream,
    }
    reply = exchange(
        "POST",
        f"{url}{step.path}",
        largest=MAX_REPLY,
        seconds=120,
        body=json.dumps(body).encode(),
        content_type="application/json",
    )
    text = text_of(reply, stream=step.stream)
    problems = []
    if reply.status != step.status:
        problems.append(f"status {reply.status}, expected {step.status}")
    if exact or step.status != 200:
        problems += [f"{word!r} is missing" for word in step.visible if word not in text]
    problems += ["a text that must be hidden is visible" for word in step.hidden if word in text]
    if step.header and step.header not in reply.headers:
        problems.append(f"no header {step.header}")
    return Done(step=step, status=reply.status, problems=tuple(problems))
