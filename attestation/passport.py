"""The AI Passport: an EAT (RFC 9711) as a CWT (RFC 8392) in COSE_Sign1, ES256.

A passport is signed by a key that exists in one boot's memory only. It embeds the evidence whose
quote binds that key, so whoever holds the vendor's root can verify it without a network. This
module writes and reads passports; `attestation.verifier` decides what they prove.

| key | claim | form |
| --- | --- | --- |
| 1 iss, 2 sub, 3 aud | issuer, agent id, who challenged (only when challenged) | text |
| 4 exp, 6 iat | seconds since 1970, integers | int |
| 7 cti | 16 random bytes; shown as `pass-` and hex | bytes |
| 8 cnf | {1: COSE_Key}: the signing key itself | map |
| 10 eat_nonce | the verifier's nonce (only when challenged) | bytes, 8 to 64 |
| 256 ueid | 0x01 ‖ SHA-256(tenant salt ‖ chip id, or PPID) | bytes |
| 259 hwmodel | product line, e.g. `Genoa`; `TDX` and the FMSPC | bytes |
| 263 dbgstat | 0 enabled, 2 disabled since boot | int |
| 265 eat_profile | real hardware and simulated TEE have different ones | text |
| 266 submods | {cpu, agent, policy}: the claims of each part again | map |
| 268 bootseed | the boot seed | bytes, 32 |
| 270, 271 | software name and version | text |
| 273 measurements | [[42, launch measurement, or MRTD]] (42: application/octet-stream) | array |
| 274 measres | [[system, [[check, 1 success or 3 not run]…]]]: the agent's own checks | array |
| 275 intuse | 1 generic, 5 proof of possession (challenged) | int |
| 299 cmw | the evidence (`attestation.evidence`) | array |
| −70101 | policy bundle: [name, version, SHA-256 digest] | array |
| −70102 | journal: [head, seq] when the quote was asked for | array |
| −70103 | model digest, if known | bytes, 32 |
| −70104 | auditors that are active | array of text |
| −70105 | decisions so far, by outcome | map |
| −70106 | tenant salt of the ueid | bytes, 32 |

The private claims stay below −70100: others use numbers just above.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from attestation import cbor, cose
from attestation.checks import CheckStatus
from attestation.errors import MalformedError
from attestation.evidence import Evidence
from attestation.hardware import Verified, debug_of, machine_of, measurement_of, model_of

PROFILE: Final = "tag:lucid.sh,2026:ai-passport#1"
SIMULATED_PROFILE: Final = "tag:lucid.sh,2026:ai-passport-simulated#1"
MEDIA_TYPE: Final = "application/eat+cwt"
MAX_SIZE: Final = 256 * 1024  # bytes; of SEV-SNP one has about 8 KiB, of TDX 40
MAX_ITEMS: Final = 2_048  # of CBOR in the payload; a passport has some 200
MAX_TEXT: Final = 256  # characters of any text claim
OCTET_STREAM: Final = 42  # CoAP content format
LAST_SECOND: Final = 253_402_300_799  # the end of year 9999, where calendars stop

BUNDLE, JOURNAL, MODEL, AUDITORS, COUNTERS, TENANT_SALT = (
    -70101,
    -70102,
    -70103,
    -70104,
    -70105,
    -70106,
)
DEBUG_ENABLED: Final = 0
DEBUG_DISABLED: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareClaims:
    """What a passport repeats of the report; a verifier computes it again and compares."""

    ueid: bytes
    hwmodel: bytes
    dbgstat: int
    measurement: bytes

    @classmethod
    def of(cls, verified: Verified, tenant_salt: bytes) -> Self:
        """The claims that verified evidence leads to."""
        return cls(
            ueid=b"\x01" + hashlib.sha256(tenant_salt + machine_of(verified)).digest(),
            hwmodel=model_of(verified).encode(),
            dbgstat=DEBUG_ENABLED if debug_of(verified) else DEBUG_DISABLED,
            measurement=measurement_of(verified),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PassportClaims:
    """The claims of a passport, typed. Times are seconds since 1970."""

    simulated: bool
    issuer: str
    subject: str
    issued_at: int
    expires_at: int
    passport_id: bytes
    boot_seed: bytes
    hardware: HardwareClaims
    swname: str
    swversion: str
    bundle: tuple[str, str, bytes]
    journal_head: bytes
    journal_seq: int
    tenant_salt: bytes
    audience: str | None = None
    nonce: bytes | None = None
    model_digest: bytes | None = None
    auditors: tuple[str, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    results: tuple[tuple[str, int], ...] = ()

    @property
    def text_id(self) -> str:
        """The passport's id as people see it."""
        return "pass-" + self.passport_id.hex()


def tenant_salt(tenant: str) -> bytes:
    """The salt of a tenant's hardware ids: 32 bytes."""
    return hashlib.sha256(b"lucid.tenant\x00" + tenant.encode()).digest()


def results_of(verified: Verified) -> tuple[tuple[str, int], ...]:
    """The agent's own checks as measurement results: 1 success, 3 not run (RFC 9711 4.2.17)."""
    return tuple(
        (check.name, 1 if check.status is CheckStatus.PASSED else 3) for check in verified.checks
    )


def issue_passport(
    *, key: ec.EllipticCurvePrivateKey, evidence: Evidence, claims: PassportClaims
) -> bytes:
    """Sign a passport. The caller verifies the result before it lets it out."""
    public = key.public_key()
    protected = {cose.ALG: cose.ES256, cose.KID: cose.thumbprint(public), cose.TYP: MEDIA_TYPE}
    return cose.sign1(cbor.encode(_claims_map(public, evidence, claims)), key, protected=protected)


def _claims_map(
    public: ec.EllipticCurvePublicKey, evidence: Evidence, claims: PassportClaims
) -> dict[int, object]:
    hardware, bundle = claims.hardware, list(claims.bundle)
    system = "simulated" if claims.simulated else evidence.format
    mapping: dict[int, object] = {
        1: claims.issuer,
        2: claims.subject,
        4: claims.expires_at,
        6: claims.issued_at,
        7: claims.passport_id,
        8: {1: cose.cose_key(public)},
        256: hardware.ueid,
        259: hardware.hwmodel,
        263: hardware.dbgstat,
        265: SIMULATED_PROFILE if claims.simulated else PROFILE,
        266: _submods(claims),
        268: claims.boot_seed,
        270: claims.swname,
        271: claims.swversion,
        273: [[OCTET_STREAM, hardware.measurement]],
        274: [[system, [list(result) for result in claims.results]]],
        275: 1 if claims.nonce is None else 5,
        299: evidence.to_cmw(),
        BUNDLE: bundle,
        JOURNAL: [claims.journal_head, claims.journal_seq],
        AUDITORS: list(claims.auditors),
        COUNTERS: dict(claims.counters),
        TENANT_SALT: claims.tenant_salt,
    }
    optional = {3: claims.audience, 10: claims.nonce, MODEL: claims.model_digest}
    return mapping | {label: value for label, value in optional.items() if value is not None}


def _submods(claims: PassportClaims) -> dict[str, object]:
    return {
        "cpu": {256: claims.hardware.ueid, 259: claims.hardware.hwmodel},
        "agent": {270: claims.swname, 271: claims.swversion},
        "policy": {BUNDLE: list(claims.bundle)},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Passport:
    """A passport that was read. Nothing of it is verified.

    Attributes:
        key: the key in `cnf`; whether it signed, and whether a quote binds it, is to be verified.
        message: the COSE message as received.
    """

    claims: PassportClaims
    key: ec.EllipticCurvePublicKey
    evidence: Evidence
    message: cose.Sign1

    @classmethod
    def parse(cls, token: bytes) -> Self:
        """Read a passport strictly: one form only, no unknown or missing claims.

        Raises:
            MalformedError: `passport.*`, `cose.*`, `cbor.*`, `evidence.*`: not a passport.
        """
        cbor.decode(token, max_size=MAX_SIZE, max_depth=4, deterministic=True)
        message = cose.Sign1.parse(token, max_size=MAX_SIZE)
        if not message.tagged or message.unprotected or message.payload is None:
            raise MalformedError("passport.envelope", "not a tagged COSE_Sign1 with its payload")
        protected = dict(message.protected)
        if (
            protected.keys() != {cose.ALG, cose.KID, cose.TYP}
            or protected[cose.TYP] != MEDIA_TYPE
            or protected[cose.ALG] != cose.ES256
            or cbor.encode(protected) != message.protected_raw
        ):
            raise MalformedError("passport.header", "the protected header is not a passport's")
        # What is read is encoded again and compared byte by byte, so that every claim has the one
        # form that `issue_passport` gives it (Python takes true for 1), and none is unknown.
        payload = cbor.decode(
            message.payload,
            max_size=MAX_SIZE,
            max_depth=8,
            max_items=MAX_ITEMS,
            deterministic=True,
        )
        reader = _Reader(payload)
        claims = reader.claims()
        key = cose.public_key_from_cose(reader.only(8, "cnf"))
        evidence = Evidence.from_cmw(reader.take(299, list))
        if cbor.encode(_claims_map(key, evidence, claims)) != message.payload:
            raise MalformedError(
                "passport.claims", "claims that are unknown, or that contradict one another"
            )
        return cls(claims=claims, key=key, evidence=evidence, message=message)


class _Reader:
    """Typed access to the claims map."""

    def __init__(self, payload: object) -> None:
        if not isinstance(payload, dict):
            raise MalformedError("passport.claims", "the payload is not a map of claims")
        self._map: dict[Any, Any] = payload

    def take(self, label: int, kind: type) -> Any:
        value = self._map.get(label)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise MalformedError("passport.claim", f"claim {label} is missing or of another type")
        return value

    def text(self, label: int) -> str:
        value: str = self.take(label, str)
        if len(value) > MAX_TEXT:
            raise MalformedError("passport.claim", f"claim {label} is longer than {MAX_TEXT}")
        return value

    def sized(self, label: int, low: int, high: int) -> bytes:
        value: bytes = self.take(label, bytes)
        if not low <= len(value) <= high:
            raise MalformedError("passport.claim", f"claim {label} has {len(value)} bytes")
        return value

    def seconds(self, label: int) -> int:
        value: int = self.take(label, int)
        if not 0 <= value <= LAST_SECOND:
            raise MalformedError("passport.claim", f"claim {label} is no time")
        return value

    def only(self, label: int, name: str) -> object:
        value = self.take(label, dict)
        if set(value) != {1}:
            raise MalformedError("passport.claim", f"{name} does not hold one key")
        return value[1]

    def claims(self) -> PassportClaims:
        profile = self.text(265)
        if profile not in (PROFILE, SIMULATED_PROFILE):
            raise MalformedError("passport.profile", "a token, but of another profile")
        match self.take(BUNDLE, list), self.take(JOURNAL, list), self.take(273, list):
            case (
                [str(name), str(version), bytes(digest)],
                [bytes(head), int(seq)],
                [[42, bytes(measurement)]],
            ) if len(digest) == len(head) == 32 and 0 <= seq < 2**63 and len(measurement) == 48:
                pass
            case _:
                raise MalformedError(
                    "passport.claim", "bundle, journal or measurement is malformed"
                )
        return PassportClaims(
            simulated=profile == SIMULATED_PROFILE,
            issuer=self.text(1),
            subject=self.text(2),
            audience=self.text(3) if 3 in self._map else None,
            expires_at=self.seconds(4),
            issued_at=self.seconds(6),
            passport_id=self.sized(7, 16, 16),
            nonce=self.sized(10, 8, 64) if 10 in self._map else None,
            hardware=HardwareClaims(
                ueid=self.sized(256, 33, 33),
                hwmodel=self.sized(259, 1, 32),
                dbgstat=self.take(263, int),
                measurement=measurement,
            ),
            boot_seed=self.sized(268, 32, 32),
            swname=self.text(270),
            swversion=self.text(271),
            bundle=(name[:MAX_TEXT], version[:MAX_TEXT], digest),
            journal_head=head,
            journal_seq=int(seq),  # true would be read as 1: encoded again, it is not the same
            model_digest=self.sized(MODEL, 32, 32) if MODEL in self._map else None,
            auditors=self._texts(AUDITORS),
            counters=self._counters(),
            tenant_salt=self.sized(TENANT_SALT, 32, 32),
            results=self._results(),
        )

    def _texts(self, label: int) -> tuple[str, ...]:
        value = self.take(label, list)
        if len(value) > 64 or not all(isinstance(v, str) and len(v) <= MAX_TEXT for v in value):
            raise MalformedError("passport.claim", f"claim {label} is not a short list of texts")
        return tuple(value)

    def _counters(self) -> dict[str, int]:
        value: dict[Any, Any] = self.take(COUNTERS, dict)
        if len(value) > 64 or not all(
            isinstance(k, str) and isinstance(v, int) and 0 <= v < 2**63 for k, v in value.items()
        ):
            raise MalformedError("passport.claim", "the counters are not numbers by name")
        return {name: int(count) for name, count in value.items()}

    def _results(self) -> tuple[tuple[str, int], ...]:
        match self.take(274, list):
            case [[str(), list(rows)]] if len(rows) <= 256:
                pass
            case _:
                raise MalformedError("passport.claim", "measurement results are malformed")
        found = []
        for row in rows:
            match row:
                case [str(name), int(result)] if result in (1, 2, 3, 4):
                    found.append((name, int(result)))
                case _:
                    raise MalformedError("passport.claim", "a measurement result is malformed")
        return tuple(found)
