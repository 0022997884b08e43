"""Whether requests are decided now, asked for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.boottime import Clock
from agent.life.lifecycle import Lifecycle, State
from enforcement.gateway.gateway import GateState

_OPEN: Final = GateState(open=True, code="", message="")


def gate_of(lifecycle: Lifecycle, clock: Clock) -> Callable[[], GateState]:
    """The gate that a life cycle opens. A journal that cannot record refuses by itself."""

    def gate() -> GateState:
        if clock() < lifecycle.open_until_ns:
            return _OPEN
        state = lifecycle.look().state
        return GateState(
            open=False,
            code="attestation_expired" if state is State.EXPIRED else "not_ready",
            message=f"the agent is {state}",
        )

    return gate
