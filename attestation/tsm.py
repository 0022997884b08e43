"""The interface of the kernel's configfs-tsm report tree, as a small protocol.

Source: Linux `Documentation/ABI/testing/configfs-tsm-report`. The kernel's tree and the simulated
one stand behind the same five operations, so every line of the real path runs against both.
Operations raise OSError with the kernel's errno.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

REPORT_DATA_SIZE: Final = 64  # bytes; both real providers require exactly this length
MAX_PRIVLEVEL: Final = 3  # the last VMPL of SEV-SNP
ENTRY_PREFIX: Final = "lucid-"  # the names of our entries begin so


class TsmTree(Protocol):
    """`/sys/kernel/config/tsm/report`, or something that behaves like it. Blocking."""

    def entries(self) -> list[str]:
        """Names of the entries that exist."""

    def mkdir(self, entry: str) -> None:
        """Make an entry. ENXIO: no provider. EEXIST: the name is taken."""

    def rmdir(self, entry: str) -> None:
        """Remove an entry with its attributes."""

    def write(self, entry: str, attribute: str, data: bytes) -> None:
        """One open, one write, one close. Binary attributes commit at close, without an error."""

    def read(self, entry: str, attribute: str) -> bytes:
        """One open, read to the end, close. ENOENT: this provider has no such attribute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What one transaction with the tree gave.

    Attributes:
        provider: the kernel's name, e.g. `sev_guest`, `tdx_guest`.
        outblob: report or quote, exactly as read.
        auxblob: certificate table (SEV-SNP); empty where the host supplied none.
    """

    provider: str
    outblob: bytes
    auxblob: bytes
