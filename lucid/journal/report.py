"""What `lucid journal verify` prints of a journal in which everything holds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from lucid.journal.boots import Vouched
from lucid.journal.history import Found
from lucid.journal.verify import Verified
from lucid.terminal import printable

_SIMULATED: Final = "SIMULATED: proves nothing about hardware"


def lines_of(verified: Verified) -> Iterator[str]:
    """For people. Text from the file is made printable."""
    agent = printable(verified.agent_id) or "not named"
    yield f"Agent: {agent}"
    for first, last in verified.missing:
        numbers = f"{first}" if first == last else f"{first} to {last}"
        yield (
            f"Boot {numbers}: not in this file (it had no records, was forgotten by retention, or"
            " was removed: the file cannot tell)"
        )
    for found in verified.boots:
        row = found.boot.row
        yield f"Boot {row.number}: {row.boot_id.hex()}"
        for name, value in _boot_lines(found):
            yield f"  {name}: {value}"
    if verified.unrecorded:
        yield (
            f"Unrecorded: {verified.unrecorded} decisions let pass without a record, by the agent's"
            " own count, which nobody signed"
        )


def _boot_lines(found: Found) -> Iterator[tuple[str, str]]:
    vouched = found.boot.vouched
    if vouched:
        yield "Hardware", _hardware(vouched[0])
        yield "Passport", f"{vouched[0].passport_id}, valid when issued, {_second(vouched[0])}"
    else:
        yield "Hardware", "NOT ATTESTED: this boot had no passport"
    if found.pruned:
        yield "Not In This File", f"records 1 to {found.pruned}, no longer kept"
    if found.records:
        yield "Records", f"{found.pruned + 1} to {found.last_seq} ({found.records})"
        yield "Time", f"{_moment(found.first_ns)} to {_moment(found.last_ns)}"
        outcomes = (f"{count} {outcome}" for outcome, count in sorted(found.outcomes.items()))
        yield "Outcomes", ", ".join(outcomes)
    else:
        yield "Records", "none"
    if found.clock_steps:
        yield "Clock", f"the wall clock went back {found.clock_steps} times"
    if found.signed_by:
        yield "Signed Up To", f"record {found.signed_seq}, by {found.signed_by}"
    if found.unsigned:
        first = found.last_seq - found.unsigned + 1
        yield "UNSIGNED", f"{found.unsigned} records, {first} to {found.last_seq}: not verified"
    if found.unchecked:
        signer = f", of boot {found.recovered_by.hex()}" if found.recovered_by else ""
        yield "Not Checked", f"{found.unchecked} checkpoints: no passport has their key{signer}"
    for digest, (name, version, count) in found.policies.items():
        yield "Policy", f"{digest.hex()} {printable(f'{name} {version}')}: {count} records"
    if found.other_policies:
        yield "Policy", f"further ones: {found.other_policies} records"
    if vouched and found.records > found.under_passport:
        others = found.records - found.under_passport
        yield "Passports", f"{others} records name other passports, which are not in this file"


def _hardware(vouched: Vouched) -> str:
    if vouched.simulated:
        return f"{vouched.tee_display} ({_SIMULATED})"
    attested = "attested" if vouched.hardware_attested else "NOT ATTESTED"
    return f"{vouched.tee_display}, {attested}, TCB {vouched.tcb_status.replace('_', ' ')}"


def _second(vouched: Vouched) -> str:
    return datetime.fromtimestamp(vouched.issued_at, UTC).isoformat()


def _moment(ns: int) -> str:
    """A wall time; the end of what calendars know, where it is beyond."""
    try:
        return datetime.fromtimestamp(ns // 1_000_000_000, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns since 1970"


def json_of(verified: Verified) -> dict[str, Any]:
    """The same for scripts. Times of records are nanoseconds since 1970."""
    return {
        "agent": verified.agent_id,
        "records": sum(found.records for found in verified.boots),
        "unsigned": verified.unsigned,
        "unrecorded": {"count": verified.unrecorded, "signed": False},
        "missing_boots": [list(span) for span in verified.missing],
        "boots": [_boot_json(found) for found in verified.boots],
    }


def _boot_json(found: Found) -> dict[str, Any]:
    row, vouched = found.boot.row, found.boot.vouched
    return {
        "number": row.number,
        "boot": row.boot_id.hex(),
        "passport": _passport_json(vouched[0]) if vouched else None,
        "pruned_through": found.pruned,
        "first_seq": found.pruned + 1 if found.records else None,
        "last_seq": found.last_seq,
        "records": found.records,
        "first_ns": found.first_ns if found.records else None,
        "last_ns": found.last_ns if found.records else None,
        "clock_steps": found.clock_steps,
        "outcomes": dict(sorted(found.outcomes.items())),
        "signed_seq": found.signed_seq if found.signed_by else None,
        "signed_by": found.signed_by or None,
        "unsigned": found.unsigned,
        "checkpoints": {"verified": found.checkpoints, "not_checked": found.unchecked},
        "recovered_by": found.recovered_by.hex() or None,
        "policies": [
            {"digest": digest.hex(), "name": name, "version": version, "records": count}
            for digest, (name, version, count) in found.policies.items()
        ],
        "other_policies": found.other_policies,
        "under_passport": found.under_passport,
    }


def _passport_json(vouched: Vouched) -> dict[str, Any]:
    return {
        "id": vouched.passport_id,
        "issued_at": vouched.issued_at,
        "tee": vouched.tee,
        "simulated": vouched.simulated,
        "hardware_attested": vouched.hardware_attested,
        "tcb_status": vouched.tcb_status,
        "ueid": vouched.ueid.hex(),
        "measurement": vouched.measurement.hex(),
        "bundle_digest": vouched.bundle_digest.hex(),
        "journal": {"seq": vouched.journal_seq, "head": vouched.journal_head.hex()},
        "answers": vouched.answers,
    }
