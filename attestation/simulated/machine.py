"""What a simulated machine can do, of whichever vendor."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Protocol


class SimulatedMachine(Protocol):
    """A machine in software.

    Attributes:
        provider: the name that the kernel's provider has on a real one.
        directory: where its keys are, below the state directory; the root is `root.pem` there.
    """

    provider: ClassVar[str]
    directory: ClassVar[str]

    def outblob(self, report_data: bytes, privlevel: int) -> bytes:
        """A signed quote over 64 bytes. Raises ValueError: another length."""

    def auxblob(self) -> bytes | None:
        """What the host supplies with it; None: this kind of machine has no such thing."""

    def complete(self, supplied: bytes, now: datetime) -> bytes:
        """What proves a quote: what the host supplied, and what the vendor's service would add."""

    def root_certificate_pem(self) -> bytes:
        """The root, for verifiers that choose to accept simulated evidence."""
