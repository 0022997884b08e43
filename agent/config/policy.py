"""`[policy]` and `[[auditors]]`: what is enforced, and who gives claims for it."""

from __future__ import annotations

from typing import Annotated, Any, Self

import msgspec

from agent.config.base import Places, Seconds, Table
from enforcement.auditors.client import AuditorSettings


class PolicyTable(Table, frozen=True):
    """`[policy]`: what is enforced."""

    bundle: str = "/etc/lucid/bundle"
    trusted_keys: tuple[str, ...] = ()  # PEM files: whose bundle signatures count
    require_signature: bool = False  # True: a bundle without one is refused
    # How often the bundle's folder is looked at; 0: only at the start and on SIGHUP.
    watch_seconds: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 2.0
    push: bool = True  # whether `lucid policy push` may change the bundle
    shadow: str = ""  # a candidate that is asked beside the bundle, without effect

    def placed(self, places: Places) -> Self:
        """With absolute paths."""
        return msgspec.structs.replace(
            self,
            bundle=places.absolute(self.bundle),
            shadow=places.absolute(self.shadow),
            trusted_keys=tuple(places.absolute(path) for path in self.trusted_keys),
        )

    def problems(self) -> list[str]:
        """What does not fit together."""
        if self.require_signature and not self.trusted_keys:
            return ["policy.require_signature: needs policy.trusted_keys to check with"]
        return []


class AuditorTable(Table, frozen=True):
    """One `[[auditors]]`: a service that gives claims (`source = "auditor:NAME"` in the bundle).

    Times are in seconds. After `failures` in a row it is left alone for `pause_seconds`, and twice
    as long each time that it fails again, up to `longest_pause_seconds`.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    url: str  # http://ADDRESS:PORT, or unix:/path/of/socket
    deadline_seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 0.5
    start_seconds: Annotated[float, msgspec.Meta(ge=0, le=600)] = 30.0  # to be ready at start
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    text_characters: Annotated[int, msgspec.Meta(ge=1, le=64 * 1024 * 1024)] = 1024 * 1024
    answer_bytes: Annotated[int, msgspec.Meta(ge=1024, le=16 * 1024 * 1024)] = 256 * 1024
    failures: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    pause_seconds: Seconds = 1.0
    longest_pause_seconds: Seconds = 30.0
    # The contract's auditor_config, sent with every question.
    config: dict[str, Any] = msgspec.field(default_factory=dict)


def auditor_problems(tables: tuple[AuditorTable, ...]) -> list[str]:
    """Names that stand twice, and URLs that lead nowhere."""
    problems = []
    named: set[str] = set()
    for auditor in tables:
        if auditor.name in named:
            problems.append(f"auditors: two are called {auditor.name!r}")
        named.add(auditor.name)
        try:
            AuditorSettings(name=auditor.name, url=auditor.url).address  # noqa: B018 - only tried
        except ValueError as error:
            problems.append(f"auditors: {auditor.name}: url: {error}")
    return problems
