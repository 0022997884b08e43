"""Checkpoints: when the head of the chain is signed, and of which boots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from agent.journal.store import JournalStore
from agent.journal.turn import Checkpoint
from attestation.checkpoint import sign_checkpoint

CHECKPOINT_RECORDS: Final = 1_000
CHECKPOINT_SECONDS: Final = 1.0


class Signer:
    """Signs the running boot's head every CHECKPOINT_SECONDS or CHECKPOINT_RECORDS, and once the
    ends of earlier boots that their own keys did not sign.

    Attributes:
        seq: the last checkpoint of the running boot is at this seq, or later.
    """

    def __init__(self, store: JournalStore, wall: Callable[[], int]) -> None:
        self._store = store
        self._wall = wall
        self.seq = 0
        self._key: ec.EllipticCurvePrivateKey | None = None
        self._recovering = True  # earlier boots may have an end that nobody has signed
        self._time = float("-inf")

    def use(self, key: ec.EllipticCurvePrivateKey) -> None:
        """Sign with this key from now on, and at the next turn."""
        self._key = key
        self._time = float("-inf")

    def due(self, seq: int, now: float, *, asked: bool) -> ec.EllipticCurvePrivateKey | None:
        """The key to sign with at `seq`; None: there is nothing to sign yet, or no key.

        Args:
            asked: even if it is not time yet.
        """
        moved = seq - self.seq
        due = asked or moved >= CHECKPOINT_RECORDS or now - self._time >= CHECKPOINT_SECONDS
        return self._key if due and (moved or self._recovering) else None

    def sign(self, key: ec.EllipticCurvePrivateKey, seq: int, head: bytes) -> list[Checkpoint]:
        """The checkpoints to write. Blocking; in the writer's thread.

        Raises:
            sqlite3.Error: earlier boots cannot be looked up.
        """
        made = []
        if self._recovering:
            made = [
                self._checkpoint(key, boot_id, end.seq, end.head)
                for boot_id, end in self._store.unsigned_boots()
            ]
        if seq > self.seq:
            made.append(self._checkpoint(key, self._store.boot_id, seq, head))
        return made

    def _checkpoint(
        self, key: ec.EllipticCurvePrivateKey, boot_id: bytes, seq: int, head: bytes
    ) -> Checkpoint:
        cose = sign_checkpoint(key, boot_id=boot_id, seq=seq, head=head, wall_ns=self._wall())
        own = self._store.boot_id
        recovered_by = b"" if boot_id == own else own
        return Checkpoint(boot_id=boot_id, seq=seq, cose=cose, recovered_by=recovered_by)

    def written(self, seq: int, now: float) -> None:
        """What was signed at `seq` is durable."""
        self._recovering = False
        self.seq, self._time = seq, now
