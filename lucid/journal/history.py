"""One boot of a journal, verified record by record in the order of its chain. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from attestation import chain
from attestation.errors import UncheckableError, VerificationError
from attestation.history import Signed, Walk, decode_placed, verify_head
from attestation.records import Placed, decode_record
from lucid.journal.boots import Boot, Vouched

MAX_POLICIES: Final = 64  # that are told apart in one boot
MAX_TEXT: Final = 256  # characters of a policy's name


@dataclass(slots=True, kw_only=True)
class Found:
    """What verification found of one boot. Only what was verified is counted.

    Attributes:
        pruned: records up to here are not in the file, or kept for their head alone.
        last_seq: its end in the file.
        first_ns, last_ns: earliest and latest wall time of a record.
        clock_steps: how often the wall clock went back between two records.
        policies: by the bundle's digest: name, version, records. At most MAX_POLICIES.
        other_policies: records by further bundles.
        under_passport: records that name a passport which was verified here.
        signed_seq: a signature that was verified covers everything up to here.
        signed_by: whose.
        unchecked: checkpoints by a key that no passport here has.
        recovered_by: the boot whose key signed the end.
    """

    boot: Boot
    pruned: int = 0
    last_seq: int = 0
    records: int = 0
    first_ns: int = 0
    last_ns: int = 0
    clock_steps: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    policies: dict[bytes, tuple[str, str, int]] = field(default_factory=dict)
    other_policies: int = 0
    under_passport: int = 0
    checkpoints: int = 0
    unchecked: int = 0
    signed_seq: int = 0
    signed_by: str = ""
    recovered_by: bytes = b""

    @property
    def unsigned(self) -> int:
        """Records that hang together, and that nobody signed."""
        return self.last_seq - max(self.signed_seq, self.pruned)


class History:
    """Verifies one boot: `record` for each, `checkpoint` after its record, then `finish`.

    Each raises AttestationError. Attributes:
        agent_id: whose records these are; None until a record says.
        next_seq: where it stands.
    """

    def __init__(self, boot: Boot, *, agent_id: str | None, bundle_digests: Collection[bytes]):
        row = boot.row
        self.agent_id = agent_id
        self.found = Found(boot=boot, pruned=row.pruned_seq)
        self._row = row
        self._bundle_digests = bundle_digests
        self._passports = {vouched.passport_id: vouched for vouched in boot.vouched}
        self._wall_ns = self._boot_ns = 0
        self._recovered_seq: int | None = None

        genesis = chain.genesis(row.seed)
        if chain.boot_id(row.seed) != row.boot_id:
            raise VerificationError("boot.seed", "the boot id is not the one its seed gives")
        if row.acked_seq < row.pruned_seq or (row.acked_seq == 0 and row.acked_head != genesis):
            raise VerificationError(
                "journal.acknowledged", "its notes of what the Observer has contradict each other"
            )
        passports = dict.fromkeys((vouched.signed for vouched in boot.vouched), False)
        demanded = dict.fromkeys(boot.expected, True)
        self._waiting = sorted((passports | demanded).items(), key=lambda item: item[0].seq)
        self._walk: Walk | None = None
        if row.pruned_seq == 0:
            self._walk = Walk(0, genesis)
        elif row.pruned_seq == row.acked_seq:
            # The note is not signed. What follows is signed, and hashes with this head alone.
            self._walk = Walk(row.acked_seq, row.acked_head)
        self._settle()

    @property
    def next_seq(self) -> int:
        return self._row.pruned_seq + 1 if self._walk is None else self._walk.seq + 1

    def record(self, seq: int, wall_ns: int, head: bytes, data: bytes) -> None:
        """The next record, with what the file says of it."""
        if self._walk is None:
            self._begin(seq, head, data)
        else:
            self._walk.step(seq, head, data)
            self._count(self._decoded(seq, wall_ns, data))
        if seq == self._row.acked_seq and head != self._row.acked_head:
            raise VerificationError(
                "journal.acknowledged",
                f"the agent noted that the Observer has head {self._row.acked_head.hex()[:16]}…"
                f" here; the records lead to {head.hex()[:16]}…",
            )
        self._settle()

    def _begin(self, seq: int, head: bytes, data: bytes) -> None:
        """The last of what was pruned stays for its head, and nothing says that it is unchanged:
        the head before it is gone."""
        if seq != self.next_seq:
            raise VerificationError(
                "chain.gap", f"record {self.next_seq} is expected, record {seq} is there"
            )
        self._decoded(seq, None, data)
        self._walk = Walk(seq, head)
        self.found.pruned = seq

    def _decoded(self, seq: int, wall_ns: int | None, data: bytes) -> Placed:
        if self.agent_id is None:
            self.agent_id = decode_record(data).agent
        placed = decode_placed(data, agent_id=self.agent_id, boot_id=self._row.boot_id, seq=seq)
        if wall_ns not in (None, placed.wall_ns):
            raise VerificationError(
                "record.column", "the time beside the record is not the record's own"
            )
        return placed

    def _count(self, placed: Placed) -> None:
        found, record = self.found, placed.record
        if placed.boot_ns < self._boot_ns:
            raise VerificationError(
                "record.boot_ns",
                f"{placed.boot_ns} ns since the machine's start, after {self._boot_ns}: that clock"
                " never goes back",
            )
        self._boot_ns = placed.boot_ns
        found.clock_steps += placed.wall_ns < self._wall_ns
        self._wall_ns = placed.wall_ns
        found.first_ns = min(found.first_ns, placed.wall_ns) if found.records else placed.wall_ns
        found.last_ns = max(found.last_ns, placed.wall_ns)
        found.records += 1
        found.outcomes[record.outcome] += 1
        name, version, digest = record.bundle
        if self._bundle_digests and digest not in self._bundle_digests:
            raise VerificationError(
                "record.bundle", f"decided by policy {digest.hex()}, which is not expected"
            )
        if digest in found.policies or len(found.policies) < MAX_POLICIES:
            count = found.policies.get(digest, ("", "", 0))[2]
            found.policies[digest] = (name[:MAX_TEXT], version[:MAX_TEXT], count + 1)
        else:
            found.other_policies += 1
        if (vouched := self._passports.get(record.passport)) is not None:
            _check_against(placed, vouched)
            found.under_passport += 1

    def _settle(self) -> None:
        """Hold what was signed, as far as the chain has come."""
        if self._walk is None:
            return
        seq, head = self._walk.seq, self._walk.head
        while self._waiting and self._waiting[0][0].seq <= seq:
            signed, demanded = self._waiting.pop(0)
            if signed.seq == seq:
                signed.hold(head)
                self._sign(seq, signed.by)
            elif demanded:
                raise UncheckableError(
                    "chain.pruned",
                    f"{signed.by} is of record {signed.seq}, which is no longer in this file",
                )

    def _sign(self, seq: int, by: str) -> None:
        if seq > self.found.signed_seq or not self.found.signed_by:
            self.found.signed_seq, self.found.signed_by = seq, by

    def checkpoint(self, cose: bytes, recovered_by: bytes, signer: Boot | None) -> None:
        """A checkpoint of the record that came last.

        Args:
            recovered_by: empty where it is by the boot's own key.
            signer: the boot whose key signed; None where it is not in the file.
        """
        assert self._walk is not None
        seq = self._walk.seq
        if recovered_by:
            self._recovered_seq, self.found.recovered_by = seq, recovered_by
            if signer is not None and signer.row.number <= self._row.number:
                raise VerificationError(
                    "checkpoint.signer", "the end of a boot is signed by a later one"
                )
        key = None if signer is None else signer.key
        if key is None:
            self.found.unchecked += 1
            return
        by = (
            f"boot {recovered_by.hex()}, which came after it"
            if recovered_by
            else "the boot's own key"
        )
        head = verify_head(cose, key, boot_id=self._row.boot_id, seq=seq).head
        Signed(seq=seq, head=head, by=by).hold(self._walk.head)
        self.found.checkpoints += 1
        # An agent decides nothing before its first passport: where none is left it was taken away,
        # and the word of a later boot must not stand in for it.
        if self._passports:
            self._sign(seq, by)

    def finish(self) -> Found:
        """There are no more records of this boot."""
        row, found = self._row, self.found
        if self._walk is None or (row.pruned_seq and self._walk.seq == row.pruned_seq):
            raise _cut(row.pruned_seq, "the file's own note of what was pruned", row.pruned_seq + 1)
        end = found.last_seq = self._walk.seq
        if self._waiting:
            signed = self._waiting[-1][0]
            raise _cut(end, signed.by, signed.seq)
        if max(row.acked_seq, row.signed_seq) > end:
            note = "the agent's note of what the Observer has"
            raise _cut(end, note, max(row.acked_seq, row.signed_seq))
        if self._recovered_seq not in (None, end):
            raise VerificationError(
                "chain.continued",
                f"boot {found.recovered_by.hex()} signed that it ended at record"
                f" {self._recovered_seq}; its records go on to {end}",
            )
        return found


def _cut(end: int, by: str, seq: int) -> VerificationError:
    return VerificationError(
        "chain.cut", f"the records end at {end}; by {by}, there was a record {seq}"
    )


def _check_against(placed: Placed, vouched: Vouched) -> None:
    """A record against the passport that it names: both took effect together."""
    record, name = placed.record, vouched.passport_id
    if placed.seq <= vouched.journal_seq:
        raise VerificationError(
            "record.passport",
            f"the record names {name}, which was issued after record {vouched.journal_seq}",
        )
    if record.bundle[2] != vouched.bundle_digest:
        raise VerificationError(
            "record.passport",
            f"decided by policy {record.bundle[2].hex()}; {name}, which it names, states"
            f" {vouched.bundle_digest.hex()}",
        )
    if record.platform is not None and record.platform[3] != vouched.simulated:
        raise VerificationError(
            "record.passport", f"the record says otherwise than {name} whether it is simulated"
        )
