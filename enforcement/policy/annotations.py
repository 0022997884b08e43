"""Annotations: what a policy obliges the door to do, and where it applies.

    @id("pii-in-reply")            required; the name in reasons; unique in the bundle
    @decision("deny|warn|redact")  on `forbid` only; `deny` where absent
    @redact("email,card")          the labels to mask; exactly with @decision("redact")
    @redact_with("mask|hash|drop") how; `mask` where absent; only with @decision("redact")
    @phase("request,response")     the phases the policy takes part in; both where absent
    @max_tokens("512")             obligations, see `obligations`: on a permit, or on
    @rate("10/minute")             a forbid that warns or redacts
    @require_hardware
    @description("…")              and `message`, `owner`, `severity`: for people

Any other annotation is refused: a misspelt obligation must not be a silent one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from enforcement.outcome import Outcome, Phase, Redaction
from enforcement.policy.obligations import NONE, Obligations, Rate, read_max_tokens, read_rate
from enforcement.policy.policy_source import Est, PolicySource
from enforcement.policy.problems import Problem
from enforcement.policy.reads import Reads, reads_of

FREE_TEXT: Final = frozenset({"description", "message", "owner", "severity"})
OBLIGATIONS: Final = frozenset({"max_tokens", "rate", "require_hardware"})
KNOWN: Final = (
    frozenset({"id", "decision", "redact", "redact_with", "phase"}) | OBLIGATIONS | FREE_TEXT
)
MAX_TEXT: Final = 1024  # characters of one annotation

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# Reasons that are not policy ids; `claim_missing:<name>` and its like cannot be ids (colon).
RESERVED_IDS: Final = frozenset(
    {"no_decision", "default_deny", "engine_error", "hardware_required"}
    | {"redaction_incomplete", "malformed_stream", "max_tokens_unsupported"}
)
_DECISIONS: Final = {"deny": Outcome.DENY, "warn": Outcome.WARN, "redact": Outcome.REDACT}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInfo:
    """A policy of a bundle, ready to be evaluated and explained.

    Attributes:
        outcome: what it means when this policy decides: PROCEED for a permit; DENY, WARN or
            REDACT for a forbid.
        redact: labels to mask; empty unless `outcome` is REDACT.
        redact_with: how.
        obliges: what must be done when it decides.
        actions: ids of the actions its scope can match; None for all.
    """

    id: str
    effect: str
    outcome: Outcome
    redact: frozenset[str]
    redact_with: Redaction
    obliges: Obligations
    phases: frozenset[Phase]
    actions: frozenset[str] | None
    reads: Reads
    file: str
    line: int
    column: int
    description: str
    est: Est

    def applies(self, action: str, phase: Phase) -> bool:
        """Whether this policy could decide: its phases and the action of its scope.

        Principal, resource and conditions are not looked at, so this errs to the side of yes.
        """
        return phase in self.phases and (self.actions is None or action in self.actions)


def understand(
    source: PolicySource, *, labels: Iterable[str]
) -> tuple[PolicyInfo | None, list[Problem]]:
    """Read a policy's annotations. `labels` are those that can be masked: of the detectors that are
    on, and of auditors.

    The policy is None where its id is missing or unusable.
    """
    problems = [_unknown(source, key) for key in source.annotations if key not in KNOWN]
    problems += [
        source.problem(f"@{key} is longer than {MAX_TEXT} characters", mention=f"`{key}`")
        for key, value in source.annotations.items()
        if len(value) > MAX_TEXT
    ]
    outcome, complaints = _outcome(source)
    problems += complaints
    redact, complaints = _redact(source, outcome, frozenset(labels))
    problems += complaints
    redact_with, complaints = _redact_with(source, outcome)
    problems += complaints
    phases, complaints = _phases(source)
    problems += complaints
    name, complaints = _id(source)
    problems += complaints
    obliges, complaints = _obligations(source, name or "", outcome, phases)
    problems += complaints
    if name is None:
        return None, problems
    return PolicyInfo(
        id=name,
        effect=source.effect,
        outcome=outcome,
        redact=redact,
        redact_with=redact_with,
        obliges=obliges,
        phases=phases,
        actions=_actions(source.est),
        reads=reads_of(source.est),
        file=source.file,
        line=source.line,
        column=source.column,
        description=source.annotations.get("description", ""),
        est=source.est,
    ), problems


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean …?` for the nearest known word, or the whole list."""
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(options) or 'none'}"


def _unknown(source: PolicySource, key: str) -> Problem:
    return source.problem(f"unknown annotation @{key}", nearest(key, KNOWN), mention=f"`{key}`")


def _id(source: PolicySource) -> tuple[str | None, list[Problem]]:
    name = source.annotations.get("id")
    if not name:
        return None, [source.problem("the policy has no name", 'put @id("a-short-name") before it')]
    if not _ID.fullmatch(name) or name in RESERVED_IDS:
        return None, [
            source.problem(
                f"{name!r} cannot be a policy's id",
                "use letters, digits, dots, dashes and underscores, at most 128, and none of "
                + ", ".join(sorted(RESERVED_IDS)),
                mention=f'`"{name}"`',
            )
        ]
    return name, []


def _outcome(source: PolicySource) -> tuple[Outcome, list[Problem]]:
    permit = source.effect == "permit"
    value = source.annotations.get("decision")
    if value is None:
        return (Outcome.PROCEED if permit else Outcome.DENY), []
    if permit:
        return Outcome.PROCEED, [
            source.problem(
                "@decision on a permit means nothing",
                "only a forbid can deny, warn or redact",
                mention="`decision`",
            )
        ]
    if value not in _DECISIONS:
        return Outcome.DENY, [
            source.problem(
                f'unknown @decision("{value}")', nearest(value, _DECISIONS), mention="`decision`"
            )
        ]
    return _DECISIONS[value], []


def _redact(
    source: PolicySource, outcome: Outcome, labels: frozenset[str]
) -> tuple[frozenset[str], list[Problem]]:
    value = source.annotations.get("redact")
    if outcome is not Outcome.REDACT:
        if value is None:
            return frozenset(), []
        return frozenset(), [
            source.problem(
                "@redact without effect", 'add @decision("redact") to a forbid', mention="`redact`"
            )
        ]
    wanted = _words(value or "")
    if not wanted:
        return frozenset(), [
            source.problem(
                '@decision("redact") does not say what to mask',
                'add e.g. @redact("email,card")',
                mention="`decision`",
            )
        ]
    return wanted, [
        source.problem(
            f"@redact names {label or 'an empty label'}, which no detector or auditor of this "
            "bundle can find",
            nearest(label, labels),
            mention="`redact`",
        )
        for label in sorted(wanted - labels)
    ]


def _redact_with(source: PolicySource, outcome: Outcome) -> tuple[Redaction, list[Problem]]:
    value = source.annotations.get("redact_with")
    if value is None:
        return Redaction.MASK, []
    if outcome is not Outcome.REDACT:
        return Redaction.MASK, [
            source.problem(
                "@redact_with without effect",
                'it says how; add @decision("redact") and @redact("…") to a forbid',
                mention="`redact_with`",
            )
        ]
    known = {method.value for method in Redaction}
    if value not in known:
        return Redaction.DROP, [
            source.problem(
                f'unknown @redact_with("{value}")', nearest(value, known), mention="`redact_with`"
            )
        ]
    return Redaction(value), []


def _obligations(
    source: PolicySource, name: str, outcome: Outcome, phases: frozenset[Phase]
) -> tuple[Obligations, list[Problem]]:
    given = {key: source.annotations[key] for key in OBLIGATIONS & set(source.annotations)}
    if not given:
        return NONE, []
    first = min(given)
    if outcome is Outcome.DENY:
        return NONE, [
            source.problem(
                f"@{first} on a policy that denies means nothing",
                "put it on a permit, or on a forbid that warns or redacts",
                mention=f"`{first}`",
            )
        ]
    problems = [
        source.problem(
            f"@{key} binds a request, and this policy is not asked about one",
            '@phase must name "request"',
            mention=f"`{key}`",
        )
        for key in sorted(given.keys() & {"max_tokens", "rate"})
        if Phase.REQUEST not in phases
    ]
    tokens: int | None = None
    rates: tuple[Rate, ...] = ()
    try:
        if "max_tokens" in given:
            tokens = read_max_tokens(given["max_tokens"])
    except ValueError as error:
        problems.append(source.problem(str(error), mention="`max_tokens`"))
    try:
        if "rate" in given:
            rates = (read_rate(given["rate"], name),)
    except ValueError as error:
        problems.append(source.problem(str(error), mention="`rate`"))
    if given.get("require_hardware"):
        problems.append(
            source.problem(
                "@require_hardware takes no value",
                "without the annotation nothing is required",
                mention="`require_hardware`",
            )
        )
    return Obligations(
        max_tokens=tokens, rates=rates, require_hardware="require_hardware" in given
    ), problems


def _phases(source: PolicySource) -> tuple[frozenset[Phase], list[Problem]]:
    value = source.annotations.get("phase")
    if value is None:
        return frozenset(Phase), []
    words, known = _words(value), {phase.value for phase in Phase}
    problems = [
        source.problem(f'unknown @phase("{word}")', nearest(word, known), mention="`phase`")
        for word in sorted(words - known)
    ]
    if not words:
        problems.append(
            source.problem("@phase names no phase", nearest("", known), mention="`phase`")
        )
    return frozenset(Phase(word) for word in words & known), problems


def _words(value: str) -> frozenset[str]:
    return frozenset(word.strip() for word in value.split(",")) if value.strip() else frozenset()


def _actions(est: Est) -> frozenset[str] | None:
    """Ids of the actions a scope can match; None (any) for every form not understood."""
    match est.get("action"):
        case {"op": "==", "entity": {"id": str(name)}}:
            return frozenset({name})
        case {"op": "in", "entities": list(entities)}:
            return frozenset(str(entity["id"]) for entity in entities)
        case _:
            return None
