"""A scripted agent: boots with chained records, and the stream it speaks, honest or not."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from attestation import chain
from attestation.checkpoint import sign_checkpoint, sign_stream_proof
from attestation.records import Coverage, DecisionRecord, TextDigest, encode_record
from attestation.wire import observer_pb2 as pb

METHOD = "/lucid.observer.v1.Observer/Stream"
DEADLINE = 10.0  # seconds; for a test that would otherwise hang
START_NS = 1_790_000_000 * 10**9

A_RECORD = DecisionRecord(
    decision_id="dec-000000000000000000000001",
    request_id="req-1",
    trace_id="0" * 32,
    phase="request",
    route="openai.chat",
    model="llama-3",
    principal=("User", "alice"),
    action="invoke",
    resource=("Service", "model"),
    outcome="proceed",
    reasons=(),
    bundle=("demo", "1", bytes(32)),
    passport="pass-00",
    claims={"pii_found": False, "pii_types": ()},
    texts=(TextDigest(sha256=bytes(32), size=12),),
    coverage=Coverage(seen=12, released=12, windows=0, fields=1, complete=True),
    latency_us={"detect": 41, "policy": 27},
)


@dataclass
class FakeBoot:
    """One boot of an agent: key, seed and a chain of records. `heads[n]` is the head at seq n."""

    agent_id: str = "agent-1"
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    seed: bytes = field(default_factory=lambda: os.urandom(32))
    passport: bytes = b""
    records: list[bytes] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.boot_id = chain.boot_id(self.seed)
        self.heads = [chain.genesis(self.seed)]

    @property
    def last_seq(self) -> int:
        return len(self.records)

    def encode(
        self, seq: int, *, agent: str | None = None, boot: bytes | None = None, **changes: Any
    ) -> bytes:
        """A record as it would stand at `seq`."""
        changes.setdefault("decision_id", f"dec-{self.boot_id.hex()[:8]}{seq:016x}")
        return encode_record(
            msgspec.structs.replace(A_RECORD, **changes),
            agent=agent or self.agent_id,
            boot=boot or self.boot_id,
            seq=seq,
            wall_ns=START_NS + seq * 10**9,
            boot_ns=seq * 10**9,
        )

    def append(self, record: bytes) -> None:
        self.records.append(record)
        self.heads.append(chain.advance(self.heads[-1], record))

    def decide(self, count: int = 1, **changes: Any) -> None:
        """Make some decisions."""
        for _ in range(count):
            self.append(self.encode(self.last_seq + 1, **changes))

    def offer(self, *, unacked: int = 1, last: int | None = None) -> pb.Boot:
        return pb.Boot(
            boot_id=self.boot_id,
            boot_seed=self.seed,
            passport=self.passport,
            first_unacked_seq=unacked,
            head=self.heads[unacked - 1],
            last_seq=self.last_seq if last is None else last,
        )

    def batch(self, first: int, last: int | None = None, **changes: Any) -> pb.AgentMessage:
        """The records first to last; `changes` are lies about them."""
        last = self.last_seq if last is None else last
        fields: dict[str, Any] = {
            "boot_id": self.boot_id,
            "first_seq": first,
            "last_seq": last,
            "previous_head": self.heads[first - 1],
            "head": self.heads[last],
            "records": self.records[first - 1 : last],
        } | changes
        return pb.AgentMessage(batch=pb.Batch(**fields))

    def checkpoint(
        self,
        seq: int | None = None,
        *,
        head: bytes | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        boot_id: bytes | None = None,
        recovered_by: bytes = b"",
        wall_ns: int = START_NS,
    ) -> pb.AgentMessage:
        seq = self.last_seq if seq is None else seq
        cose = sign_checkpoint(
            key or self.key,
            boot_id=boot_id or self.boot_id,
            seq=seq,
            head=head or self.heads[seq],
            wall_ns=wall_ns,
        )
        return pb.AgentMessage(
            checkpoint=pb.Checkpoint(boot_id=self.boot_id, cose=cose, recovered_by=recovered_by)
        )

    def hello(
        self,
        *earlier: FakeBoot,
        epoch: int = 1,
        boots: Sequence[pb.Boot] | None = None,
        **changes: Any,
    ) -> pb.AgentMessage:
        fields: dict[str, Any] = {
            "protocol": 1,
            "agent_id": self.agent_id,
            "boot_id": self.boot_id,
            "epoch": epoch,
            "boots": boots or [boot.offer() for boot in (*earlier, self)],
            "version": "0.1.0",
        } | changes
        return pb.AgentMessage(hello=pb.Hello(**fields))

    def proof(
        self, challenge: bytes, *, key: ec.EllipticCurvePrivateKey | None = None
    ) -> pb.AgentMessage:
        cose = sign_stream_proof(key or self.key, challenge=challenge, boot_id=self.boot_id)
        return pb.AgentMessage(proof=pb.Proof(cose=cose))


class FakeStream:
    """One stream to an Observer."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def send(self, message: pb.AgentMessage | bytes) -> None:
        data = message if isinstance(message, bytes) else message.SerializeToString()
        await self._call.write(data)

    async def receive(self) -> pb.ObserverMessage:
        async with asyncio.timeout(DEADLINE):
            data = await self._call.read()
        assert data is not grpc.aio.EOF, "the Observer ended the stream"
        return pb.ObserverMessage.FromString(data)

    async def ask(self, message: pb.AgentMessage | bytes) -> pb.ObserverMessage:
        await self.send(message)
        return await self.receive()

    async def acked(self, message: pb.AgentMessage) -> pb.Ack:
        answer = await self.ask(message)
        assert answer.WhichOneof("message") == "ack", answer
        return answer.ack

    async def refused(self, message: pb.AgentMessage | bytes) -> pb.Nack:
        """Send; the Observer must answer with a Nack and end the stream."""
        answer = await self.ask(message)
        assert answer.WhichOneof("message") == "nack", answer
        await self.ended()
        return answer.nack

    async def ended(self) -> None:
        async with asyncio.timeout(DEADLINE):
            assert await self._call.read() is grpc.aio.EOF

    async def open(self, boot: FakeBoot, *earlier: FakeBoot, epoch: int = 1) -> pb.Welcome:
        """Hello, Welcome, Proof."""
        answer = await self.ask(boot.hello(*earlier, epoch=epoch))
        assert answer.WhichOneof("message") == "welcome", answer
        await self.send(boot.proof(answer.welcome.challenge))
        return answer.welcome

    async def settled_at(self, boot: FakeBoot, seq: int) -> None:
        """Wait until everything sent before is dealt with: the record at `seq` is sent again."""
        await self.acked(boot.batch(seq, seq))


@contextlib.asynccontextmanager
async def connect(address: object) -> AsyncIterator[FakeStream]:
    """A stream to the Observer at `address`; cut off at the end of the block."""
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(str(address), options=options) as channel:
        call: Any = channel.stream_stream(METHOD)()
        try:
            yield FakeStream(call)
        finally:
            call.cancel()
