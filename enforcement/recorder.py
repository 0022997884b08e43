"""What a door needs of the journal: a place for a decision, and to know when it is durable."""

from __future__ import annotations

from typing import Protocol

from attestation.records import DecisionRecord


class RecordError(Exception):
    """The decision cannot be recorded; the door must refuse (unless the operator chose to allow).

    The message says what failed; it never holds request text.
    """


class Recorder(Protocol):
    """The journal as the doors see it. Both calls are made on the trio thread."""

    def append(self, record: DecisionRecord) -> int:
        """Take the next sequence number for a decision. Cheap: no I/O, no thread.

        Raises:
            RecordError: the journal has failed or is full.
        """

    async def durable(self, seq: int) -> None:
        """Wait until every decision up to and including `seq` would survive a crash.

        Raises:
            RecordError: the commit failed.
        """
