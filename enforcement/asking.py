"""The one place where auditors are awaited: look, ask, decide (`enforcement.auditing`)."""

from __future__ import annotations

from enforcement.admission import ExchangeLike, GuardLike
from enforcement.auditing import Question
from enforcement.ruling import Ruling


async def request(exchange: ExchangeLike, body: bytes) -> Ruling:
    """`exchange.request`, with what the auditors say."""
    question = exchange.look_at_request(body)
    audit = None if question is None else await question.auditors.ask(question)
    return exchange.request(body, audit)


async def response(
    exchange: ExchangeLike, *, status: int, content_type: str, body: bytes
) -> Ruling:
    """`exchange.response`, with what the auditors say."""
    question = exchange.look_at_response(status=status, content_type=content_type, body=body)
    audit = None if question is None else await question.auditors.ask(question)
    return exchange.response(status=status, content_type=content_type, body=body, audit=audit)


async def stream(guard: GuardLike, question: Question) -> bytes:
    """Answer the guard's question; gives what may leave then."""
    return guard.answer(await question.auditors.ask(question))
