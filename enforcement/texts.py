"""JSON bodies as texts: every string that a person or a model could read, and a way to edit it.

Not a list of known fields but a walk over everything: a field that nobody thought of is text. Left
out are only identifiers (`model`, `role`, `id`, …), and only while they look like identifiers; and
per-token copies of text (`logprobs`, token ids), which are dropped when the text is edited.

A request must not carry what cannot be read here (token ids, images, audio): it is refused.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from attestation.records import TextDigest

MAX_DEPTH: Final = 64  # of a JSON body
MAX_DIGESTS: Final = 64  # texts named one by one in a record; the rest share one digest

# Values of these keys are identifiers, not text, as long as they look like identifiers.
_IDENTIFIERS: Final = frozenset(
    {
        "model", "role", "type", "object", "id", "finish_reason", "system_fingerprint",
        "tool_call_id", "tool_choice", "service_tier", "encoding_format", "reasoning_effort",
        "owned_by", "root", "parent", "detail", "verbosity", "truncation", "code", "param",
        "request_id",
    }
)  # fmt: skip
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.:/+-]{0,128}")
# Keys of the APIs themselves are not text either; any other key is (of a schema, of metadata).
_PLAIN_KEY: Final = re.compile(r"[a-z][a-z0-9_]{0,40}")
# The keys of every request and reply, so that the pattern need not be asked. No more than a cache.
_COMMON_KEYS: Final = frozenset(
    {
        "model", "messages", "role", "content", "id", "object", "created", "choices", "index",
        "message", "finish_reason", "usage", "prompt_tokens", "completion_tokens", "total_tokens",
        "stream", "temperature", "max_tokens", "text", "prompt", "logprobs", "type",
    }
)  # fmt: skip
assert all(_PLAIN_KEY.fullmatch(key) for key in _COMMON_KEYS)

# Per-token copies of the text of a reply.
TOKEN_COPIES: Final = frozenset(
    {"logprobs", "token_ids", "prompt_token_ids", "prompt_logprobs", "prompt_text"}
)
# Request fields that a model reads and that nothing here can.
_UNREADABLE: Final = frozenset(
    {
        "prompt_token_ids", "token_ids", "input_ids", "prompt_embeds", "input_embeds", "audio",
        "multi_modal_data", "mm_processor_kwargs", "input_audio", "image_url", "video_url",
        "image", "images", "file", "files", "input_image", "input_file",
    }
)  # fmt: skip
_TEXT_PARTS: Final = frozenset({"text", "refusal", "input_text", "output_text"})


class BodyError(Exception):
    """A body that is not understood. `code` is stable; the message repeats none of it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Text:
    """One text and where it stands: `holder[key]`. `is_key`: the text is the key itself."""

    value: str
    holder: Any
    key: Any
    is_key: bool = False

    def replace(self, value: str) -> None:
        """Put another text in its place.

        Raises:
            BodyError: the text is a key, which cannot be edited.
        """
        if self.is_key:
            raise BodyError("redaction_incomplete", "the name of a field cannot be masked")
        self.holder[self.key] = value
        self.value = value


def parse_json(body: bytes) -> Any:
    """Decode strictly: UTF-8, no duplicates of meaning, no NaN, bounded depth.

    Of duplicate keys the last counts, here and, because bodies are encoded again, upstream.

    Raises:
        BodyError: `invalid_json`.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BodyError("invalid_json", "the body is not valid JSON") from None


def encode_json(value: Any) -> bytes:
    """The body that goes on."""
    return msgspec.json.encode(value)


def collect(value: Any, *, skip: frozenset[str] = frozenset()) -> list[Text]:
    """Every text of a decoded body, in document order. Values of keys in `skip` are left out.

    Raises:
        BodyError: `invalid_json`: nested too deeply.
    """
    found: list[Text] = []
    if isinstance(value, (dict, list)):
        _walk(value, found, skip, 0)
    return found


def _walk(value: Any, found: list[Text], skip: frozenset[str], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BodyError("invalid_json", f"the body is nested deeper than {MAX_DEPTH}")
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, str):
                found.append(Text(item, value, index))
            elif isinstance(item, (dict, list)):
                _walk(item, found, skip, depth + 1)
        return
    for key, item in value.items():
        if key in skip:
            continue
        if key not in _COMMON_KEYS and _PLAIN_KEY.fullmatch(key) is None:
            found.append(Text(key, value, key, is_key=True))
        if isinstance(item, (dict, list)):
            _walk(item, found, skip, depth + 1)
        elif isinstance(item, str) and not _is_identifier(key, item):
            found.append(Text(item, value, key))


def _is_identifier(key: str, value: str) -> bool:
    return key in _IDENTIFIERS and _IDENTIFIER.fullmatch(value) is not None


def check_request(body: Any, kind: str) -> None:
    """Refuse a request that carries what cannot be read here.

    Raises:
        BodyError: `invalid_request`, `content_not_supported` or `token_ids_not_supported`.
    """
    if not isinstance(body, dict):
        raise BodyError("invalid_request", "the body is not a JSON object")
    if not isinstance(body.get("model", ""), str):
        raise BodyError("invalid_request", "model is not a string")
    if not isinstance(body.get("stream", False), (bool, type(None))):
        raise BodyError("invalid_request", "stream is not true or false")
    if set(body) & _UNREADABLE:
        raise BodyError("content_not_supported", "content other than text is not supported")
    if kind == "chat":
        _check_messages(body.get("messages"))
    elif kind == "completion":
        _check_prompt(body.get("prompt"))


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BodyError("invalid_request", "messages is not a list of objects")
    for message in messages:
        if set(message) & _UNREADABLE:
            raise BodyError("content_not_supported", "content other than text is not supported")
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                if isinstance(part, str):
                    continue
                if not isinstance(part, dict) or part.get("type") not in _TEXT_PARTS:
                    raise BodyError(
                        "content_not_supported", "content other than text is not supported"
                    )
        elif not isinstance(content, (str, type(None))):
            raise BodyError("invalid_request", "content is neither text nor a list of parts")


def _check_prompt(prompt: Any) -> None:
    if isinstance(prompt, str):
        return
    if isinstance(prompt, list) and all(isinstance(item, str) for item in prompt):
        return
    if isinstance(prompt, list):
        raise BodyError("token_ids_not_supported", "prompts are text; token ids are refused")
    raise BodyError("invalid_request", "prompt is neither a text nor a list of texts")


def drop_token_copies(reply: Any) -> None:
    """Remove per-token copies of edited text from a reply, in place."""
    holders = [reply, *reply.get("choices", [])] if isinstance(reply, dict) else []
    for holder in holders:
        if isinstance(holder, dict):
            for key in TOKEN_COPIES & set(holder):
                holder[key] = None


def digests(texts: list[str], salt: bytes) -> tuple[TextDigest, ...]:
    """Salted digests for the record; beyond MAX_DIGESTS - 1 the rest share one."""
    encoded = [text.encode() for text in texts]
    single = encoded if len(encoded) <= MAX_DIGESTS else encoded[: MAX_DIGESTS - 1]
    out = [
        TextDigest(sha256=hashlib.sha256(salt + data).digest(), size=len(data)) for data in single
    ]
    if len(single) < len(encoded):
        rest = encoded[len(single) :]
        joined = hashlib.sha256(salt)
        for data in rest:
            joined.update(hashlib.sha256(salt + data).digest())
        out.append(TextDigest(sha256=joined.digest(), size=sum(map(len, rest))))
    return tuple(out)
