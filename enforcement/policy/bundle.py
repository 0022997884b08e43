"""A policy bundle: policies, schema, claim vocabulary and entities under one digest.

`Bundle.load` reads a folder (layout: `bundle_files`; `bundle.toml`:
`manifest`; annotations: `annotations`) and refuses it unless
everything in it is understood and every policy validates against the schema generated from the
vocabulary. It finds all problems, not only the first.

Phases. A policy takes part in both phases unless `@phase` says otherwise; in a phase it can read
only the claims that the vocabulary gives in that phase, and it is not evaluated outside its phases.
So a policy that reads a claim of the reply alone must say `@phase("response")`, and is refused
without it.

Sources. `builtin` claims come from the detectors, `auditor:<name>` claims from auditors, whose
addresses are the agent's configuration. A required claim that one of its sources does not give
denies a request that a policy reading it applies to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from enforcement.detectors import DETECTORS
from enforcement.outcome import Phase
from enforcement.policy import entities_file
from enforcement.policy.annotations import PolicyInfo, nearest, understand
from enforcement.policy.bundle_files import LIMITS, bundle_digest, read_files
from enforcement.policy.bundle_signature import NOBODY, Trust, check_signature
from enforcement.policy.entities_file import read_entities
from enforcement.policy.hidden import hidden_problems
from enforcement.policy.manifest import AuthzenTable, Manifest, StreamTable, parse_manifest
from enforcement.policy.manifest_toml import FILE
from enforcement.policy.policies import Schema
from enforcement.policy.policy_source import PolicySource, PolicyTooDeepError, parse_policies
from enforcement.policy.problems import BundleError, Problem
from enforcement.policy.reads import named
from enforcement.policy.schema import (
    ENTITY_TYPES,
    FRAME,
    NAMESPACE,
    PRINCIPALS,
    RESOURCES,
    validation_schema,
)
from enforcement.policy.vocabulary import Vocabulary

__all__ = ["Bundle", "BundleError", "Problem"]

# Cedar's validator says the same once for each action; the policy has another name there.
_PREFIX: Final = "for policy `policy0`, "
_ACTION: Final = re.compile(r' in context for Lucid::Action::"[a-z_]+"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle that may be enforced.

    Attributes:
        digest: SHA-256 over its files (`bundle_files.bundle_digest`), 32 bytes.
        anonymous: clients that show nothing are let in.
        detectors: labels of the built-in detectors that are on.
        auditors: names of the auditors that give claims, and the labels that each marks in texts.
        authzen: what the names in AuthZEN requests mean.
        policies: by id, in the order of files and of the policies in them.
        entities: Cedar's JSON form, checked against the schema.
        groups: ids of the groups that policies or entities name. No other can change a decision.
        reads_platform: whether some policy asks for something of the platform.
        files: what it was read from, by path.
        signer: thumbprint of the trusted key that signed it; None where nothing was checked.
    """

    name: str
    version: str
    digest: bytes
    anonymous: bool
    vocabulary: Vocabulary
    stream: StreamTable
    detectors: frozenset[str]
    auditors: Mapping[str, frozenset[str]]
    authzen: AuthzenTable
    policies: Mapping[str, PolicyInfo]
    entities: str
    groups: frozenset[str]
    reads_platform: bool
    files: Mapping[str, bytes]
    signer: bytes | None = None

    def gives(self, phase: Phase) -> frozenset[str]:
        """Names of the claims that policies can read in one phase."""
        return self.vocabulary.names_of_phase(phase)

    @classmethod
    def load(cls, path: Path, *, trust: Trust = NOBODY) -> Self:
        """Read and check a bundle folder.

        Parsing and validation release the interpreter lock, so a reload may run in a thread.

        Raises:
            BundleError: with every problem that was found.
        """
        return cls.from_files(read_files(path), trust=trust)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, trust: Trust = NOBODY) -> Self:
        """Check a bundle's files, by their paths in it (`read_files`, `check_files`).

        A signature that is demanded and not there, or wrong, refuses the bundle before anything in
        it is parsed.

        Raises:
            BundleError: with every problem that was found.
        """
        signer = check_signature(files, trust)
        manifest, problems = parse_manifest(files[FILE])
        policies, complaints = _policies(files, manifest)
        problems += complaints
        entities, complaints = _entities(files, manifest)
        problems += complaints
        for name, content in files.items():
            if name.startswith("policies/") or name in {FILE, entities_file.FILE}:
                problems += hidden_problems(name, content.decode("utf-8", "ignore"))
        if problems or manifest is None:
            raise BundleError(problems)
        return cls(
            name=manifest.name,
            version=manifest.version,
            digest=bundle_digest(files),
            anonymous=manifest.anonymous,
            vocabulary=manifest.vocabulary,
            stream=manifest.stream,
            detectors=manifest.detectors,
            auditors=MappingProxyType(dict(manifest.auditors)),
            authzen=manifest.authzen,
            policies=MappingProxyType(policies),
            entities=entities,
            groups=_groups(policies.values(), entities),
            reads_platform=any(map(_reads_platform, policies.values())),
            files=MappingProxyType(dict(files)),
            signer=signer,
        )


def _groups(policies: Iterable[PolicyInfo], entities: str) -> frozenset[str]:
    kind = f"{NAMESPACE}::Group"
    in_entities = named({"entities": json.loads(entities)}, kind)
    return in_entities.union(*(named(policy.est, kind) for policy in policies))


def _reads_platform(policy: PolicyInfo) -> bool:
    reads = policy.reads
    asked = any(name.partition(".")[0] == "platform" for name in reads.frame)
    return asked or reads.whole or policy.obliges.require_hardware


def _policies(
    files: Mapping[str, bytes], manifest: Manifest | None
) -> tuple[dict[str, PolicyInfo], list[Problem]]:
    policies: dict[str, PolicyInfo] = {}
    problems: list[Problem] = []
    validator = _Validator(manifest) if manifest else None
    labels = DETECTORS
    if manifest:
        labels = manifest.detectors.union(*manifest.auditors.values())
    count = 0
    for name, content in files.items():
        if not name.startswith("policies/"):
            continue
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            problems.append(
                Problem(file=name, message=f"not UTF-8 at byte {error.start}", rule="syntax")
            )
            continue
        sources, complaints = parse_policies(name, text)
        problems += complaints
        count += len(sources)
        if count > LIMITS.policies:
            problems.append(
                Problem(
                    file=name,
                    message=f"more than {LIMITS.policies} policies",
                    rule="bundle.limit",
                )
            )
            break
        for source in sources:
            if source.template:
                problems.append(
                    source.problem(
                        "a policy template, which nothing here could fill in",
                        "replace ?principal and ?resource by entities",
                        rule="template",
                    )
                )
                continue
            policy, complaints = understand(source, labels=labels)
            problems += complaints
            if policy is None:
                continue
            if policy.id in policies:
                first = policies[policy.id]
                problems.append(
                    source.problem(
                        f"the id {policy.id!r} is taken by {first.file}:{first.line}",
                        "give each policy its own @id",
                        rule="id.duplicate",
                    )
                )
                continue
            policies[policy.id] = policy
            if validator:
                problems += validator.check(source, policy)
    if not count and not problems:
        problems.append(
            Problem(
                file="policies",
                message="no policy",
                fix="without a permit all is denied",
                rule="file.missing",
            )
        )
    return policies, problems


class _Validator:
    """Checks policies against the schema of each of their phases."""

    def __init__(self, manifest: Manifest) -> None:
        self._vocabulary = manifest.vocabulary
        self._schemas = {
            phase: Schema(validation_schema(manifest.vocabulary, phase)) for phase in Phase
        }

    def check(self, source: PolicySource, policy: PolicyInfo) -> list[Problem]:
        problems: list[Problem] = []
        for name in policy.reads.of(self._vocabulary.names()):
            missing = policy.phases - self._vocabulary[name].phases
            if name in policy.reads.claims and missing:
                given = ",".join(sorted(self._vocabulary[name].phases))
                problems.append(
                    source.problem(
                        f"{policy.id} reads the claim {name}, which is given only in phase {given}",
                        f'add @phase("{given}")',
                        mention=f"`{name}`",
                        rule="claim.phase",
                    )
                )
        problems += self._unknown(source, policy)
        if problems:
            return problems
        messages: dict[str, None] = {}
        try:
            text = source.as_text()
        except PolicyTooDeepError as error:
            return [source.problem(f"{policy.id}: {error}", rule="policy.too_deep")]
        for phase in sorted(policy.phases):
            for message in self._schemas[phase].validate(text):
                messages.setdefault(_ACTION.sub("", message.removeprefix(_PREFIX)))
        return [self._problem(source, policy, message) for message in messages]

    def _unknown(self, source: PolicySource, policy: PolicyInfo) -> list[Problem]:
        """Names that nothing has. Cedar's validator takes `has` of such a name for false and does
        not look at what stands behind it, so a misspelt forbid would be valid and never apply."""
        reads, claims = policy.reads, frozenset(self._vocabulary.names())
        attributes = [
            ("attribute.unknown", "attribute", frozenset({name}), _attributes(policy.est, whom), "")
            for whom, name in sorted(reads.asked)
        ]
        declared = "claims are declared in bundle.toml"
        return [
            source.problem(
                f"{policy.id}: there is no {what} {name}",
                f"{hint}{nearest(name, known)}",
                mention=f"`{name}`",
                rule=rule,
            )
            for rule, what, names, known, hint in (
                ("claim.unknown", "claim", reads.claims, claims, f"{declared}; "),
                ("context.unknown", "context attribute", reads.frame, FRAME, ""),
                *attributes,
            )
            for name in sorted(names - known)
        ]

    def _problem(self, source: PolicySource, policy: PolicyInfo, message: str) -> Problem:
        fix, rule = "", "type"
        if "optional attribute `claims." in message:
            fix, rule = "guard it: context.claims has <name> && …", "claim.unguarded"
        if 'unrecognized action `Action::"' in message:
            fix, rule = f'write {NAMESPACE}::Action::"…"', "namespace"
        return source.problem(f"{policy.id}: {message}", fix, mention=message, rule=rule)


def _attributes(est: Mapping[str, Any], whom: str) -> frozenset[str]:
    """The attributes of whom a policy asks: a variable, as far as its scope says of which type it
    is, or an entity of that type."""
    match est.get(whom), whom:
        case (({"entity_type": str(kind)} | {"op": "==", "entity": {"type": str(kind)}}), _):
            kinds = {kind}
        case _, "principal":
            kinds = {f"{NAMESPACE}::{name}" for name in PRINCIPALS}
        case _, "resource":
            kinds = {f"{NAMESPACE}::{name}" for name in RESOURCES}
        case _:
            kinds = {whom}
    found = [ENTITY_TYPES.get(kind.removeprefix(f"{NAMESPACE}::")) for kind in kinds]
    return frozenset(name for kind in found if kind for name in kind.attributes)


def _entities(files: Mapping[str, bytes], manifest: Manifest | None) -> tuple[str, list[Problem]]:
    content = files.get(entities_file.FILE)
    if content is None:
        return "[]", []
    # The types of entities are the same in every schema; only claims differ.
    vocabulary = manifest.vocabulary if manifest else Vocabulary([])
    return read_entities(content, Schema(validation_schema(vocabulary, Phase.REQUEST)))
