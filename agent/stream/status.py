"""What is known of the stream to the Observer, and where that is; without gRPC, which costs memory
that an agent without an Observer does not have to spend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the Observer is, and how the way there is protected."""

    address: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(slots=True)
class StreamStatus:
    """For metrics, `status` and the life cycle. Times are trio's.

    Attributes:
        durable: the last durable seq of this boot.
        problem: why there is no stream; empty while there is one.
        alarms: ends of streams, and boots set aside, that a person has to look at; alarm: the last.
        set_aside: earlier boots that the Observer did not take on this stream; in no other count.
        refused: the code of the alarm that ended the last stream; empty where none did.
        streams: how many the Observer accepted.
        acks: acknowledgements whose head was ours.
        acked_seq: of this boot.
        older: durable records of earlier boots that are not acknowledged.
    """

    durable: Callable[[], int]
    connected: bool = False
    problem: str = "not connected yet"
    alarms: int = 0
    alarm: str = ""
    refused: str = ""
    streams: int = 0
    acks: int = 0
    acked_seq: int = 0
    older: int = 0
    set_aside: int = 0
    connected_since: float = math.inf
    away_since: float = math.inf
    next_try: float = 0.0

    @property
    def lag(self) -> int:
        """How many decisions are durable here and not acknowledged there."""
        return self.older + self.durable() - self.acked_seq

    def connected_now(self, now: float) -> None:
        """The Observer accepted a stream."""
        self.connected, self.problem, self.connected_since = True, "", now
        self.streams += 1

    def disconnected(self, now: float) -> float:
        """There is no stream (any more); gives the seconds that it lived."""
        if not self.connected:
            return 0.0
        self.connected, self.away_since = False, now
        return now - self.connected_since

    def as_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "connected": self.connected,
            "problem": self.problem,
            "alarms": self.alarms,
            "alarm": self.alarm,
            "streams": self.streams,
            "set_aside": self.set_aside,
            "acked_seq": self.acked_seq,
            "lag": self.lag,
        }
