"""The sizes that each end of the stream keeps to, held against the other's."""

from __future__ import annotations

from agent.journal.reader import Boot
from agent.stream.grpc_bridge import MAX_MESSAGE
from agent.stream.protocol import MAX_BOOTS, MAX_HELLO, StreamProtocol
from agent.stream.session import BATCH_BYTES, BATCH_RECORDS
from attestation.records import MAX_RECORD_SIZE
from observer.config import Limits
from observer.hello import MAX_PASSPORT

LIMITS = Limits()
BESIDE = 8  # bytes of protobuf around each record


def hello(*passports: int) -> int:
    """The size of a Hello with passports of these sizes, the running boot's last."""
    boots = [
        Boot(
            boot_id=number.to_bytes(16, "big"),
            seed=bytes(32),
            passport=bytes(size),
            acked_seq=2**62,
            acked_head=bytes(32),
            pruned_seq=0,
            signed_seq=0,
            last_seq=2**63 - 1,
        )
        for number, size in enumerate(passports)
    ]
    made = StreamProtocol(agent_id="a" * 256, version="v" * 64, epoch=2**62, boots=boots)
    return len(made.hello())


def test_the_largest_hello_of_an_agent_is_one_that_the_observer_parses() -> None:
    for size in (1, 8 * 1024, 40 * 1024, MAX_PASSPORT // 2, MAX_PASSPORT):
        assert hello(*[size] * (MAX_BOOTS + 10)) <= LIMITS.hello_size, size
    assert hello(MAX_HELLO - MAX_PASSPORT, MAX_PASSPORT) <= LIMITS.hello_size


def test_the_largest_batch_of_an_agent_is_one_that_the_observer_takes() -> None:
    most = max(BATCH_BYTES, MAX_RECORD_SIZE) + BATCH_RECORDS * BESIDE + 1024
    assert most <= MAX_MESSAGE == LIMITS.message_size
    assert LIMITS.batch_records >= BATCH_RECORDS
    assert LIMITS.boots >= MAX_BOOTS
