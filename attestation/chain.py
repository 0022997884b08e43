"""The hash chain over decision records: order and content of everything that was decided.

h_0 = SHA-256(boot seed);  h_i = SHA-256(0x00 ‖ h_{i−1} ‖ record_i).  Sequence numbers start at 1;
the head at seq 0 is h_0. The 0x00 separates this use of the hash from Merkle nodes (RFC 9162
uses 0x00 for leaves, 0x01 for nodes), should a tree be built over the same records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from attestation.errors import VerificationError


def genesis(boot_seed: bytes) -> bytes:
    """The head before the first record of a boot. The seed is 32 bytes."""
    return hashlib.sha256(boot_seed).digest()


def boot_id(boot_seed: bytes) -> bytes:
    """The 16-byte public name of a boot, derived so that a passport (which carries the seed as
    `bootseed`) proves which journal is its own."""
    return hashlib.sha256(b"lucid.boot-id\x00" + boot_seed).digest()[:16]


def advance(head: bytes, record: bytes) -> bytes:
    """The head after one more record."""
    return hashlib.sha256(b"\x00" + head + record).digest()


def advance_all(head: bytes, records: Iterable[bytes]) -> bytes:
    """The head after these records, in order."""
    for record in records:
        head = advance(head, record)
    return head


def verify_segment(previous: bytes, records: Iterable[bytes], head: bytes) -> None:
    """Check that `records` lead from one head to the other.

    Raises:
        VerificationError: `chain.broken`; a record was changed, removed, added or reordered.
    """
    if advance_all(previous, records) != head:
        raise VerificationError(
            "chain.broken",
            "the records do not hash to the stated head: one was changed, removed or reordered",
        )
