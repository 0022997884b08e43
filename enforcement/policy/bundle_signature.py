"""`bundle.sig`: who answers for a policy bundle.

A COSE_Sign1 (RFC 9052) over the bundle's digest. Protected header: `alg` (1; ES256, ES384 or
ES512), `kid` (4; SHA-256 thumbprint of the key, RFC 9679), `typ` (16). Payload, deterministic CBOR:
`["lucid.policy-bundle", 1, digest]`. Name and version stand in `bundle.toml`, hence in the digest.

Who demands signatures gets them or an error: a missing signature, one without `kid`, by an unknown
key or over something else never passes for "nothing to check".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from attestation import cbor
from attestation.cose import Sign1, sign1, thumbprint
from attestation.errors import AttestationError
from enforcement.policy.bundle_files import SIGNATURE, bundle_digest
from enforcement.policy.problems import BundleError, Problem

MAX_SIGNATURE: Final = 4096  # bytes
MAX_KEY_FILE: Final = 64 * 1024  # bytes
TYP: Final = "application/vnd.lucid.policy-bundle-signature+cbor"
_DOMAIN: Final = "lucid.policy-bundle"
_ALG, _KID, _TYP = 1, 4, 16
_ALGORITHMS: Final = {"secp256r1": -7, "secp384r1": -35, "secp521r1": -36}


class KeyFileError(ValueError):
    """A key file cannot be used. The message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whose signatures count.

    Attributes:
        keys: by thumbprint.
        required: a bundle without a signature is an error.
    """

    keys: Mapping[bytes, ec.EllipticCurvePublicKey]
    required: bool

    @classmethod
    def of(cls, keys: Iterable[ec.EllipticCurvePublicKey], *, required: bool) -> Trust:
        """From public keys.

        Raises:
            ValueError: signatures are required and there is no key to check them with.
        """
        found = {thumbprint(key): key for key in keys}
        if required and not found:
            raise ValueError("signatures are required, and no key is trusted")
        return cls(keys=MappingProxyType(found), required=required)


NOBODY: Final = Trust(keys=MappingProxyType({}), required=False)


def sign_bundle(files: Mapping[str, bytes], key: ec.EllipticCurvePrivateKey) -> bytes:
    """The content of `bundle.sig` for these files.

    Raises:
        ValueError: the key is on no curve that is known here.
    """
    algorithm = _ALGORITHMS.get(key.curve.name)
    if algorithm is None:
        raise ValueError(f"a key on {key.curve.name} cannot sign bundles; use P-256")
    protected = {_ALG: algorithm, _KID: thumbprint(key.public_key()), _TYP: TYP}
    return sign1(_payload(bundle_digest(files)), key, protected=protected)


def check_signature(files: Mapping[str, bytes], trust: Trust) -> bytes | None:
    """The thumbprint of the trusted key that signed the bundle; None where nothing was checked:
    there is no signature and none is required, or no key is trusted.

    Raises:
        BundleError: there is no signature and one is required, or it does not verify.
    """
    content = files.get(SIGNATURE)
    if content is None:
        if trust.required:
            raise _refused(
                "the bundle is not signed, and signatures are required", "signature.missing", _SIGN
            )
        return None
    if not trust.keys:
        return None
    if len(content) > MAX_SIGNATURE:
        raise _refused(f"larger than {MAX_SIGNATURE} bytes", "signature.malformed")
    try:
        message = Sign1.parse(content, max_size=MAX_SIGNATURE)
        kid = message.protected.get(_KID)
        if not isinstance(kid, bytes):
            raise _refused("the signature names no key", "signature.malformed")
        key = trust.keys.get(kid)
        if key is None:
            raise _refused(
                f"signed by a key that is not trusted: {kid.hex()}",
                "signature.key",
                "sign it with a trusted key, or trust this one ([policy] trusted_keys, --key)",
            )
        if message.protected.get(_TYP) != TYP:
            raise _refused("a signature of another kind", "signature.malformed")
        payload = message.verify(key)
    except AttestationError as error:
        raise _refused(str(error), "signature.wrong") from error
    if payload != _payload(bundle_digest(files)):
        raise _refused(
            "the signature is over other files: something was changed after signing",
            "signature.digest",
            _SIGN,
        )
    return kid


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """A trusted key: PEM, an elliptic-curve public key.

    Raises:
        KeyFileError: the file cannot be read, or is something else.
    """
    data = _read(path)
    try:
        key = load_pem_public_key(data)
    except ValueError as error:
        raise KeyFileError(f"{path}: not a public key in PEM: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _ALGORITHMS:
        raise KeyFileError(f"{path}: not a key on P-256, P-384 or P-521")
    return key


def read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A key to sign with: PEM, without a passphrase.

    Raises:
        KeyFileError: the file cannot be read, or is something else.
    """
    data = _read(path)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        raise KeyFileError(f"{path}: not a private key in PEM without a passphrase") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _ALGORITHMS:
        raise KeyFileError(f"{path}: not a key on P-256, P-384 or P-521")
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_FILE)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from None


def _payload(digest: bytes) -> bytes:
    return cbor.encode([_DOMAIN, 1, digest])


_SIGN: Final = "sign it: lucid policy sign DIR --key KEY.pem"


def _refused(message: str, rule: str, fix: str = "") -> BundleError:
    return BundleError([Problem(file=SIGNATURE, message=message, fix=fix, rule=rule)])
