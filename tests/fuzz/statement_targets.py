"""Signed statements and their CBOR: passports, checkpoints, records, claims buffers, COSE.

Whoever signs can write anything, so the fuzzer signs: what it makes of a statement reaches the
checks behind the signature. Each run makes its own keys and its own simulated TEE; an input only
says what to change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any, Final

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec

from agent.quotes import wire
from attestation import cbor, cose, tsm
from attestation.anchors import TrustAnchors
from attestation.checkpoint import (
    CHECKPOINT,
    STREAM_PROOF,
    verify_checkpoint,
    verify_stream_proof,
)
from attestation.claims_buffer import ClaimsBuffer
from attestation.errors import AttestationError, MalformedError, QuoteError
from attestation.evidence import Evidence
from attestation.passport import Passport
from attestation.records import decode_record, encode_record
from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.tdx_documents import qe_identity, signed_document, tcb_info
from attestation.simulated.tdx_quote import QeFields
from attestation.tdx.abi import Quote
from attestation.tdx.appraise import appraise_quote
from attestation.tdx.collateral import TcbStatus
from attestation.tdx.endorsements import Endorsements
from attestation.tdx.pcs_judge import Machine, judge
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.verify import verify_quote
from attestation.verifier import examine_passport
from tests.attestation.passports import NOW, Maker, anchors, payload_of, signed
from tests.fuzz.recipes import Recipe, SignedRecipe
from tests.observer.fake_agent import FakeBoot

_WORDS: Final = (
    *("", "test", "agent", "request", "deny", "proceed", "passport", "challenge", "channel"),
    *(CHECKPOINT, STREAM_PROOF, "lucid.report-data", "tag:lucid.sh,2026:ai-passport#1"),
    *("tag:lucid.sh,2026:ai-passport-simulated#1", "application/eat+cwt", "\x00", "é" * 200),
)
_LABELS: Final = (
    *(1, 2, 3, 4, 6, 7, 8, 10, 16, 256, 259, 263, 265, 266, 268, 270, 271, 273, 274, 275, 299),
    *(-1, -2, -3, -4, -70101, -70102, -70103, -70104, -70105, -70106, 5, 9, "cpu", "x", b"x", 0),
)
_FIELDS: Final = (
    *("v", "id", "seq", "boot", "agent", "model", "phase", "texts", "claims", "groups", "shadow"),
    *("boot_ns", "outcome", "reasons", "wall_ns", "coverage", "platform", "obligations", 1, b"v"),
)


def cbor_item(data: bytes) -> None:
    """What is read is what cbor2 reads; what has one form has one encoding."""
    with suppress(MalformedError):
        assert cbor.encode(cbor.decode(data, deterministic=True)) == data
        cbor.decode(data)  # what the stricter reader takes, the other one takes
    with suppress(MalformedError):
        value = cbor.decode(data)
        if not _has_tag(value):  # cbor2 gives tags a meaning
            assert repr(cbor2.loads(data)) == repr(value)


def _has_tag(value: Any) -> bool:
    match value:
        case list():
            return any(map(_has_tag, value))
        case dict():
            return any(map(_has_tag, value.values()))
    return isinstance(value, cbor2.CBORTag)


@cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def cose_message(data: bytes) -> None:
    """A message or a key of anybody: read, refused, or verified by our key."""
    if not data:
        return
    public = _key().public_key()
    recipe = SignedRecipe(data[1:], keys=_LABELS, words=_WORDS)
    match data[0] % 4:
        case 0:
            with suppress(AttestationError):
                cose.Sign1.parse(data[1:]).verify(public)
        case 1:
            value = recipe.changed(cose.cose_key(public))
            with suppress(AttestationError):
                found = cose.public_key_from_cose(value)
                assert cose.cose_key(found) == {k: value[k] for k in (1, -1, -2, -3)}
        case 2:
            message = cose.sign1(recipe.take(40), _key(), protected={1: cose.ES256})
            made = cbor.decode(message)
            assert isinstance(made, cbor2.CBORTag)
            with suppress(AttestationError):
                cose.Sign1.parse(cbor.encode(recipe.changed(made.value))).verify(public)
        case _:
            protected = recipe.changed({1: cose.ES256, 4: b"kid", 16: "x"})
            if protected.get(1) == cose.ES256:
                message = cose.sign1(b"payload", _key(), protected=protected)
                with suppress(AttestationError):
                    assert cose.Sign1.parse(message).verify(public) == b"payload"


def checkpoint(data: bytes) -> None:
    """A statement about a journal, signed by whom it should be, says one thing or nothing."""
    if not data:
        return
    key, public, boot = _key(), _key().public_key(), bytes(16)
    recipe = SignedRecipe(data[1:], keys=_LABELS, words=_WORDS)
    head = {1: cose.ES256, 4: cose.thumbprint(public)}
    match data[0] % 4:
        case 0:
            payload = data[1:]
        case 1:
            payload = cbor.encode(recipe.changed([CHECKPOINT, 1, boot, 5, bytes(32), 2**60]))
        case 2:
            payload = cbor.encode(recipe.changed([STREAM_PROOF, 1, bytes(32), boot]))
        case _:
            payload = cbor.encode([CHECKPOINT, 1, boot, 5, bytes(32), 2**60])
            head = recipe.changed(head)
    if head.get(1) != cose.ES256:
        return
    message = cose.sign1(payload, key, protected=head)
    with suppress(AttestationError):
        found = verify_checkpoint(message, public)
        said = [CHECKPOINT, 1, found.boot_id, found.seq, found.head, found.wall_ns]
        assert cbor.encode(said) == payload
        assert type(found.seq) is type(found.wall_ns) is int
    with suppress(AttestationError):
        verify_stream_proof(message, public, challenge=bytes(32), boot_id=boot)
        assert payload == cbor.encode([STREAM_PROOF, 1, bytes(32), boot])


@cache
def _record() -> Any:
    return cbor.decode(FakeBoot(seed=bytes(32)).encode(1), max_depth=8)


def record(data: bytes) -> None:
    """A record that is read is the one that its bytes encode."""
    if not data:
        return
    if data[0] % 2:
        recipe = SignedRecipe(data[1:], keys=_FIELDS, words=_WORDS)
        data = cbor.encode(recipe.changed(_record()))
    with suppress(MalformedError):
        placed = decode_record(data)
        again = encode_record(
            placed.record,
            agent=placed.agent,
            boot=placed.boot,
            seq=placed.seq,
            wall_ns=placed.wall_ns,
            boot_ns=placed.boot_ns,
        )
        assert again == data


def claims_buffer(data: bytes) -> None:
    """What a quote is about has one form."""
    if not data:
        return
    if data[0] % 2:
        whole = ["lucid.report-data", 1, "passport", bytes(32), bytes(8), *(bytes(32),) * 3]
        data = cbor.encode(SignedRecipe(data[1:], keys=_LABELS, words=_WORDS).changed(whole))
    with suppress(MalformedError):
        assert ClaimsBuffer.decode(data).encode() == data
    with suppress(MalformedError):
        Evidence.from_cmw(cbor.decode(data))


@cache
def _maker() -> tuple[Maker, bytes, TrustAnchors]:
    maker = Maker(SimulatedIntel.create(now=NOW))
    return maker, maker.token(), anchors(maker.vendor)


def passport(data: bytes) -> None:
    """Whatever its own signer writes, a passport proves no more than its quote does."""
    if not data:
        return
    maker, sound, roots = _maker()
    recipe = SignedRecipe(data[1:], keys=_LABELS, words=_WORDS)
    match data[0] % 4:
        case 0:
            token = data[1:]
        case 1:
            token = signed(data[1:], maker.key)
        case 2:
            token = recipe.exchanged(sound)
        case _:
            token = signed(cbor.encode(recipe.changed(payload_of(sound))), maker.key)
    with suppress(MalformedError):
        found = examine_passport(
            token, now=NOW + timedelta(minutes=1), anchors=roots, allow_simulated=True
        )
        json.dumps(found.as_json())
        assert not found.hardware_attested
        if found.error is None:
            ours, theirs = Passport.parse(sound).claims, found.passport.claims
            assert theirs.simulated
            assert theirs.hardware == ours.hardware
            assert theirs.boot_seed == ours.boot_seed
            assert theirs.bundle[2] == ours.bundle[2]
            assert theirs.journal_head == ours.journal_head
            assert theirs.expires_at > NOW.timestamp()


_TCB_NAMES: Final = (
    *("tcb", "tcbLevels", "tcbStatus", "tcbDate", "advisoryIDs", "sgxtcbcomponents", "pcesvn"),
    *("tdxtcbcomponents", "svn", "isvsvn", "id", "version", "fmspc", "pceId", "tcbType", "x"),
    *("tdxModule", "tdxModuleIdentities", "mrsigner", "attributes", "attributesMask", "issueDate"),
    *("nextUpdate", "tcbEvaluationDataNumber", "miscselect", "miscselectMask", "isvprodid"),
)
_TCB_WORDS: Final = (
    *(status.value for status in TcbStatus),
    *("TDX", "TD_QE", "TDX_01", "TDX_02", "2026-01-01T00:00:00Z", "2036-01-01T00:00:00Z", "00" * 8),
    *("FF" * 8, "00" * 48, "INTEL-SA-00001", "00000000", "5130CA1D0000", "0000", "\ud800", "é"),
)


def tdx_documents(data: bytes) -> None:
    """Whatever Intel signs, a platform is called no better than any of its parts."""
    maker, _, _ = _maker()
    vendor = maker.vendor
    assert isinstance(vendor, SimulatedIntel)
    recipe = Recipe(data, keys=_TCB_NAMES, words=_TCB_WORDS)
    svn = bytes((recipe.byte() % 9, recipe.byte() % 3, recipe.byte() % 5)) + bytes(13)
    newer: dict[str, Any] = {}
    if recipe.byte() % 2:
        newer = {"tee_tcb_svn2": bytes((recipe.byte() % 9,)) + svn[1:], "mrservicetd": bytes(48)}
    qe = QeFields(isvsvn=recipe.byte() % 12)
    quote = vendor.quote(bytes(64), qe=qe, tee_tcb_svn=svn, **newer)
    documents = {
        name: signed_document(name, recipe.changed(value), vendor.signer_key)
        for name, value in (("tcbInfo", tcb_info(NOW)), ("enclaveIdentity", qe_identity(NOW)))
    }
    chain = vendor.signing_chain()
    with suppress(AttestationError):
        packed = Endorsements.pack(
            tcb_info=documents["tcbInfo"],
            qe_identity=documents["enclaveIdentity"],
            signing_chains=(chain, chain),
            pck_crl=_lists()[0],
            root_crl=_lists()[1],
            pck_crl_issuers=vendor.pck_crl_issuers(),
        )
        with suppress(AttestationError):
            judge(
                packed, Machine.of(Quote.parse(quote), vendor.vendor), now=NOW, vendor=vendor.vendor
            )
        found = verify_quote(
            quote,
            Endorsements.parse(packed),
            now=NOW,
            expected_report_data=bytes(64),
            vendor=vendor.vendor,
        )
        said = found.assessment
        assert list(said.advisories) == sorted(set(said.advisories))
        parts = [said.platform, said.enclave, *([said.module] if said.module else [])]
        if said.status is TcbStatus.UP_TO_DATE:
            assert all(part.status is TcbStatus.UP_TO_DATE for part in parts)
        if any(part.status is TcbStatus.REVOKED for part in parts):
            assert said.status is TcbStatus.REVOKED
        appraise_quote(found, TdxPolicy())


@cache
def _lists() -> tuple[bytes, bytes]:
    vendor = _maker()[0].vendor
    assert isinstance(vendor, SimulatedIntel)
    return vendor.pck_crl(NOW), vendor.root_crl(NOW)


_WIRE: Final = (
    wire.encode_request(bytes(64), 1),
    wire.encode_quote(tsm.Quote(provider="sev_guest", outblob=b"quote", auxblob=b"table")),
    wire.encode_error(QuoteError("quote.busy", "later", final=False, errno=16)),
)


def quote_wire(data: bytes) -> None:
    """What the agent and the quote helper say to each other."""
    recipe = SignedRecipe(data)
    message = recipe.exchanged(_WIRE[recipe.byte() % len(_WIRE)])
    with suppress(MalformedError):
        report_data, privlevel = wire.decode_request(message)
        assert wire.encode_request(report_data, privlevel) == message
    with suppress(MalformedError):
        try:
            found = wire.decode_reply(message)
        except QuoteError:
            return
        if found.provider.isascii():
            assert wire.encode_quote(found)[wire.HEAD.size :] == message[wire.HEAD.size :]


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "cbor": cbor_item,
    "cose": cose_message,
    "checkpoint": checkpoint,
    "record": record,
    "claims_buffer": claims_buffer,
    "passport": passport,
    "tdx_documents": tdx_documents,
    "quote_wire": quote_wire,
}
