"""Finders of secrets in folded texts: keys, tokens, passwords in addresses, private keys."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Final

import msgspec

from enforcement.detectors import patterns, validators
from enforcement.detectors.budget import Budget

# RFC 7515 section 4.1, RFC 7516 section 4.1.
_PARAMETER: Final = re.compile(
    rb'\s*\{\s*"(?:alg|enc|zip|typ|cty|kid|jku|jwk|x5u|x5c|x5t(?:#S256)?|crit|epk|apu|apv)"\s*:'
)
Found = Iterator[tuple[int, int]]  # start and end


def api_keys(text: bytes, budget: Budget) -> Found:
    """Keys with a known prefix, generated values that are called a key, signed tokens (JWT),
    passwords in addresses, and PEM private keys."""
    yield from _prefixed(text, budget)
    yield from _named(text, budget)
    yield from _tokens(text, budget)
    for match in patterns.IN_URL.finditer(text):
        budget.spend(match.start())
        start, end = match.span(1)
        if match.start(2) < 0 and end - start < patterns.LONG_PASSWORD:
            continue
        if not validators.placeholder(text[start:end].decode("latin-1")):
            yield start, end
    reached = 0
    for match in patterns.PEM.finditer(text):
        budget.spend(match.start())
        if match.start() >= reached:
            reached = _pem_end(text, match.start(), match.end())
            yield match.start(), reached


def _prefixed(text: bytes, budget: Budget) -> Found:
    reached = tries = 0
    for match in patterns.PREFIX.finditer(text):
        start, end = match.span()
        budget.spend(start)
        # `sk-sk-sk-…`: a run of key characters is looked at a few times, not once a prefix.
        if start < reached and tries >= patterns.MAX_TRIES:
            continue
        rule = patterns.KEY_RULES[text[start:end].decode()]
        stop = _token_end(text, end, rule)
        tries = tries + 1 if start < reached else 0
        reached = max(reached, stop)
        ended = stop == len(text) or text[stop] not in patterns.WORD
        if ended and _is_key(text[end:stop].decode("latin-1"), rule):
            yield start, stop


def _named(text: bytes, budget: Budget) -> Found:
    reached = tries = 0
    for match in patterns.NAMED_SECRET.finditer(text):
        start = match.end()
        budget.spend(match.start())
        if start < reached and tries >= patterns.MAX_TRIES:
            continue
        stop = _token_end(text, start, patterns.NAMED_RULE)
        tries = tries + 1 if start < reached else 0
        reached = max(reached, stop)
        token = text[start:stop].decode("latin-1").rstrip(".")
        if len(token) >= patterns.NAMED_RULE.shortest and validators.looks_random(token, bits=3.3):
            yield start, start + len(token)


def _tokens(text: bytes, budget: Budget) -> Found:
    """Signed tokens, from the beginning of their claims or a long header on."""
    for match in patterns.JWT.finditer(text):
        start, end = match.span()
        budget.spend(start)
        claims = match.start(1)
        if claims >= 0:
            found = _is_header(text[start:claims])
        else:
            found = end - start >= patterns.LONG_HEADER and _begins_header(text[start:end])
        if found:
            yield start, end


def _is_header(encoded: bytes) -> bool:
    """Whether this is a JOSE header (RFC 7515 section 4): an object with `alg`, in base64url."""
    if len(encoded) >= patterns.LONG_HEADER and _begins_header(encoded):
        return True
    if len(encoded) > patterns.MAX_TOKEN:
        return True
    try:
        raw = base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
        return b"alg" in raw and isinstance(msgspec.json.decode(raw), dict)
    except (binascii.Error, msgspec.MsgspecError, UnicodeDecodeError):
        return False


def _begins_header(encoded: bytes) -> bool:
    """Whether this begins like a JOSE header: with the name of one of its parameters."""
    return _PARAMETER.match(base64.urlsafe_b64decode(encoded[: patterns.LONG_HEADER])) is not None


def _token_end(text: bytes, start: int, rule: patterns.KeyRule) -> int:
    match = patterns.RUNS[rule.marks].match(text, start, start + patterns.MAX_TOKEN)
    return int(match.end()) if match else start


def _is_key(payload: str, rule: patterns.KeyRule) -> bool:
    if len(payload) < rule.shortest or (rule.exact and len(payload) != rule.shortest):
        return False
    if rule.upper and payload != payload.upper():
        return False
    return validators.looks_random(payload) if rule.random else validators.entropy(payload) >= 2.0


def _pem_end(text: bytes, start: int, body: int) -> int:
    """End of a private key's block: its END line, or where its characters stop."""
    block = text[body : start + patterns.MAX_PEM]
    inside = patterns.PEM_BODY.match(block)
    length = int(inside.end()) if inside else 0
    closing = patterns.PEM_END.search(block)
    if closing and closing.end() <= length:
        return body + int(closing.end())
    return body + len(block[:length].rstrip())
