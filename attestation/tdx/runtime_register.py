"""What RTMR3 contains after the agent measured policy bundles into it.

For each bundle that comes into force the register is extended with
SHA-384("lucid.rtmr3" ‖ 0x00 ‖ bundle digest). On a machine where nobody else extends it, one bundle
since boot gives SHA-384(48 zero bytes ‖ that): a value for `rtmr3` in a policy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from attestation.tdx.event_log import extend

SIZE: Final = 48
_LABEL: Final = b"lucid.rtmr3\x00"


def bundle_event(digest: bytes) -> bytes:
    """What the register is extended with (48 bytes) for a bundle's digest (32 bytes)."""
    if len(digest) != 32:
        raise ValueError(f"a bundle's digest has 32 bytes, not {len(digest)}")
    return hashlib.sha384(_LABEL + digest).digest()


def after(digests: Iterable[bytes], base: bytes = bytes(SIZE)) -> bytes:
    """The register after these bundles, in order, if it was `base` before."""
    for digest in digests:
        base = extend(base, bundle_event(digest))
    return base
