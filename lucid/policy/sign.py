"""`lucid policy keygen` and `sign`: who answers for a bundle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from attestation.cose import thumbprint
from enforcement.policy.bundle import Bundle
from enforcement.policy.bundle_files import SIGNATURE
from enforcement.policy.bundle_signature import KeyFileError, read_private_key, sign_bundle
from lucid.exits import BAD_INPUT
from lucid.policy.common import bundle_argument, json_option, load_bundle, stop

F = TypeVar("F", bound=Callable[..., Any])


def _key_option(*, required: bool) -> Callable[[F], F]:
    return click.option(
        "--key",
        "key_file",
        required=required,
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="Private key in PEM (P-256, P-384 or P-521), without a passphrase.",
    )


key_option = _key_option(required=False)


@click.command("keygen")
@click.argument("private", metavar="KEY.pem", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("public", metavar="PUBLIC.pem", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def keygen(private: Path, public: Path, *, as_json: bool) -> None:
    """Make a key (P-256): the private half to sign with, the public half for agents.

    Put the public one into agent.toml: [policy] trusted_keys and require_signature. Existing files
    are not overwritten.

    \b
    Exit codes: 0 made; 2 a file is there already, or cannot be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shown = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        _create(private, secret, 0o600)
        try:
            _create(public, shown, 0o644)
        except OSError:
            private.unlink()  # half a pair is of no use
            raise
    except FileExistsError as error:
        why = f"{error.filename} is there already; name another file, or move it away"
        stop(BAD_INPUT, why, as_json=as_json)
    except OSError as error:
        stop(BAD_INPUT, f"{error.filename} cannot be written: {error.strerror}", as_json=as_json)
    kid = thumbprint(key.public_key()).hex()
    if as_json:
        click.echo(json.dumps({"ok": True, "kid": kid, "public": str(public)}, indent=2))
    else:
        click.echo(f"key {kid}\nprivate {private}\npublic  {public}")


@click.command("sign")
@bundle_argument
@_key_option(required=True)
@json_option
def sign(directory: Path, *, key_file: Path, as_json: bool) -> None:
    """Write bundle.sig: a COSE_Sign1 over the bundle's digest. Only a sound bundle is signed.

    \b
    Exit codes: 0 signed; 2 the bundle is not sound, or the key cannot be used.
    """
    bundle = load_bundle(directory, as_json=as_json)
    key = _read_key(key_file)
    content = sign_bundle(bundle.files, key)
    beside = directory.parent / f".{directory.name}.sig.new"
    try:
        beside.write_bytes(content)
        beside.replace(directory / SIGNATURE)
    except OSError as error:
        why = f"{directory / SIGNATURE} cannot be written: {error.strerror}"
        stop(BAD_INPUT, why, as_json=as_json)
    kid = thumbprint(key.public_key()).hex()
    if as_json:
        report = {"ok": True, "digest": bundle.digest.hex(), "kid": kid}
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(
            f"signed {bundle.name} {bundle.version}\ndigest {bundle.digest.hex()}\nkey {kid}"
        )


def signed_files(bundle: Bundle, key_file: Path | None) -> dict[str, bytes]:
    """What is sent to an agent: the bundle's files, signed where there is a key."""
    files = dict(bundle.files)
    if key_file is not None:
        files[SIGNATURE] = sign_bundle(files, _read_key(key_file))
    return files


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key to sign with, or a usage error."""
    try:
        return read_private_key(path)
    except KeyFileError as error:
        raise click.UsageError(str(error)) from None


def _create(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
