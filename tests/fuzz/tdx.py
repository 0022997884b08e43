"""Coverage-guided fuzzing of what reads hostile TDX bytes (`make fuzz`). See `tests.fuzz.snp`."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import UTC, datetime

import atheris

with atheris.instrument_imports():
    from attestation.errors import AttestationError
    from attestation.tdx.abi import Quote
    from attestation.tdx.appraise import appraise_quote
    from attestation.tdx.chain import SIGNER, Chain
    from attestation.tdx.collateral import QeIdentity, TcbInfo
    from attestation.tdx.crl import parse_list
    from attestation.tdx.endorsements import Endorsements
    from attestation.tdx.event_log import parse_log, replay
    from attestation.tdx.fields import quote_fields
    from attestation.tdx.pck import PckExtensions
    from attestation.tdx.policy import TdxPolicy
    from attestation.tdx.verify import verify_quote

NOW = datetime(2025, 8, 1, tzinfo=UTC)


def quote(data: bytes) -> None:
    quote_fields(Quote.parse(data))
    verify_quote(data, Endorsements(), now=NOW, expected_report_data=None)


def quote_and_collateral(data: bytes) -> None:
    """A quote with the length of what stands before it, and one file of collateral."""
    size = int.from_bytes(data[:2], "big")
    verified = verify_quote(
        data[2 : 2 + size],
        Endorsements.parse(data[2 + size :]),
        now=NOW,
        expected_report_data=None,
    )
    appraise_quote(verified, TdxPolicy())


def chain(data: bytes) -> None:
    Chain.parse(data)


def signer(data: bytes) -> None:
    Chain.parse(data, SIGNER)


def event_log(data: bytes) -> None:
    replay(parse_log(data))


TARGETS = (
    quote,
    quote_and_collateral,
    chain,
    signer,
    PckExtensions.decode,
    TcbInfo.parse,
    QeIdentity.parse,
    parse_list,
    TdxPolicy.parse,
    event_log,
)


def one_input(data: bytes) -> None:
    if data:
        with suppress(AttestationError):
            TARGETS[data[0] % len(TARGETS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
