"""What is known of an agent's boots from before, held against the one that begins now."""

from __future__ import annotations

from collections.abc import Iterator

from observer.boots import Attested, Before
from observer.effects import Alarm, AlarmCode


def alarms_about(before: Before, running: Attested, boot_id: bytes) -> Iterator[Alarm]:
    """What an operator must see when this boot takes its place as the running one."""
    yield from _lost(before, running.subject)
    if before.hardware and not running.hardware_attested:
        yield Alarm(
            code=AlarmCode.DOWNGRADE,
            agent_id=running.subject,
            boot_id=boot_id,
            reason="boot.hardware",
            detail=f"boots of this agent were hardware attested ({before.hardware}); this one, on a"
            f" {running.tee_display}, is not: it may be another machine under the same name.",
        )


def _lost(before: Before, agent_id: str) -> Iterator[Alarm]:
    """Boots whose records are not all stored here, and which the agent does not offer any more."""
    for boot in before.lost:
        yield Alarm(
            code=AlarmCode.ROLLBACK,
            agent_id=agent_id,
            boot_id=boot.boot_id,
            seq=boot.last_seq,
            reason="boot.lost",
            detail=f"this boot had seq {boot.known_seq} ({boot.source}), seq {boot.last_seq} is"
            " stored here, and the agent does not offer it any more: its journal was removed or"
            " rolled back, or this Observer's database was.",
        )
