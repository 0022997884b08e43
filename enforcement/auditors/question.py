"""What an auditor is sent (`enforcement.auditors.contract`): a question, encoded once for all."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec

from enforcement.auditing import Question
from enforcement.policy.vocabulary import is_unicode

SEPARATOR: Final = "\n"

_encode: Final = msgspec.json.Encoder().encode
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


class Outgoing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A question as it is sent: the parts that are the same for every auditor, encoded once.

    Attributes:
        starts: for each text of the question's phase, where it begins in its part.
        length: code points of that part.
        size: code points of all parts.
        before, after: what stands around an auditor's configuration.
    """

    part: Literal["input", "output"]
    starts: tuple[int, ...]
    length: int
    size: int
    before: bytes
    after: bytes

    def body(self, config: bytes) -> bytes:
        """The request's body for one auditor; `config`: its `auditor_config` as JSON."""
        return b"%b%b%b" % (self.before, config, self.after)


def outgoing(question: Question) -> Outgoing:
    """Encode a question."""
    texts = question.input if question.output is None else question.output
    starts, place = [], 0
    for text in texts:
        starts.append(place)
        place += len(text) + len(SEPARATOR)
    given = _joined(question.input)
    size = len(given)
    data: dict[str, Any] = {"input": given}
    if question.output is not None:
        data["output"] = written = _joined(question.output)
        size += len(written)
    kind, name = question.principal
    data["metadata"] = {
        "model_id": _encodable(question.model),
        "session_id": question.request_id,
        "user_id": _encodable(f"{kind}::{name}"),
    }
    # The configuration of each auditor stands at the very end, so that the rest is made once.
    message = {
        "data": data,
        "phase": question.phase.value,
        "lucid_context": {
            "trace_id": question.trace_id,
            "agent_id": question.agent_id,
            "workspace_id": "",
        },
    }
    return Outgoing(
        part="input" if question.output is None else "output",
        starts=tuple(starts),
        length=max(place - len(SEPARATOR), 0),
        size=size,
        before=_encode(message)[:-2] + b',"auditor_config":',
        after=b"}}",
    )


def _joined(texts: tuple[str, ...]) -> str:
    return _encodable(texts[0] if len(texts) == 1 else SEPARATOR.join(texts))


def _encodable(text: str) -> str:
    """Lone surrogates have no UTF-8 form; what stands for them has the same length."""
    return text if is_unicode(text) else _SURROGATES.sub("\ufffd", text)
