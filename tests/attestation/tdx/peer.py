"""dcap-qvl, another implementation of the same algorithm (Rust), asked about the same things."""

from __future__ import annotations

import json
import re
from typing import Any

import dcap_qvl

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\s*", re.DOTALL)


def collateral(files: dict[str, bytes], quote: bytes) -> dcap_qvl.QuoteCollateralV3:
    """What the peer wants, of the files of `TdxVectors.files`.

    Who issued the PCK list stands in the quote: the two upper certificates of its chain.
    """
    issuers = b"".join(_CERTIFICATE.findall(quote)[1:3]).decode()
    chain = files["signing_chain"].decode()
    tcb_info, tcb_signature = _inner(files["tcb_info"], "tcbInfo")
    identity, identity_signature = _inner(files["qe_identity"], "enclaveIdentity")
    return dcap_qvl.QuoteCollateralV3(
        issuers,
        files["root_crl"],
        files["pck_crl"],
        chain,
        tcb_info,
        tcb_signature,
        chain,
        identity,
        identity_signature,
    )


def answer(quote: bytes, given: dcap_qvl.QuoteCollateralV3, now: int) -> Any:
    """What the peer found out.

    Raises:
        ValueError: it refuses.
    """
    return dcap_qvl.verify(quote, given, now)


def _inner(document: bytes, name: str) -> tuple[str, bytes]:
    """The signed part as it was served, and its signature."""
    signature = bytes.fromhex(json.loads(document)["signature"])
    start, end = document.index(b":") + 1, document.rindex(b',"signature"')
    assert document.startswith(b'{"%b":' % name.encode())
    return document[start:end].decode(), signature
