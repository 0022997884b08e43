"""Auditors: all that a bundle needs asked at once, and their claims merged.

`AuditorService` knows where auditors are (the agent's configuration) and keeps their connections,
from start to stop. `for_bundle` gives what a bundle's exchanges ask (`auditing.Auditors`): every
auditor that gives a claim of the phase, in parallel, each with its own deadline. Whoever fails is
named in the record, and its claims are missing: the policy then denies, unless they are optional.

`check` is asked before a bundle takes effect: an auditor that does not give what the bundle says it
gives is a mistake in the bundle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import trio

from attestation.records import ClaimValue
from enforcement.auditing import Audit, Question
from enforcement.auditors.answer import Said, read_answer
from enforcement.auditors.client import AuditorClient, AuditorSettings, Call
from enforcement.auditors.contract import AnswerError, read_health, read_vocabulary, shortfalls
from enforcement.auditors.question import Outgoing, outgoing
from enforcement.detectors import Span
from enforcement.http.wire import Watch
from enforcement.outcome import Phase
from enforcement.policy.annotations import nearest
from enforcement.policy.manifest_toml import FILE
from enforcement.policy.problems import BundleError, Problem
from enforcement.policy.vocabulary import Claim, Merge, Vocabulary

# Where one source is silent, an optional claim may rest on the others only by a rule under which
# more sources can make it stricter, never milder.
_STRICT: Final = frozenset({None, Merge.ANY, Merge.MAX, Merge.UNION})
_RETRY_SECONDS: Final = 0.5  # between two looks at an auditor that is not there yet


class NeedsAuditors(Protocol):
    """What is asked of a bundle."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Its claims."""

    @property
    def auditors(self) -> Mapping[str, frozenset[str]]:
        """The labels that each auditor marks, by its name."""


class AuditorService:
    """All auditors that the agent knows. `run` must run while anything is asked.

    Args:
        settings: one for each auditor; names are unique.

    Attributes:
        watch: of the auditors' sockets; runs as long as `run`, where there are any. A door that
            shares it is woken once for both.

    Raises:
        ValueError: a URL of no known form.
    """

    def __init__(self, settings: Sequence[AuditorSettings]) -> None:
        self.watch = Watch()
        self.clients = {of_one.name: AuditorClient(of_one, self.watch) for of_one in settings}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep connections until cancelled."""
        try:
            if not self.clients:  # nothing to sweep
                task_status.started()
                await trio.sleep_forever()
            async with trio.open_nursery() as nursery:
                for client in self.clients.values():
                    nursery.start_soon(client.run)
                await self.watch.run(task_status=task_status)
        finally:
            for client in self.clients.values():
                client.close()
            self.watch.close()

    def for_bundle(self, bundle: NeedsAuditors) -> BundleAuditors | None:
        """What the exchanges of a bundle ask; None where it needs no auditor.

        Raises:
            BundleError: it names an auditor that the agent does not know.
        """
        unknown = sorted(set(bundle.auditors) - set(self.clients))
        if unknown:
            raise BundleError(
                Problem(
                    file=FILE,
                    message=f"the agent knows no auditor {name!r}",
                    fix="add it to agent.toml as [[auditors]] with name and url; "
                    + nearest(name, self.clients),
                )
                for name in unknown
            )
        return BundleAuditors(self.clients, bundle) if bundle.auditors else None

    async def check(self, bundle: NeedsAuditors, *, wait: bool) -> list[str]:
        """Ask every auditor of a bundle what it gives.

        Args:
            wait: for auditors of required claims that are not ready, each as long as it may take.

        Returns:
            Warnings: auditors of optional claims alone that could not be asked.

        Raises:
            BundleError: a claim that its auditor does not give, or that nobody could be asked for.
        """
        self.for_bundle(bundle)
        problems: list[Problem] = []
        warnings: list[str] = []
        needed = {
            name
            for claim in map(bundle.vocabulary.__getitem__, bundle.vocabulary.names())
            for name in claim.auditors
            if not claim.optional
        }

        async def look(name: str) -> None:
            try:
                patience = self.clients[name].settings.start if wait and name in needed else 0.0
                found = await self._shortfalls(name, bundle.vocabulary, patience)
            except AnswerError as error:
                text = f"the auditor {name} cannot be asked what it gives ({error.status})"
                if name in needed:
                    url = self.clients[name].settings.url
                    problems.append(
                        Problem(file=FILE, message=text, fix=f"is it running at {url}?")
                    )
                else:
                    warnings.append(text)
                return
            problems.extend(
                Problem(
                    file=FILE,
                    message=f"the auditor {name} does not give the claim {claim}: it {what}",
                    fix="change the claim's source, type or phases, or the auditor",
                )
                for claim, what in found
            )

        async with trio.open_nursery() as nursery:
            for name in bundle.auditors:
                nursery.start_soon(look, name)
        if problems:
            raise BundleError(problems)
        return sorted(warnings)

    async def _shortfalls(
        self, name: str, vocabulary: Vocabulary, seconds: float
    ) -> list[tuple[str, str]]:
        client = self.clients[name]
        end = trio.current_time() + seconds
        while True:
            try:
                await client.get("/health", read_health)
                said = await client.get("/vocabulary", read_vocabulary)
            except AnswerError:
                if trio.current_time() >= end:
                    raise
                await trio.sleep(_RETRY_SECONDS)
            else:
                return shortfalls(name, vocabulary, said)


@dataclass(frozen=True, slots=True)
class _Member:
    """One auditor of one bundle in one phase: the claims that it gives, the labels it marks."""

    client: AuditorClient
    claims: Mapping[str, Claim]
    labels: frozenset[str]


class BundleAuditors:
    """What the exchanges of one bundle ask (`auditing.Auditors`)."""

    def __init__(self, clients: Mapping[str, AuditorClient], bundle: NeedsAuditors) -> None:
        self.labels = frozenset[str]().union(*bundle.auditors.values())
        self._members: dict[Phase, tuple[_Member, ...]] = {}
        self._claims: dict[Phase, tuple[Claim, ...]] = {}
        self._unasked: dict[Phase, frozenset[str]] = {}
        for phase in Phase:
            claims = bundle.vocabulary.of_phase(phase)
            members = []
            for name, labels in bundle.auditors.items():
                wanted = {claim.name: claim for claim in claims if name in claim.auditors}
                if wanted:
                    members.append(_Member(clients[name], wanted, labels))
            self._members[phase] = tuple(members)
            self._claims[phase] = tuple(claim for claim in claims if claim.auditors)
            marked = frozenset[str]().union(*(member.labels for member in members))
            self._unasked[phase] = self.labels - marked

    def gives(self, phase: Phase, /) -> bool:
        """Whether any auditor has something to say in this phase."""
        return bool(self._members[phase])

    async def ask(self, question: Question, /) -> Audit:
        """Ask all at once. Never raises: what failed is in the answer. Bounded in time."""
        members = self._members[question.phase]
        sent = outgoing(question)
        if len(members) == 1:
            return self._audit(question, [await _hear(members[0], sent, _begin(members[0], sent))])
        answers: list[_Answer | None] = [None] * len(members)

        async def hear(place: int, begun: Call | str) -> None:
            answers[place] = await _hear(members[place], sent, begun)

        async with trio.open_nursery() as nursery:
            # All questions leave before anybody waits. A call that has begun has its task at once.
            for place in range(1, len(members)):
                nursery.start_soon(hear, place, _begin(members[place], sent))
            await hear(0, _begin(members[0], sent))
        return self._audit(question, [answer for answer in answers if answer is not None])

    def _audit(self, question: Question, answers: Sequence[_Answer]) -> Audit:
        only = answers[0]
        if (
            len(answers) == 1
            and only.said is not None
            and len(only.said.claims) == len(self._claims[question.phase])
        ):
            # One auditor that gave every claim that is wanted: nothing to merge, nothing missing.
            name = only.member.client.settings.name
            return Audit(
                claims=only.said.claims,
                spans=_spans(question, (only.said,)) if only.said.spans else (),
                unmaskable=self._unasked[question.phase],
                status={name: only.status},
                latency_us={name: only.spent},
            )
        said = {
            answer.member.client.settings.name: answer.said
            for answer in answers
            if answer.said is not None
        }
        claims: dict[str, ClaimValue] = {}
        missing = set()
        for claim in self._claims[question.phase]:
            values = [
                said[name].claims[claim.name]
                for name in claim.auditors
                if name in said and claim.name in said[name].claims
            ]
            if len(values) < len(claim.auditors) and not (
                claim.optional and values and claim.merge in _STRICT
            ):
                if not claim.optional:
                    missing.add(claim.name)
                continue
            value = values[0]
            for other in values[1:]:
                value = claim.merged(value, other)
            claims[claim.name] = value
        unmaskable = self._unasked[question.phase].union(
            *(answer.member.labels for answer in answers if answer.said is None)
        )
        return Audit(
            claims=claims,
            missing=frozenset(missing),
            spans=_spans(question, said.values()),
            unmaskable=unmaskable,
            status={answer.member.client.settings.name: answer.status for answer in answers},
            latency_us={answer.member.client.settings.name: answer.spent for answer in answers},
        )


class _Answer(msgspec.Struct, frozen=True, gc=False):
    """What came of asking one auditor; `said` None: nothing that counts. `spent`: microseconds."""

    member: _Member
    said: Said | None
    status: str
    spent: int


def _begin(member: _Member, sent: Outgoing) -> Call | str:
    """A call that has begun, or the status of one that is not made."""
    settings = member.client.settings
    if sent.size > settings.text_characters:
        return "text_too_large"
    try:
        return member.client.begin(sent.body(settings.config))
    except AnswerError as error:
        return error.status


async def _hear(member: _Member, sent: Outgoing, begun: Call | str) -> _Answer:
    if isinstance(begun, str):
        return _Answer(member, None, begun, 0)
    said: Said | None = None
    try:
        said = await member.client.finish(
            begun,
            lambda body: read_answer(body, wanted=member.claims, sent=sent, labels=member.labels),
        )
        status = f"ok {said.note}" if said.note else "ok"
    except AnswerError as error:
        status = error.status
    return _Answer(member, said, status, int((trio.current_time() - begun.start) * 1_000_000))


def _spans(question: Question, answers: Iterable[Said]) -> tuple[tuple[Span, ...], ...]:
    texts = question.input if question.output is None else question.output
    found: list[list[Span]] = [[] for _ in texts]
    for said in answers:
        for place, spans in said.spans.items():
            found[place] += spans
    return tuple([tuple(spans) for spans in found])
