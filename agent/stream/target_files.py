"""The files of `[observer]`, looked at before a stream needs them. Blocking.

gRPC says of an authority or a pair that it cannot use only that the Observer is away, for as long
as the agent lives.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection
from pathlib import Path

from agent.stream.status import Target


def check_files(target: Target, unchecked: Collection[str]) -> None:
    """Read every file that the target names, except those in `unchecked`.

    Raises:
        ValueError: one cannot be read or used; begins with the key that names it.
    """
    named = {
        "ca_file": target.ca,
        "certificate_file": target.certificate,
        "key_file": target.key,
    }
    there = {key: path for key, path in named.items() if path and str(path) not in unchecked}
    for key, path in there.items():
        try:
            path.open("rb").close()
        except OSError as error:
            raise ValueError(f"{key}: {path} cannot be read: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority := there.get("ca_file"):
        _check_authority(context, authority)
    if "certificate_file" in there and "key_file" in there:
        _check_pair(context, there["certificate_file"], there["key_file"])


def _check_authority(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError):
        raise ValueError(f"ca_file: {path} has no PEM certificate that can be read") from None


def _check_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError):
        raise ValueError(
            f"certificate_file: {certificate} and {key} are not a certificate and its key, both in"
            " PEM and the key without a passphrase"
        ) from None


def _no_password() -> str:
    raise ValueError  # never ask the terminal
