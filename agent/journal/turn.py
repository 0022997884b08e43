"""What one transaction of the journal writes. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Row = tuple[int, int, bytes, bytes]  # place, wall ns, head, record


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place in a boot's chain and the head there."""

    seq: int
    head: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A signed checkpoint of a boot; `recovered_by` is empty where its own key signed."""

    boot_id: bytes
    seq: int
    cose: bytes
    recovered_by: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one transaction writes.

    Attributes:
        acknowledged: by boot, how far the Observer has committed.
        signed: by boot, where the Observer has a checkpoint.
        unrecorded: decisions that got no place since the last turn.
    """

    rows: Sequence[Row] = ()
    acknowledged: Mapping[bytes, Mark] = field(default_factory=dict)
    signed: Mapping[bytes, int] = field(default_factory=dict)
    passport: bytes | None = None
    unrecorded: int = 0

    @property
    def only_rows(self) -> bool:
        """Whether there is nothing to write but records."""
        return not (self.acknowledged or self.signed or self.passport or self.unrecorded)

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.rows) or not self.only_rows
