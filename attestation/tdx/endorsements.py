"""All that Intel publishes about one platform: two documents, who signed them, two lists.

As single files, or as one file in the JSON form of `QuoteCollateralV3` that the field's tools
exchange (dcap-qvl, dstack, PCCS clients): certificate chains in PEM, lists and signatures in
hexadecimal, the documents as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from attestation.crl import RevocationList
from attestation.errors import MalformedError
from attestation.tdx.chain import SIGNER, Chain
from attestation.tdx.collateral import QeIdentity, TcbInfo
from attestation.tdx.crl import parse_list
from attestation.tdx.signed_json import once, split_document

MAX_COLLATERAL_SIZE: Final = 1024 * 1024
CODE: Final = "tdx.endorsements.format"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsements:
    """What is there, read and not verified. Everything is needed; None is what nobody gave.

    Attributes:
        signers: chains of the keys that signed the two documents: none, one, or one for each.
    """

    tcb_info: TcbInfo | None = None
    qe_identity: QeIdentity | None = None
    signers: tuple[Chain, ...] = ()
    pck_crl: RevocationList | None = None
    root_crl: RevocationList | None = None

    @classmethod
    def of(
        cls,
        *,
        tcb_info: bytes | None,
        qe_identity: bytes | None,
        signing_chains: Iterable[bytes],
        pck_crl: bytes | None,
        root_crl: bytes | None,
    ) -> Endorsements:
        """Read single files: documents as served, chains in PEM, lists in DER, PEM or hex.

        Raises:
            MalformedError: `tdx.collateral.format`, `tdx.signer.format`, `tdx.crl.format`.
        """
        signers = [Chain.parse(pem, SIGNER) for pem in signing_chains]
        return cls(
            tcb_info=None if tcb_info is None else TcbInfo.parse(tcb_info),
            qe_identity=None if qe_identity is None else QeIdentity.parse(qe_identity),
            signers=tuple({signer.leaf.der: signer for signer in signers}.values()),
            pck_crl=None if pck_crl is None else parse_list(pck_crl),
            root_crl=None if root_crl is None else parse_list(root_crl),
        )

    @classmethod
    def parse(cls, data: bytes) -> Endorsements:
        """Read one file that has everything.

        Raises:
            MalformedError: `tdx.endorsements.format`: a part is missing or of another type; or
                what `of` raises.
        """
        if len(data) > MAX_COLLATERAL_SIZE:
            raise _wrong(f"it has {len(data)} bytes")
        try:
            value = json.loads(data, object_pairs_hook=once)
        except (ValueError, RecursionError) as error:
            raise _wrong(f"not JSON: {error}") from None
        if not isinstance(value, dict):
            raise _wrong("not an object")
        return cls.of(
            tcb_info=_document(value, "tcbInfo", "tcb_info"),
            qe_identity=_document(value, "enclaveIdentity", "qe_identity"),
            signing_chains=(
                _text(value, "tcb_info_issuer_chain"),
                _text(value, "qe_identity_issuer_chain"),
            ),
            pck_crl=_hex(value, "pck_crl"),
            root_crl=_hex(value, "root_ca_crl"),
        )

    @staticmethod
    def pack(
        *,
        tcb_info: bytes,
        qe_identity: bytes,
        signing_chains: tuple[bytes, bytes],
        pck_crl: bytes,
        root_crl: bytes,
        pck_crl_issuers: bytes,
    ) -> bytes:
        """Single files as one file that `parse` and the field's other tools read.

        Args:
            signing_chains: of TCB info and of the quoting enclave's identity, in PEM.
            pck_crl, root_crl: in DER.
            pck_crl_issuers: the CA that issued `pck_crl`, and the root, in PEM.

        Raises:
            MalformedError: `tdx.collateral.format`: not a signed document, or not ASCII.
        """
        info_text, info_signature = split_document(tcb_info, "tcbInfo")
        identity_text, identity_signature = split_document(qe_identity, "enclaveIdentity")
        parts = {
            "pck_crl_issuer_chain": pck_crl_issuers,
            "root_ca_crl": root_crl.hex().encode(),
            "pck_crl": pck_crl.hex().encode(),
            "tcb_info_issuer_chain": signing_chains[0],
            "tcb_info": info_text,
            "tcb_info_signature": info_signature.hex().encode(),
            "qe_identity_issuer_chain": signing_chains[1],
            "qe_identity": identity_text,
            "qe_identity_signature": identity_signature.hex().encode(),
        }
        try:
            return json.dumps({name: data.decode() for name, data in parts.items()}).encode()
        except UnicodeDecodeError:
            raise _wrong("a part is not text") from None

    def windows(self) -> list[tuple[datetime, datetime]]:
        """When each part is valid, inclusive."""
        documents = [item for item in (self.tcb_info, self.qe_identity) if item is not None]
        lists = [item for item in (self.pck_crl, self.root_crl) if item is not None]
        return [
            *(signer.window for signer in self.signers),
            *((document.issued, document.next_update) for document in documents),
            *((crl.this_update, crl.next_update) for crl in lists),
        ]

    @property
    def evaluation_number(self) -> int:
        """The lower one of the two documents; 0 where one is missing."""
        documents = (self.tcb_info, self.qe_identity)
        return min(0 if item is None else item.evaluation_number for item in documents)


def _text(value: dict[str, Any], name: str) -> bytes:
    text = value.get(name)
    if not isinstance(text, str):
        raise _wrong(f"{name!r} is missing or no text")
    return text.encode("utf-8", "surrogatepass")


def _hex(value: dict[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(_text(value, name).decode("ascii"))
    except ValueError:
        raise _wrong(f"{name!r} is not hexadecimal") from None


def _document(value: dict[str, Any], kind: str, name: str) -> bytes:
    signature = _hex(value, f"{name}_signature").hex()
    return b'{"%b":%b,"signature":"%b"}' % (kind.encode(), _text(value, name), signature.encode())


def _wrong(what: str) -> MalformedError:
    return MalformedError(CODE, f"the collateral cannot be read: {what}")
