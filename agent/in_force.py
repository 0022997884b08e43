"""What decides now: a policy bundle, and the passport that states it. They take effect together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

from agent.attesting.attester import Attester, Issued, Stated
from agent.journal import Journal
from agent.life.lifecycle import Part, Trouble, Weight
from agent.policy.policies import Policies
from agent.quotes.line import QuoteLine
from attestation.errors import UncheckableError
from enforcement.auditors.panel import AuditorService
from enforcement.policy.rates import RateLimiter
from enforcement.snapshot import BundleView, Snapshot

OR_STOP: Final = "if the bundle in force must not decide any longer, stop the agent"


class InForce:
    """Issues passports over bundles, and keeps what the newest one put in force.

    Args:
        counters: decisions so far, by outcome.
        changed: another bundle came into force.

    Attributes:
        snapshot: what exchanges are decided with; None until the first passport.
    """

    def __init__(
        self,
        *,
        agent_id: str,
        attester: Attester,
        policies: Policies,
        journal: Journal,
        quote_line: QuoteLine,
        auditors: AuditorService,
        counters: Callable[[], dict[str, int]],
        changed: Callable[[], None],
    ) -> None:
        self._agent_id = agent_id
        self._attester = attester
        self._policies = policies
        self._journal = journal
        self._quote_line = quote_line
        self._auditors = auditors
        self._counters = counters
        self._changed = changed
        self._rates = RateLimiter()
        self.snapshot: Snapshot | None = None

    def current(self) -> Snapshot:
        """What decides. Only asked for while the gate is open."""
        assert self.snapshot is not None, "the gate is closed until the first passport"
        return self.snapshot

    async def issue(self) -> Issued:
        """A passport over the newest bundle, which decides from then on.

        Raises:
            QuoteError, AttestationError, FatalError: as `Attester.issue`; nothing has changed.
        """
        async with self._quote_line.renewal():
            loaded = self._policies.newest
            bundle, engine = loaded.bundle, loaded.engine
            issued = await self._attester.issue(self.stated(bundle))
        another = self.snapshot is None or self.snapshot.bundle.digest != bundle.digest
        self.snapshot = Snapshot(
            engine=engine,
            bundle=bundle,
            passport_id=issued.passport_id,
            platform=issued.platform,
            agent_id=self._agent_id,
            auditors=self._auditors.for_bundle(bundle),
            rates=self._rates,
            shadow=self._policies.candidate.shadow,
        )
        self._journal.set_signer(self._attester.key, issued.token)
        await self._policies.came_into_force(loaded)
        if another:
            self._changed()
        return issued

    async def challenge(self, nonce: bytes, audience: str | None) -> bytes:
        """A fresh passport over a verifier's nonce. It replaces nothing, and renewals come first.

        Raises:
            ChallengeRefusedError: too many come; as `Attester.issue`.
        """
        self._attester.quotes.refuse_if_dead()
        async with self._quote_line.challenge():
            bundle = self.current().bundle
            if self._attester.measure and bundle.digest != self._policies.newest.bundle.digest:
                # The register has the newest bundle as its last: to measure this one again, and
                # that one again after it, would fill it with what never came into force.
                raise UncheckableError(
                    "challenge.bundle_waits",
                    "a newer bundle was measured and is not in force yet",
                    remedy="ask again when it is: lucid-agent status says what it waits for",
                )
            stated = self.stated(bundle)
            return (await self._attester.issue(stated, nonce=nonce, audience=audience)).token

    def stated(self, bundle: BundleView) -> Stated:
        """What a passport issued now says beside the hardware."""
        return Stated(
            bundle=(bundle.name, bundle.version, bundle.digest),
            journal_head=self._journal.head,
            journal_seq=self._journal.durable_seq,
            counters=self._counters(),
        )

    def shadow_changed(self) -> None:
        """Another candidate is asked beside the bundle, or none."""
        if self.snapshot is not None:
            shadow = self._policies.candidate.shadow
            self.snapshot = dataclasses.replace(self.snapshot, shadow=shadow)

    def trouble(self) -> Trouble | None:
        """What the life cycle is told: a bundle waits for ever, or was refused."""
        newest, snapshot = self._policies.newest.bundle, self.snapshot
        dead = self._attester.quotes.dead
        if dead is None or snapshot is None or snapshot.bundle.digest == newest.digest:
            return self._policies.trouble()
        return Trouble(
            part=Part.POLICY,
            weight=Weight.CONCERN,
            code="policy.waits",
            reason=f"bundle {newest.name} {newest.version} ({newest.digest.hex()[:16]}…) cannot"
            " come into force: no passport can state it",
            next=f"{dead.remedy}; {OR_STOP}",
        )
