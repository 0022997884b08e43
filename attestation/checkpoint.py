"""Signed statements of a boot about its journal: checkpoints, and proofs for the stream.

Both are COSE_Sign1 (tag 18, ES256, `kid` = key thumbprint) over a deterministic CBOR array that
begins with its own label, so that neither is ever taken for the other or for a passport. Each has
one form: other headers, other encodings and the second form of a signature are refused.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from attestation import cbor, cose
from attestation.errors import MalformedError, VerificationError

CHECKPOINT: Final = "lucid.checkpoint"
STREAM_PROOF: Final = "lucid.stream-proof"
VERSION: Final = 1
MAX_SIZE: Final = 1024  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The chain of a boot had this head at this place at this wall time (nanoseconds)."""

    boot_id: bytes
    seq: int
    head: bytes
    wall_ns: int


def _protected(key: ec.EllipticCurvePublicKey) -> dict[int, object]:
    return {cose.ALG: cose.ES256, cose.KID: cose.thumbprint(key)}


def _sign(key: ec.EllipticCurvePrivateKey, statement: list[object]) -> bytes:
    return cose.sign1(cbor.encode(statement), key, protected=_protected(key.public_key()))


def _verify(data: bytes, key: ec.EllipticCurvePublicKey) -> object:
    cbor.decode(data, max_size=MAX_SIZE, max_depth=4, deterministic=True)
    message = cose.Sign1.parse(data, max_size=MAX_SIZE)
    if not message.tagged or message.unprotected or message.alg != cose.ES256:
        raise VerificationError("checkpoint.form", "not a tagged ES256 statement of this project")
    protected = _protected(key)
    if message.protected.get(cose.KID) != protected[cose.KID]:
        raise VerificationError("checkpoint.key", "signed by another key than the passport's")
    if message.protected_raw != cbor.encode(protected):
        raise VerificationError("checkpoint.form", "the protected header is not a statement's")
    payload = message.verify(key)
    if not cose.has_low_s(message.signature, cose.ES256):
        raise VerificationError("checkpoint.form", "the signature is in its second form")
    return cbor.decode(payload, max_size=MAX_SIZE, max_depth=2, deterministic=True)


def _is_number(value: int) -> bool:
    """A number that databases hold; true and false are none."""
    return not isinstance(value, bool) and 0 <= value < 2**63


def sign_checkpoint(
    key: ec.EllipticCurvePrivateKey, *, boot_id: bytes, seq: int, head: bytes, wall_ns: int
) -> bytes:
    """Sign the head of a boot's chain."""
    return _sign(key, [CHECKPOINT, VERSION, boot_id, seq, head, wall_ns])


def verify_checkpoint(data: bytes, key: ec.EllipticCurvePublicKey) -> Checkpoint:
    """The checkpoint, if this key signed it.

    Raises:
        MalformedError, VerificationError: it did not, or it is not a checkpoint.
    """
    match _verify(data, key):
        case [label, version, bytes(boot_id), int(seq), bytes(head), int(wall_ns)] if (
            (label, version) == (CHECKPOINT, VERSION)
            and len(boot_id) == 16
            and len(head) == 32
            and _is_number(seq)
            and _is_number(wall_ns)
        ):
            return Checkpoint(boot_id=boot_id, seq=seq, head=head, wall_ns=wall_ns)
    raise MalformedError("checkpoint.structure", "a signed statement, but not a checkpoint")


def sign_stream_proof(
    key: ec.EllipticCurvePrivateKey, *, challenge: bytes, boot_id: bytes
) -> bytes:
    """Prove possession of the boot's key to an Observer that sent this challenge."""
    return _sign(key, [STREAM_PROOF, VERSION, challenge, boot_id])


def verify_stream_proof(
    data: bytes, key: ec.EllipticCurvePublicKey, *, challenge: bytes, boot_id: bytes
) -> None:
    """Check a proof.

    Raises:
        MalformedError, VerificationError: another key, challenge or boot, or not a proof.
    """
    match _verify(data, key):
        case [label, version, bytes(answered), bytes(boot)] if (label, version) == (
            STREAM_PROOF,
            VERSION,
        ):
            pass
        case _:
            raise MalformedError("stream_proof.structure", "a signed statement, but not a proof")
    same = hmac.compare_digest(answered, challenge) & hmac.compare_digest(boot, boot_id)
    if not same:
        raise VerificationError("stream_proof.challenge", "the proof answers another challenge")
