"""A whole journal, verified: every boot, and how they hang together. One pass over the records.

The first fault ends it, with the boot and the record where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from attestation.errors import AttestationError, UncheckableError, VerificationError
from attestation.journal_format import BOOT_SPAN
from lucid.journal.boots import Boot, Expected, Vouched, check_owner, vouch
from lucid.journal.file import BootRow, CheckpointRow, JournalFile, RecordRow
from lucid.journal.history import Found, History
from lucid.passport_terms import Terms

MAX_BOOTS: Final = 16_384  # what is known of each stays in memory: some kilobytes
REPORT_EVERY: Final = 1_000  # records


class FaultError(AttestationError):
    """Another error, with the place in the journal where it is.

    Attributes:
        error: what is not so, or could not be checked.
        seq: the record; None where it is about the boot.
    """

    def __init__(self, error: AttestationError, row: BootRow, seq: int | None) -> None:
        place = "" if seq is None else f", record {seq}"
        text = f"boot {row.number} ({row.boot_id.hex()}){place}: {error}"
        super().__init__(error.code, text, remedy=error.remedy)
        self.error = error
        self.number, self.boot_id, self.seq = row.number, row.boot_id, seq


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What a caller believes, allows and expects.

    Attributes:
        now: the present; nothing is from later.
        bundle_digests: the policies that may have decided; none: any.
        heads, passports: what is known of boots from elsewhere.
    """

    terms: Terms
    now: datetime
    bundle_digests: Collection[bytes] = ()
    heads: Sequence[Expected] = ()
    passports: Sequence[Vouched] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A journal in which everything holds.

    Attributes:
        agent_id: empty where no record and no passport names one.
        missing: first and last number of boots that are not in the file.
        unrecorded: decisions without a record, by the agent's own count; nobody signed it.
    """

    agent_id: str
    boots: tuple[Found, ...]
    missing: tuple[tuple[int, int], ...]
    unrecorded: int

    @property
    def unsigned(self) -> int:
        """Records that nobody signed."""
        return sum(found.unsigned for found in self.boots)


def verify_journal(
    file: JournalFile, demands: Demands, progress: Callable[[int], None] = lambda _count: None
) -> Verified:
    """Verify everything. `progress` gets the count of records now and then.

    Raises:
        AttestationError: something about the file as a whole is not so, or cannot be checked.
        FaultError: the same, of a boot or a record.
    """
    counters = file.counters()
    boots, agent_id = _boots(file.boots(), demands)
    numbers = [boot.row.number for boot in boots]
    if counters["epoch"] != numbers[-1]:
        raise VerificationError(
            "journal.boots",
            f"{counters['epoch']} boots were begun, and the last one here is {numbers[-1]}",
        )
    pass_ = _Pass(boots, file.checkpoints(), agent_id, demands.bundle_digests)
    for count, (place, wall_ns, head, data) in enumerate(_located(file, pass_), start=1):
        pass_.record(place, wall_ns, head, data)
        if count % REPORT_EVERY == 0:
            progress(count)
    found = pass_.finish()
    return Verified(
        agent_id=pass_.agent_id or "",
        boots=found,
        missing=tuple(
            (before + 1, number - 1)
            for before, number in zip([0, *numbers], numbers, strict=False)
            if number > before + 1
        ),
        unrecorded=counters["unrecorded"],
    )


# -- whose boots these are ------------------------------------------------------------------------


def _boots(rows: Iterator[BootRow], demands: Demands) -> tuple[list[Boot], str | None]:
    agent_id: str | None = None
    known: set[bytes] = set()
    found: list[Boot] = []
    for row in rows:
        if len(found) == MAX_BOOTS:
            raise UncheckableError(
                "journal.boots", f"more than {MAX_BOOTS} boots: no agent comes to that"
            )
        with _blaming(row):
            boot = _boot(row, demands)
            for name in {row.boot_id, *(vouched.thumbprint for vouched in boot.vouched)}:
                if name in known:
                    raise VerificationError("boot.twice", "another boot here has its id or key")
                known.add(name)
            for vouched in boot.vouched:
                agent_id = agent_id or vouched.agent_id
                if vouched.agent_id != agent_id:
                    raise VerificationError(
                        "boot.agent",
                        f"{vouched.passport_id} is of agent {vouched.agent_id!r}, another one here"
                        f" of {agent_id!r}",
                    )
        found.append(boot)
    if not found:
        raise UncheckableError("journal.empty", "there is no boot in it: nothing to check")
    asked = [(head.boot_id, head.signed) for head in demands.heads]
    asked += [(passport.boot_id, passport.signed) for passport in demands.passports]
    for boot_id, signed in asked:
        if boot_id not in known:
            raise VerificationError(
                "journal.boot_missing",
                f"boot {boot_id.hex()} is not in it; by {signed.by} it came to record {signed.seq}",
            )
    return found, agent_id


def _boot(row: BootRow, demands: Demands) -> Boot:
    vouched: list[Vouched] = []
    if row.passport:
        vouched.append(
            vouch(
                row.passport,
                terms=demands.terms,
                now=demands.now,
                bundle_digests=demands.bundle_digests,
            )
        )
    given = [passport for passport in demands.passports if passport.boot_id == row.boot_id]
    for passport in given:
        if all(known.passport_id != passport.passport_id for known in vouched):
            vouched.append(passport)
    for passport in vouched:
        check_owner(row, passport, vouched[0])
    expected = [asked.signed for asked in demands.heads if asked.boot_id == row.boot_id]
    return Boot(
        row=replace(row, passport=b""),  # up to 256 KiB, of which nothing more is needed
        vouched=tuple(vouched),
        expected=(*expected, *(passport.signed for passport in given)),
    )


@contextmanager
def _blaming(row: BootRow, seq: int | None = None) -> Iterator[None]:
    try:
        yield
    except AttestationError as error:
        raise FaultError(error, row, seq) from None


# -- the records ----------------------------------------------------------------------------------


def _located(file: JournalFile, pass_: _Pass) -> Iterator[RecordRow]:
    """The records; a row that cannot be read is the one that would have come next."""
    try:
        yield from file.records()
    except AttestationError as error:
        raise FaultError(error, *pass_.place) from None


class _Pass:
    """Leads each record, and each checkpoint after it, to the history of its boot."""

    def __init__(
        self,
        boots: Sequence[Boot],
        checkpoints: Iterator[CheckpointRow],
        agent_id: str | None,
        bundle_digests: Collection[bytes],
    ) -> None:
        self.agent_id = agent_id
        self._by_id = {boot.row.boot_id: boot for boot in boots}
        self._left = iter(boots)
        self._checkpoints = checkpoints
        self._checkpoint = next(checkpoints, None)
        self._bundle_digests = bundle_digests
        self._found: list[Found] = []
        self._boot = next(self._left)
        self._history = self._begin()

    @property
    def place(self) -> tuple[BootRow, int]:
        """Where it stands: a boot, and the record that comes next."""
        return self._boot.row, self._history.next_seq

    def _begin(self) -> History:
        with _blaming(self._boot.row):
            return History(self._boot, agent_id=self.agent_id, bundle_digests=self._bundle_digests)

    def record(self, place: int, wall_ns: int, head: bytes, data: bytes) -> None:
        number, seq = divmod(place, BOOT_SPAN)
        while self._boot.row.number < number and self._next_boot():
            pass
        row, history = self._boot.row, self._history
        if row.number != number:
            raise VerificationError(
                "journal.boots", f"a record of boot number {number}, which is not in it"
            )
        try:
            history.record(seq, wall_ns, head, data)
            self.agent_id = history.agent_id
            while self._checkpoint is not None and self._checkpoint[0] <= place:
                self._take(self._checkpoint, place)
        except AttestationError as error:
            raise FaultError(error, row, min(seq, history.next_seq)) from None

    def _take(self, checkpoint: CheckpointRow, place: int) -> None:
        at, cose, recovered_by = checkpoint
        if at != place:
            number, seq = divmod(at, BOOT_SPAN)
            raise VerificationError(
                "checkpoint.place",
                f"a checkpoint is of record {seq} of boot number {number}, which is not in it",
            )
        signer = self._by_id.get(recovered_by) if recovered_by else self._boot
        self._history.checkpoint(cose, recovered_by, signer)
        self._checkpoint = next(self._checkpoints, None)

    def _next_boot(self) -> bool:
        row, history = self._boot.row, self._history
        with _blaming(row, history.next_seq):
            found = history.finish()
            if self._checkpoint is not None and self._checkpoint[0] < (row.number + 1) * BOOT_SPAN:
                seq = self._checkpoint[0] % BOOT_SPAN
                raise VerificationError(
                    "chain.cut",
                    f"the records end at {found.last_seq}; a checkpoint is of record {seq}",
                )
        self._found.append(found)
        boot = next(self._left, None)
        if boot is None:
            return False
        self._boot = boot
        self._history = self._begin()
        return True

    def finish(self) -> tuple[Found, ...]:
        while self._next_boot():
            pass
        if self._checkpoint is not None:
            raise VerificationError("checkpoint.place", "a checkpoint is of no boot in it")
        return tuple(self._found)
