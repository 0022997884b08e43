"""Decision records, their chain and their checkpoints."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cbor2 import CBORTag
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import cbor, chain, cose
from attestation.checkpoint import (
    sign_checkpoint,
    sign_stream_proof,
    verify_checkpoint,
    verify_stream_proof,
)
from attestation.errors import AttestationError, MalformedError, VerificationError
from attestation.records import (
    Coverage,
    DecisionRecord,
    TextDigest,
    decode_record,
    encode_record,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
RECORDS = st.builds(
    DecisionRecord,
    decision_id=TEXT, request_id=TEXT, trace_id=TEXT, route=TEXT, model=TEXT, action=TEXT,
    phase=st.sampled_from(["request", "response"]),
    outcome=st.sampled_from(["proceed", "warn", "redact", "deny"]),
    principal=st.tuples(TEXT, TEXT), resource=st.tuples(TEXT, TEXT), passport=TEXT,
    reasons=st.lists(TEXT, max_size=3).map(tuple),
    bundle=st.tuples(TEXT, TEXT, st.binary(min_size=32, max_size=32)),
    obligations=st.dictionaries(TEXT, st.lists(TEXT, max_size=3).map(tuple), max_size=3),
    claims=st.dictionaries(
        TEXT,
        st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), TEXT,
                  st.lists(TEXT, max_size=3).map(tuple)),
        max_size=5,
    ),
    texts=st.lists(
        st.builds(TextDigest, sha256=st.binary(min_size=32, max_size=32), size=st.integers(0, 9)),
        max_size=3,
    ).map(tuple),
    coverage=st.builds(Coverage, seen=st.integers(0, 99), complete=st.booleans()),
    latency_us=st.dictionaries(TEXT, st.integers(0, 2**40), max_size=3),
    auditors=st.dictionaries(TEXT, TEXT, max_size=3),
    shadow=st.one_of(st.none(), TEXT),
    groups=st.one_of(st.none(), st.lists(TEXT, max_size=3).map(tuple)),
    platform=st.one_of(st.none(), st.tuples(TEXT, st.booleans(), TEXT, st.booleans())),
)  # fmt: skip
PLACE: dict[str, Any] = {
    "agent": "a", "boot": b"b" * 16, "seq": 3, "wall_ns": 10**18, "boot_ns": 5,
}  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(RECORDS)
def test_a_record_has_one_encoding_and_decodes_to_itself(record: DecisionRecord) -> None:
    data = encode_record(record, **PLACE)
    assert cbor.encode(cbor.decode(data)) == data, "the hot path's order is the deterministic one"
    placed = decode_record(data)
    assert placed.record == record
    assert (placed.agent, placed.boot, placed.seq) == ("a", b"b" * 16, 3)


def test_a_record_of_many_small_things_is_read_again() -> None:
    claims = {f"claim_{n}": ("",) * 256 for n in range(200)}
    value = plain() | {"claims": {name: list(items) for name, items in claims.items()}}
    assert decode_record(cbor.encode(value)).record.claims == claims


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("groups", None),
        ("groups", "staff"),
        ("groups", [1]),
        ("groups", [["staff"]]),
        ("platform", None),
        ("platform", []),
        ("platform", ["tdx", True, "x"]),
        ("platform", ["tdx", 1, "x", False]),
        ("platform", [b"tdx", True, "x", False]),
        ("platform", ["tdx", True, "x", False, False]),
        ("group", ["staff"]),
    ],
)
def test_what_a_record_need_not_say_is_well_formed_where_it_does(field: str, value: Any) -> None:
    decode_record(cbor.encode(plain()))
    with pytest.raises(MalformedError):
        decode_record(cbor.encode(plain() | {field: value}))


def plain() -> dict[Any, Any]:
    record = DecisionRecord(
        decision_id="dec-1", request_id="r", trace_id="t", phase="request", route="x", model="m",
        principal=("User", "a"), action="invoke", resource=("Agent", "b"), outcome="deny",
        reasons=("x",), bundle=("n", "1", bytes(32)), passport="p",
    )  # fmt: skip
    value = cbor.decode(encode_record(record, **PLACE))
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("field", sorted(plain()))
def test_a_record_without_a_field_or_with_another_type_is_malformed(field: str) -> None:
    value = plain()
    for bad in (object, 1.0, {"x": {"y": 1}}, [[[1]]], b"x", -1 if field == "phase" else "ab" * 99):
        changed = dict(value)
        if bad is object:
            del changed[field]
        elif isinstance(bad, (type(value[field]), float)):
            continue
        elif field == "shadow" and isinstance(bad, str):
            continue  # a text or nothing
        else:
            changed[field] = bad
        with pytest.raises(MalformedError):
            decode_record(cbor.encode(changed))


def test_unknown_fields_versions_and_words_are_malformed() -> None:
    for change in ({"extra": 1}, {"v": 2}, {"outcome": "maybe"}, {"phase": "later"}):
        with pytest.raises(MalformedError):
            decode_record(cbor.encode(plain() | change))


@pytest.mark.parametrize(
    "change",
    [
        {"claims": {"x": [b"bytes"]}},
        {"claims": {"x": [["nested"]]}},
        {"claims": {"x": [1]}},
        {"obligations": {"redact": [{"a": 1}]}},
        {"texts": [[b"short", 1]]},
        {"texts": [[bytes(32), -1]]},
        {"texts": [[bytes(32), True]]},
        {"texts": [[bytes(32), 1, 2]]},
        {"coverage": [True, 0, 0, 0, True]},
        {"coverage": [0, -1, 0, 0, True]},
        {"bundle": ["n", "1", b"short"]},
        {"boot": b"short"},
        {"seq": -1},
        {"wall_ns": -1},
        {"boot_ns": -1},
    ],
)
def test_what_no_agent_writes_is_malformed_down_to_the_innermost_value(
    change: dict[str, Any],
) -> None:
    decode_record(cbor.encode(plain()))
    with pytest.raises(MalformedError):
        decode_record(cbor.encode(plain() | change))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_a_strangers_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_record(data)


# -- chain ---------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8), st.data())
def test_no_record_can_be_changed_removed_added_or_moved(
    records: list[bytes], data: st.DataObject
) -> None:
    start = chain.genesis(b"s" * 32)
    head = chain.advance_all(start, records)
    chain.verify_segment(start, records, head)
    place = data.draw(st.integers(0, len(records) - 1))
    others = [
        [*records[:place], records[place] + b"x", *records[place + 1 :]],
        [*records[:place], *records[place + 1 :]],
        [*records[:place], b"new", *records[place:]],
        records[::-1],
        [b"".join(records)],
    ]
    for other in others:
        if other != records:
            with pytest.raises(VerificationError):
                chain.verify_segment(start, other, head)


# -- checkpoints ---------------------------------------------------------------------------------

KEY = ec.derive_private_key(5, ec.SECP256R1())
OTHER = ec.derive_private_key(6, ec.SECP256R1())
WHERE: dict[str, Any] = {"boot_id": b"b" * 16, "seq": 9, "head": b"h" * 32, "wall_ns": 77}


def test_a_checkpoint_verifies_with_its_key_only() -> None:
    data = sign_checkpoint(KEY, **WHERE)
    assert verify_checkpoint(data, KEY.public_key()).seq == 9
    with pytest.raises(VerificationError) as caught:
        verify_checkpoint(data, OTHER.public_key())
    assert caught.value.code == "checkpoint.key"


def test_a_checkpoint_with_one_flipped_bit_is_refused() -> None:
    data = sign_checkpoint(KEY, **WHERE)
    for place in range(len(data)):
        bent = bytearray(data)
        bent[place] ^= 1 << (place % 8)
        with pytest.raises(AttestationError):
            verify_checkpoint(bytes(bent), KEY.public_key())


def other_forms() -> dict[str, bytes]:
    """The same statement by the same key, otherwise than `sign_checkpoint` makes it."""
    data = sign_checkpoint(KEY, **WHERE)
    tag = cbor.decode(data)
    assert isinstance(tag, CBORTag)
    raw, _, payload, signature = tag.value
    header = cbor.decode(raw)
    assert isinstance(header, dict)
    order = int("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
    high = order - int.from_bytes(signature[32:], "big")
    statement = cbor.decode(payload)
    assert isinstance(statement, list)
    signed = partial(cose.sign1, key=KEY, protected=header)
    return {
        "a longer head": data[:1] + b"\x98\x04" + data[2:],
        "another header": cose.sign1(payload, KEY, protected=header | {16: "passport"}),
        "high s": cbor.encode(
            CBORTag(18, [raw, {}, payload, signature[:32] + high.to_bytes(32, "big")])
        ),
        "true for 1": signed(cbor.encode([*statement[:3], True, *statement[4:]])),
        "negative": signed(cbor.encode([*statement[:3], -1, *statement[4:]])),
        "longer": signed(cbor.encode([*statement, 0])),
        "unprotected": cose.sign1(payload, KEY, protected=header, unprotected={99: 1}),
        "another label": signed(cbor.encode(["lucid.something", *statement[1:]])),
        "another version": signed(cbor.encode([statement[0], 2, *statement[2:]])),
        "untagged": cose.sign1(payload, KEY, protected=header, tagged=False),
    }


@pytest.mark.parametrize("form", sorted(other_forms()))
def test_a_checkpoint_has_one_form(form: str) -> None:
    verify_checkpoint(sign_checkpoint(KEY, **WHERE), KEY.public_key())
    with pytest.raises(AttestationError):
        verify_checkpoint(other_forms()[form], KEY.public_key())


def test_statements_are_never_taken_for_one_another() -> None:
    proof = sign_stream_proof(KEY, challenge=b"c" * 32, boot_id=b"b" * 16)
    with pytest.raises(MalformedError):
        verify_checkpoint(proof, KEY.public_key())
    with pytest.raises(MalformedError):
        verify_stream_proof(
            sign_checkpoint(KEY, **WHERE), KEY.public_key(), challenge=b"c" * 32, boot_id=b"b" * 16
        )


def test_a_proof_answers_one_challenge_of_one_boot() -> None:
    proof = sign_stream_proof(KEY, challenge=b"c" * 32, boot_id=b"b" * 16)
    verify_stream_proof(proof, KEY.public_key(), challenge=b"c" * 32, boot_id=b"b" * 16)
    for challenge, boot in ((b"x" * 32, b"b" * 16), (b"c" * 32, b"x" * 16)):
        with pytest.raises(VerificationError):
            verify_stream_proof(proof, KEY.public_key(), challenge=challenge, boot_id=boot)


# -- the generated messages ----------------------------------------------------------------------


def test_the_generated_messages_are_current(tmp_path: Path) -> None:
    from grpc_tools import protoc

    root = Path(__file__).resolve().parents[2]
    source = "attestation/wire/observer.proto"
    arguments = [f"-I{root}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", source]
    assert protoc.main(["protoc", *arguments]) == 0
    for name in ("observer_pb2.py", "observer_pb2.pyi"):
        fresh = (tmp_path / "attestation" / "wire" / name).read_text()
        assert (root / "attestation" / "wire" / name).read_text() == fresh, "run `make proto`"
