"""What the API shows of rows: plain JSON-ready values, times in RFC 3339, bytes in hex."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from attestation.records import PLATFORM_FIELDS, decode_record

Json = dict[str, Any]

LAST_MOMENT: Final = 253_402_300_799 * 10**9  # the end of year 9999, where calendars stop


def moment(ns: int | None) -> str | None:
    """Nanoseconds since 1970 in RFC 3339 with microseconds, UTC."""
    if ns is None:
        return None
    whole, rest = divmod(min(ns, LAST_MOMENT), 10**9)
    text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest // 1000:06d}Z"


def decision(row: Mapping[str, Any]) -> Json:
    """One line of the live page. `id` orders and pages; it is given by this Observer."""
    return {
        "id": row["id"],
        "agent": row["agent_id"],
        "boot": row["boot_id"].hex(),
        "seq": row["seq"],
        "time": moment(row["wall_ns"]),
        "decision_id": row["decision_id"],
        "request_id": row["request_id"],
        "phase": row["phase"],
        "route": row["route"],
        "model": row["model"],
        "principal": row["principal"],
        "outcome": row["outcome"],
        "reasons": json.loads(row["reasons"]),
        "complete": bool(row["complete"]),
    }


def _value(value: object) -> object:
    """A claim, safe for JSON readers that know only 53 bits of an integer."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def full(
    row: Mapping[str, Any], *, previous_head: bytes, checkpoint: Mapping[str, Any] | None
) -> Json:
    """Everything about one decision, from its exact bytes, with its place in the chain and the
    checkpoint that covers it."""
    placed = decode_record(row["record"])
    record = placed.record
    return {
        **decision(row),
        "trace_id": record.trace_id,
        "action": record.action,
        "resource": list(record.resource),
        "principal_entity": list(record.principal),
        "route": record.route,
        "model": record.model,
        "reasons": list(record.reasons),
        "obligations": {name: list(labels) for name, labels in record.obligations.items()},
        "claims": {name: _value(value) for name, value in record.claims.items()},
        "bundle": {
            "name": record.bundle[0],
            "version": record.bundle[1],
            "digest": record.bundle[2].hex(),
        },
        "passport": record.passport,
        "texts": [{"sha256": text.sha256.hex(), "size": text.size} for text in record.texts],
        "coverage": {
            "seen": record.coverage.seen,
            "released": record.coverage.released,
            "windows": record.coverage.windows,
            "fields": record.coverage.fields,
            "complete": record.coverage.complete,
        },
        "latency_us": dict(record.latency_us),
        "auditors": dict(record.auditors),
        "shadow": record.shadow,
        "groups": None if record.groups is None else list(record.groups),
        "platform": None
        if record.platform is None
        else dict(zip(PLATFORM_FIELDS, record.platform, strict=True)),
        "received": moment(row["received_ns"]),
        "chain": {
            "seq": row["seq"],
            "previous_head": previous_head.hex(),
            "head": row["head"].hex(),
            "raw_bytes": len(row["record"]),
            "raw": row["record"].hex(),
            "checkpoint_covers": checkpoint is not None,
            "checkpoint": None if checkpoint is None else _checkpoint(checkpoint),
        },
    }


def _checkpoint(row: Mapping[str, Any]) -> Json:
    """A signed statement over the chain: by the boot's own key, or by a later boot's, which found
    the records on a disk."""
    return {
        "seq": row["seq"],
        "time": moment(row["wall_ns"]),
        "recovered_by": row["recovered_by"].hex() if row["recovered_by"] else None,
        "cose": row["cose"].hex(),
    }


def alarm(row: Mapping[str, Any]) -> Json:
    """One alarm. Its evidence is asked for by id."""
    return {
        "id": row["id"],
        "code": row["code"],
        "agent": row["agent_id"],
        "boot": row["boot_id"].hex() or None,
        "seq": row["seq"] if row["seq"] >= 0 else None,
        "reason": row["reason"],
        "detail": row["detail"],
        "first": moment(row["first_ns"]),
        "last": moment(row["last_ns"]),
        "count": row["count"],
        "evidence_bytes": len(row["evidence"]),
    }


def boot(row: Mapping[str, Any], *, now_s: float, answers: bool = True) -> Json:
    """What attests a boot, and how far its chain is proven. `answers`: with every check of it."""
    info = json.loads(row["passport_info"]) if row["passport_info"] else None
    passport = None
    if info is not None:
        passport = {
            "id": info["passport_id"],
            "tee": info["tee"],
            "tee_name": info["tee_display"],
            "simulated": info["simulated"],
            "hardware_attested": info["hardware_attested"],
            "issued": moment(info["issued_at"] * 10**9),
            "expires": moment(info["expires_at"] * 10**9),
            "expired": info["expires_at"] <= now_s,
            "answers": info["answers"] if answers else None,
            "bundle": {
                "name": info["bundle_name"],
                "version": info["bundle_version"],
                "digest": info["bundle_digest"],
            },
        }
    return {
        "boot": row["boot_id"].hex(),
        "boot_seed": row["boot_seed"].hex(),
        "passport": passport,
        "vouched_by": row["vouched_by"].hex() if row["vouched_by"] and passport is None else None,
        "first_seen": moment(row["first_seen_ns"]),
        "verified_seq": row["last_seq"],
        "head": row["head"].hex(),
        "checkpoint_seq": row["checkpoint_seq"],
        "checkpoint_time": moment(row["checkpoint_ns"]),
    }
