"""What Intel publishes about a platform, in software: TCB info, identities, revocation lists.

The shapes are those of Intel's PCS, version 4. Everything is signed anew when it is asked for, so
it is always fresh.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.simulated.tdx_quote import (
    MRSIGNER,
    QE_ISVPRODID,
    QE_ISVSVN,
    TEE_TCB_SVN,
    sign_raw,
)

LIFETIME: Final = timedelta(days=30)
BACKDATED: Final = timedelta(days=1)  # clocks of relying parties may be behind
FMSPC: Final = bytes.fromhex("5130ca1d0000")  # of nobody: no such family
PCEID: Final = bytes(2)
PCESVN: Final = 13
COMPONENTS: Final = bytes((3, 3, 2, 2, 3, 1, 0, 3)) + bytes(8)
EVALUATION_NUMBER: Final = 19
_NOW_ON: Final = "2026-01-01T00:00:00Z"  # what is up to date is so since then
_BEFORE: Final = "2024-01-01T00:00:00Z"


def tcb_info(now: datetime, **changes: Any) -> dict[str, Any]:
    """The TCB info of the simulated platform, which is up to date, before it is signed."""
    return {
        "id": "TDX",
        "version": 3,
        **_dates(now),
        "fmspc": FMSPC.hex().upper(),
        "pceId": PCEID.hex().upper(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "tdxModule": {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8},
        "tdxModuleIdentities": [
            {
                "id": "TDX_01",
                "mrsigner": "00" * 48,
                "attributes": "00" * 8,
                "attributesMask": "FF" * 8,
                "tcbLevels": _isvsvn_levels(TEE_TCB_SVN[0]),
            }
        ],
        "tcbLevels": [
            _level(COMPONENTS, TEE_TCB_SVN, PCESVN, _NOW_ON, "UpToDate"),
            _level(bytes(16), bytes(16), 5, _BEFORE, "OutOfDate", "SIMULATED-SA-00001"),
        ],
    } | changes


def qe_identity(now: datetime, **changes: Any) -> dict[str, Any]:
    """The identity of the simulated quoting enclave, before it is signed."""
    return {
        "id": "TD_QE",
        "version": 2,
        **_dates(now),
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11" + "00" * 15,
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": MRSIGNER.hex().upper(),
        "isvprodid": QE_ISVPRODID,
        "tcbLevels": _isvsvn_levels(QE_ISVSVN),
    } | changes


def signed_document(name: str, value: Mapping[str, Any], key: ec.EllipticCurvePrivateKey) -> bytes:
    """A document as it is served: `{"NAME":{…},"signature":"…"}`."""
    inner = json.dumps(value, separators=(",", ":")).encode()
    return b'{"%b":%b,"signature":"%b"}' % (
        name.encode(),
        inner,
        sign_raw(key, inner).hex().encode(),
    )


def revocation_list(
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    revoked: Iterable[int] = (),
) -> bytes:
    """A list in DER that names these serial numbers."""
    start = _whole(now - BACKDATED)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(start)
        .next_update(_whole(now + LIFETIME))
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _level(
    sgx: bytes, tdx: bytes, pcesvn: int, date: str, status: str, *advisories: str
) -> dict[str, Any]:
    return {
        "tcb": {
            "sgxtcbcomponents": [{"svn": svn} for svn in sgx],
            "pcesvn": pcesvn,
            "tdxtcbcomponents": [{"svn": svn} for svn in tdx],
        },
        "tcbDate": date,
        "tcbStatus": status,
        "advisoryIDs": list(advisories),
    }


def _isvsvn_levels(newest: int) -> list[dict[str, Any]]:
    return [
        {"tcb": {"isvsvn": newest}, "tcbDate": _NOW_ON, "tcbStatus": "UpToDate"},
        {"tcb": {"isvsvn": 1}, "tcbDate": _BEFORE, "tcbStatus": "OutOfDate"},
    ]


def _dates(now: datetime) -> dict[str, str]:
    return {"issueDate": _zulu(now - BACKDATED), "nextUpdate": _zulu(now + LIFETIME)}


def _zulu(moment: datetime) -> str:
    return _whole(moment).isoformat()[:19] + "Z"


def _whole(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)
