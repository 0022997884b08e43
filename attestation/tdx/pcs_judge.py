"""What of Intel's service may be used: all it gives is verified down from the pinned root.

The answers about one kind of machine belong together, and are judged and kept together: two signed
documents with the chain of their signer, two revocation lists with the CA that issued one of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from attestation.crl import RevocationList
from attestation.errors import MalformedError, VerificationError
from attestation.tdx.abi import Quote
from attestation.tdx.chain import CA, Chain, check_chain
from attestation.tdx.collateral import QeIdentity, TcbInfo, check_current, check_signed
from attestation.tdx.crl import check_fresh, check_genuine, check_not_revoked
from attestation.tdx.endorsements import Endorsements
from attestation.tdx.names import INTEL, Vendor
from attestation.tdx.pck import PckExtensions


class PckCa(StrEnum):
    """Which CA certified a platform: PLATFORM for machines with several sockets."""

    PLATFORM = "platform"
    PROCESSOR = "processor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What Intel's documents are about.

    Attributes:
        fmspc: 6 bytes: family, model, stepping and platform type.
        ca: who certified it.
    """

    fmspc: bytes
    ca: PckCa

    @classmethod
    def of(cls, quote: Quote, vendor: Vendor = INTEL) -> Machine:
        """What a quote says of its machine; nothing of it is verified.

        Raises:
            MalformedError: its certificates cannot be read.
            VerificationError: `pcs.other`: no CA that the service knows issued them.
        """
        chain = Chain.parse(quote.pck_chain)
        pck = PckExtensions.decode(chain.leaf.sgx_extensions or b"")
        name = chain.certificates[1].common_name
        for ca in PckCa:
            if name == _name_of(ca, vendor):
                return cls(fmspc=pck.fmspc, ca=ca)
        raise VerificationError("pcs.other", "no CA that Intel's service knows certified this")

    def __str__(self) -> str:
        return f"{self.fmspc.hex()}-{self.ca}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Endorsements that are genuine and about the machine that was asked for.

    Attributes:
        evaluation_numbers: of TCB info and quoting enclave's identity: they never go down.
        until: when the first part ends.
    """

    evaluation_numbers: tuple[int, int]
    until: datetime

    def older_than(self, other: Judged) -> bool:
        """Whether either document is of an earlier evaluation than the other's."""
        pairs = zip(self.evaluation_numbers, other.evaluation_numbers, strict=True)
        return any(mine < theirs for mine, theirs in pairs)


def judge(data: bytes, machine: Machine, *, now: datetime | None, vendor: Vendor = INTEL) -> Judged:
    """Judge one file of `Endorsements.pack`.

    Args:
        now: when it has to be valid; None: at the last moment at which all of it was.

    Raises:
        MalformedError: it is not such a file.
        VerificationError: it is not genuine, not valid now, or about another machine
            (`pcs.other`).
    """
    given = Endorsements.parse(data)
    issuers = _issuers(data)
    info, identity, pck_crl, root_crl = _all(given)
    until = min(end for _, end in (issuers.window, *given.windows()))
    now = until if now is None else now
    if info.fmspc != machine.fmspc:
        raise VerificationError(
            "pcs.other",
            f"TCB info of FMSPC {info.fmspc.hex()} came, {machine.fmspc.hex()} was asked for",
        )
    if issuers.leaf.common_name != _name_of(machine.ca, vendor):
        raise VerificationError(
            "pcs.other", f"the list of {issuers.leaf.subject} came, not the {machine.ca} CA's"
        )
    for chain in (issuers, *given.signers):
        check_chain(chain, vendor, now)
    for name, crl, issuer in (
        ("tdx.root_crl", root_crl, issuers.root),
        ("tdx.pck_crl", pck_crl, issuers.leaf),
    ):
        check_genuine(f"{name}.signature", crl, issuer)
        check_fresh(f"{name}.validity", crl, now)
    certified = [issuers.leaf, *(signer.leaf for signer in given.signers)]
    check_not_revoked("tdx.signer.not_revoked", [(each, root_crl) for each in certified])
    for name, document in (("tdx.tcb_info", info), ("tdx.qe_identity", identity)):
        check_signed(f"{name}.signature", document, [signer.leaf for signer in given.signers])
        check_current(f"{name}.validity", document, now)
    return Judged(
        evaluation_numbers=(info.evaluation_number, identity.evaluation_number),
        until=until,
    )


def _name_of(ca: PckCa, vendor: Vendor) -> str:
    return f"{vendor.prefix}PCK {ca.title()} CA"


def _issuers(data: bytes) -> Chain:
    pem = json.loads(data).get("pck_crl_issuer_chain")
    if not isinstance(pem, str):
        raise MalformedError("tdx.endorsements.format", "who issued the PCK list is missing")
    return Chain.parse(pem.encode("utf-8", "surrogatepass"), CA)


def _all(
    given: Endorsements,
) -> tuple[TcbInfo, QeIdentity, RevocationList, RevocationList]:
    info, identity, pck, root = given.tcb_info, given.qe_identity, given.pck_crl, given.root_crl
    if info is None or identity is None or pck is None or root is None:
        raise MalformedError("tdx.endorsements.format", "the collateral is not complete")
    return info, identity, pck, root
