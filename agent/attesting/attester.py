"""Proves what the agent runs on: quote, verification, passport. Owns the boot's key.

The key is made in memory at start and is never written; a new boot has a new key, seed and
journal chain. A passport leaves this module only after it verified by the same code that a relying
party runs, with the same trust anchors.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from agent.attesting.platform import TeePlatform
from agent.boottime import boot_ns, wall_ns
from agent.metrics.histogram import SLOW, Histogram
from agent.quotes.quoting import Quotes
from attestation.checks import Check, CheckStatus
from attestation.claims_buffer import ClaimsBuffer, report_data
from attestation.cose import thumbprint
from attestation.errors import UncheckableError, VerificationError
from attestation.evidence import Completed, Evidence, Format
from attestation.examination import Appraisal
from attestation.hardware import (
    HardwarePolicy,
    list_window_of,
    revocation_of,
    verify_evidence,
    window_of,
)
from attestation.passport import (
    HardwareClaims,
    PassportClaims,
    issue_passport,
    results_of,
    tenant_salt,
)
from attestation.tsm import Quote
from attestation.verifier import verify_passport
from enforcement.outcome import Platform

Complete = Callable[[Format, bytes, bytes], Awaitable[Completed]]
SWNAME: Final = "lucid-agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What a passport states beside the hardware: policy, journal and counters at one moment."""

    bundle: tuple[str, str, bytes]
    journal_head: bytes
    journal_seq: int
    counters: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A verified passport of our own, with its end on the boot-time clock (nanoseconds).

    Attributes:
        collateral_begins, collateral_ends: when all that vouches for the platform (certificates,
            signed documents, lists that are needed) is valid; on the wall clock.
        list_window: when AMD's revocation list is, where one was checked; None: none was, or it is
            no platform of AMD's.
        revocation: how the check of the vendor's revocation list ended, and why it did not run.
        cut_short: it ends with what vouches for the platform, before its own lifetime is over.
    """

    token: bytes
    passport_id: str
    platform: Platform
    appraisal: Appraisal
    issued_ns: int
    expires_ns: int
    collateral_begins: datetime
    collateral_ends: datetime
    list_window: tuple[datetime, datetime] | None
    revocation: Check
    cut_short: bool

    def seconds_left(self, now_ns: int) -> float:
        """Seconds until the passport ends; negative when it has."""
        return (self.expires_ns - now_ns) / 1e9


class Attester:
    """Issues passports for one boot. Called one after another (`agent.quotes.line`).

    Attributes:
        hardware_policies: what the platform has to be, by its kind; None: nothing is demanded.
        complete: what of certificates a quote needs, given its kind, the quote and what the host
            supplied with it; None: what the host supplied has to be enough.
        measure: called in a thread with the bundle's digest before each quote.
        quotes: where quotes come from; counts what fails.
        quote_seconds: how long quotes took that came, with the tries before them.
        complete_seconds: how long it took to complete what the host supplied.
    """

    def __init__(
        self,
        *,
        platform: TeePlatform,
        agent_id: str,
        issuer: str,
        tenant: str,
        lifetime: int,
        version: str,
        quote_seconds: float,
        hardware_policies: Mapping[Format, HardwarePolicy] | None = None,
        wall: Callable[[], int] = wall_ns,
        boot: Callable[[], int] = boot_ns,
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.boot_seed = os.urandom(32)
        self._platform = platform
        self._agent_id = agent_id
        self._issuer = issuer
        self._tenant = tenant
        self._lifetime = lifetime
        self._version = version
        self._patience = quote_seconds
        self.hardware_policies = hardware_policies
        self.quote_seconds = Histogram(SLOW)
        self.quotes = Quotes(platform.fetch, seconds=quote_seconds, took=self.quote_seconds.observe)
        self._wall = wall
        self._boot = boot
        self.complete_seconds = Histogram(SLOW)
        self.complete: Complete | None = None
        self.measure: Callable[[bytes], None] | None = None

    async def issue(
        self, stated: Stated, *, nonce: bytes | None = None, audience: str | None = None
    ) -> Issued:
        """Fetch a fresh quote over `stated` (and a verifier's nonce) and issue a passport.

        Raises:
            QuoteError: no quote in time; `final` says whether trying again can help.
            AttestationError: our own evidence does not verify, is not what the hardware policy
                demands, or what proves it was not to be had in time; no passport leaves.
            FatalError: the TEE is not the one that was asked for.
        """
        if self.measure is not None:
            await trio.to_thread.run_sync(self.measure, stated.bundle[2])
        buffer = self._buffer(stated, nonce)
        quote = await self.quotes.fetch(report_data(buffer))
        with trio.move_on_after(self._patience):
            kind = self._platform.evidence_of(quote.provider)
            completed = Completed(certificates=quote.auxblob)
            if self.complete is not None:
                began = trio.current_time()
                completed = await self.complete(kind, quote.outblob, quote.auxblob)
                self.complete_seconds.observe(trio.current_time() - began)
            work = functools.partial(
                self._issue,
                stated,
                buffer,
                quote,
                completed,
                nonce=nonce,
                audience=audience,
            )
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True)
        raise UncheckableError(
            "passport.timeout",
            f"what proves the quote was not to be had within {self._patience:g} seconds",
            remedy="look at the way to the vendor's service ([kds], [pcs])",
        )

    def _buffer(self, stated: Stated, nonce: bytes | None) -> bytes:
        return ClaimsBuffer(
            purpose="passport" if nonce is None else "challenge",
            key_thumbprint=thumbprint(self.key.public_key()),
            nonce=nonce or b"",
            boot_seed=self.boot_seed,
            bundle_digest=stated.bundle[2],
            journal_head=stated.journal_head,
        ).encode()

    def _policy_for(self, kind: Format) -> HardwarePolicy | None:
        if self.hardware_policies is None:
            return None
        try:
            return self.hardware_policies[kind]
        except KeyError:
            raise VerificationError(
                "passport.hardware_policy",
                f"the hardware policy demands nothing of {kind}, which this platform is",
                remedy="give [tee] hardware_policy a file for this kind of hardware",
            ) from None

    def _issue(
        self,
        stated: Stated,
        buffer: bytes,
        quote: Quote,
        completed: Completed,
        *,
        nonce: bytes | None,
        audience: str | None,
    ) -> Issued:
        tee = self._platform.tee_of(quote.provider)
        # The clocks are read after the quote: a slow quote must not shorten a passport's life
        # on one clock and not on the other.
        wall, issued_ns = self._wall(), self._boot()
        issued_at = wall // 1_000_000_000
        now = datetime.fromtimestamp(issued_at, UTC)
        evidence = Evidence(
            format=self._platform.evidence_of(quote.provider),
            quote=quote.outblob,
            certificates=completed.certificates,
            claims_buffer=buffer,
        )
        verified = verify_evidence(
            evidence,
            simulated=self._platform.simulated,
            anchors=self._platform.anchors,
            now=now,
        )
        salt = tenant_salt(self._tenant)
        policy = self._policy_for(evidence.format)
        begins, ends = window_of(verified, policy)
        wanted, allowed = issued_at + self._lifetime, int(ends.timestamp())
        claims = PassportClaims(
            simulated=self._platform.simulated,
            issuer=self._issuer,
            subject=self._agent_id,
            audience=audience,
            nonce=nonce,
            issued_at=issued_at,
            expires_at=min(wanted, allowed),
            passport_id=os.urandom(16),
            boot_seed=self.boot_seed,
            hardware=HardwareClaims.of(verified, salt),
            swname=SWNAME,
            swversion=self._version,
            bundle=stated.bundle,
            journal_head=stated.journal_head,
            journal_seq=stated.journal_seq,
            tenant_salt=salt,
            counters=stated.counters,
            results=results_of(verified),
        )
        token = issue_passport(key=self.key, evidence=evidence, claims=claims)
        appraisal = verify_passport(
            token,
            now=now,
            anchors=self._platform.anchors,
            allow_simulated=self._platform.simulated,
            nonce=nonce,
            audience=audience,
            hardware_policy=policy,
        )
        return Issued(
            token=token,
            passport_id=appraisal.passport_id,
            platform=Platform(
                tee_type=tee.value,
                hardware_attested=appraisal.hardware_attested,
                tcb_status=appraisal.tcb_status,
                simulated=self._platform.simulated,
            ),
            appraisal=appraisal,
            issued_ns=issued_ns,
            expires_ns=issued_ns + claims.expires_at * 1_000_000_000 - wall,
            collateral_begins=begins,
            collateral_ends=ends,
            list_window=list_window_of(verified),
            revocation=_with_reason(revocation_of(verified), completed.unlisted),
            cut_short=allowed < wanted,
        )


def _with_reason(check: Check, unlisted: str) -> Check:
    """A check that did not run, with why there was nothing to look at."""
    if check.status is not CheckStatus.SKIPPED or not unlisted:
        return check
    return check._replace(detail=f"{check.detail}: {unlisted}")
