"""Whose signatures of bundles count, by the configuration."""

from __future__ import annotations

from pathlib import Path

from agent.config import PolicyTable
from agent.errors import ExitCode, FatalError
from enforcement.policy.bundle_signature import KeyFileError, Trust, read_public_key


def trust_of(table: PolicyTable) -> Trust:
    """Whose signatures count, by the configuration.

    Raises:
        FatalError: a key cannot be read, or signatures are required and no key is trusted.
    """
    try:
        keys = [read_public_key(Path(path)) for path in table.trusted_keys]
        return Trust.of(keys, required=table.require_signature)
    except (KeyFileError, ValueError) as error:
        raise FatalError(
            ExitCode.USAGE,
            f"policy.trusted_keys: {error}",
            remedy="name PEM files with public keys on P-256, P-384 or P-521",
        ) from None
