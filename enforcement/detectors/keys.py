"""Finders of secrets: keys with a known prefix, values that are called a key, private keys."""

from __future__ import annotations

from collections.abc import Iterator

from enforcement.detectors import patterns, validators
from enforcement.detectors.budget import Budget

Found = Iterator[tuple[int, int]]  # start and end, in code points


def api_keys(text: str, budget: Budget) -> Found:
    """Keys with a known prefix, generated values that are called a key, and PEM private keys."""
    yield from _prefixed(text, budget)
    yield from _named(text, budget)
    reached = 0
    for match in patterns.PEM.finditer(text):
        budget.spend(match.start())
        if match.start() >= reached:
            reached = _pem_end(text, match.start(), match.end())
            yield match.start(), reached


def _prefixed(text: str, budget: Budget) -> Found:
    reached = tries = 0
    for match in patterns.PREFIX.finditer(text):
        start, end = match.span()
        budget.spend(start)
        # `sk-sk-sk-…`: a run of key characters is looked at a few times, not once a prefix.
        if start < reached and tries >= patterns.MAX_TRIES:
            continue
        rule = patterns.KEY_RULES[match.group()]
        stop = _token_end(text, end, rule)
        tries = tries + 1 if start < reached else 0
        reached = max(reached, stop)
        ended = stop == len(text) or not text[stop].isalnum()
        if ended and _is_key(text[end:stop], rule):
            yield start, stop


def _named(text: str, budget: Budget) -> Found:
    reached = tries = 0
    for match in patterns.NAMED_SECRET.finditer(text):
        start = match.end()
        budget.spend(match.start())
        if start < reached and tries >= patterns.MAX_TRIES:
            continue
        stop = _token_end(text, start, patterns.NAMED_RULE)
        tries = tries + 1 if start < reached else 0
        reached = max(reached, stop)
        token = text[start:stop].rstrip(".")
        if len(token) >= patterns.NAMED_RULE.shortest and validators.looks_random(token, bits=3.3):
            yield start, start + len(token)


def _token_end(text: str, start: int, rule: patterns.KeyRule) -> int:
    match = patterns.RUNS[rule.marks].match(text[start : start + patterns.MAX_TOKEN])
    return start + int(match.end()) if match else start


def _is_key(payload: str, rule: patterns.KeyRule) -> bool:
    if len(payload) < rule.shortest or (rule.exact and len(payload) != rule.shortest):
        return False
    if rule.upper and payload != payload.upper():
        return False
    return validators.looks_random(payload) if rule.random else validators.entropy(payload) >= 2.0


def _pem_end(text: str, start: int, body: int) -> int:
    """End of a private key's block: its END line, or where its characters stop."""
    block = text[body : start + patterns.MAX_PEM]
    inside = patterns.PEM_BODY.match(block)
    length = int(inside.end()) if inside else 0
    closing = patterns.PEM_END.search(block)
    if closing and closing.end() <= length:
        return body + int(closing.end())
    return body + len(block[:length].rstrip())
