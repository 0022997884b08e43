from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentMessage(_message.Message):
    __slots__ = ("hello", "batch", "checkpoint", "heartbeat", "proof", "passport")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    PASSPORT_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    batch: Batch
    checkpoint: Checkpoint
    heartbeat: Heartbeat
    proof: Proof
    passport: Passport
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., batch: _Optional[_Union[Batch, _Mapping]] = ..., checkpoint: _Optional[_Union[Checkpoint, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., proof: _Optional[_Union[Proof, _Mapping]] = ..., passport: _Optional[_Union[Passport, _Mapping]] = ...) -> None: ...

class ObserverMessage(_message.Message):
    __slots__ = ("welcome", "ack", "nack", "credit")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    NACK_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    ack: Ack
    nack: Nack
    credit: Credit
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., nack: _Optional[_Union[Nack, _Mapping]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "agent_id", "boot_id", "epoch", "boots", "version", "left_out")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BOOTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    agent_id: str
    boot_id: bytes
    epoch: int
    boots: _containers.RepeatedCompositeFieldContainer[Boot]
    version: str
    left_out: int
    def __init__(self, protocol: _Optional[int] = ..., agent_id: _Optional[str] = ..., boot_id: _Optional[bytes] = ..., epoch: _Optional[int] = ..., boots: _Optional[_Iterable[_Union[Boot, _Mapping]]] = ..., version: _Optional[str] = ..., left_out: _Optional[int] = ...) -> None: ...

class Boot(_message.Message):
    __slots__ = ("boot_id", "boot_seed", "passport", "first_unacked_seq", "head", "last_seq")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_SEED_FIELD_NUMBER: _ClassVar[int]
    PASSPORT_FIELD_NUMBER: _ClassVar[int]
    FIRST_UNACKED_SEQ_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    boot_id: bytes
    boot_seed: bytes
    passport: bytes
    first_unacked_seq: int
    head: bytes
    last_seq: int
    def __init__(self, boot_id: _Optional[bytes] = ..., boot_seed: _Optional[bytes] = ..., passport: _Optional[bytes] = ..., first_unacked_seq: _Optional[int] = ..., head: _Optional[bytes] = ..., last_seq: _Optional[int] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("boot_id", "first_seq", "last_seq", "previous_head", "head", "records")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_HEAD_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    boot_id: bytes
    first_seq: int
    last_seq: int
    previous_head: bytes
    head: bytes
    records: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, boot_id: _Optional[bytes] = ..., first_seq: _Optional[int] = ..., last_seq: _Optional[int] = ..., previous_head: _Optional[bytes] = ..., head: _Optional[bytes] = ..., records: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("boot_id", "cose", "recovered_by")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    COSE_FIELD_NUMBER: _ClassVar[int]
    RECOVERED_BY_FIELD_NUMBER: _ClassVar[int]
    boot_id: bytes
    cose: bytes
    recovered_by: bytes
    def __init__(self, boot_id: _Optional[bytes] = ..., cose: _Optional[bytes] = ..., recovered_by: _Optional[bytes] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("durable_seq", "state")
    DURABLE_SEQ_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    durable_seq: int
    state: str
    def __init__(self, durable_seq: _Optional[int] = ..., state: _Optional[str] = ...) -> None: ...

class Proof(_message.Message):
    __slots__ = ("cose",)
    COSE_FIELD_NUMBER: _ClassVar[int]
    cose: bytes
    def __init__(self, cose: _Optional[bytes] = ...) -> None: ...

class Passport(_message.Message):
    __slots__ = ("boot_id", "passport")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    PASSPORT_FIELD_NUMBER: _ClassVar[int]
    boot_id: bytes
    passport: bytes
    def __init__(self, boot_id: _Optional[bytes] = ..., passport: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("accepted", "credits", "challenge")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    accepted: _containers.RepeatedCompositeFieldContainer[Accepted]
    credits: int
    challenge: bytes
    def __init__(self, accepted: _Optional[_Iterable[_Union[Accepted, _Mapping]]] = ..., credits: _Optional[int] = ..., challenge: _Optional[bytes] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("boot_id", "next_seq")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQ_FIELD_NUMBER: _ClassVar[int]
    boot_id: bytes
    next_seq: int
    def __init__(self, boot_id: _Optional[bytes] = ..., next_seq: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("boot_id", "through_seq", "head")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    THROUGH_SEQ_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    boot_id: bytes
    through_seq: int
    head: bytes
    def __init__(self, boot_id: _Optional[bytes] = ..., through_seq: _Optional[int] = ..., head: _Optional[bytes] = ...) -> None: ...

class Nack(_message.Message):
    __slots__ = ("code", "detail", "boot_id", "want_seq", "retry_after_ms", "have_head", "boot_only")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[Nack.Code]
        RETRY_AFTER: _ClassVar[Nack.Code]
        GAP: _ClassVar[Nack.Code]
        FORK: _ClassVar[Nack.Code]
        INVALID: _ClassVar[Nack.Code]
        SUPERSEDED: _ClassVar[Nack.Code]
        UNTRUSTED: _ClassVar[Nack.Code]
    UNSPECIFIED: Nack.Code
    RETRY_AFTER: Nack.Code
    GAP: Nack.Code
    FORK: Nack.Code
    INVALID: Nack.Code
    SUPERSEDED: Nack.Code
    UNTRUSTED: Nack.Code
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    WANT_SEQ_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    HAVE_HEAD_FIELD_NUMBER: _ClassVar[int]
    BOOT_ONLY_FIELD_NUMBER: _ClassVar[int]
    code: Nack.Code
    detail: str
    boot_id: bytes
    want_seq: int
    retry_after_ms: int
    have_head: bytes
    boot_only: bool
    def __init__(self, code: _Optional[_Union[Nack.Code, str]] = ..., detail: _Optional[str] = ..., boot_id: _Optional[bytes] = ..., want_seq: _Optional[int] = ..., retry_after_ms: _Optional[int] = ..., have_head: _Optional[bytes] = ..., boot_only: _Optional[bool] = ...) -> None: ...

class Credit(_message.Message):
    __slots__ = ("batches",)
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    batches: int
    def __init__(self, batches: _Optional[int] = ...) -> None: ...
