"""The door's sockets: who is woken, when, and what happens if the looking itself fails."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from enforcement.http.wire import InterruptedWaitError, Watch, Wire, WireTimeoutError


@asynccontextmanager
async def wired() -> AsyncIterator[tuple[Watch, Wire, socket.socket]]:
    """A watch that runs, a wire it watches, and the wire's peer."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    watch = Watch()
    with peer, contextlib.closing(watch):
        async with trio.open_nursery() as nursery:
            await nursery.start(watch.run)
            with contextlib.closing(Wire(ours, watch)) as wire:
                yield watch, wire, peer
            nursery.cancel_scope.cancel()


async def receive(wire: Wire, into: list[object]) -> None:
    try:
        into.append(await wire.receive())
    except (WireTimeoutError, InterruptedWaitError) as error:
        into.append(type(error))


def test_a_task_that_waits_is_woken_by_what_comes() -> None:
    async def scenario() -> list[object]:
        got: list[object] = []
        async with wired() as (_, wire, peer), trio.open_nursery() as nursery:
            nursery.start_soon(receive, wire, got)
            await trio.testing.wait_all_tasks_blocked()
            assert got == []
            peer.send(b"hello")
        return got

    assert trio.run(scenario) == [b"hello"]


def test_the_deadline_wakes_with_a_timeout() -> None:
    async def scenario() -> list[object]:
        got: list[object] = []
        async with wired() as (_, wire, _peer):
            wire.deadline = wire.within(30)
            await receive(wire, got)
        return got

    clock = trio.testing.MockClock(autojump_threshold=0)
    assert trio.run(scenario, clock=clock) == [WireTimeoutError]


def test_a_watch_with_no_wires_does_not_wake_and_its_first_wire_has_all_its_time() -> None:
    class Wakes(trio.abc.Instrument):
        count = 0

        def after_io_wait(self, timeout: float) -> None:
            self.count += 1

    async def scenario() -> tuple[list[object], float, int]:
        got: list[object] = []
        watch, wakes = Watch(), Wakes()
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        with peer, contextlib.closing(watch):
            async with trio.open_nursery() as nursery:
                await nursery.start(watch.run)
                await trio.sleep(5)
                trio.lowlevel.add_instrument(wakes)
                await trio.sleep(1000)
                rested = wakes.count
                with contextlib.closing(Wire(ours, watch)) as wire:
                    began = trio.current_time()
                    wire.deadline = wire.within(30)
                    await receive(wire, got)
                    took = trio.current_time() - began
                nursery.cancel_scope.cancel()
        return got, took, rested

    clock = trio.testing.MockClock(autojump_threshold=0)
    got, took, rested = trio.run(scenario, clock=clock)
    assert got == [WireTimeoutError]
    assert 30 <= took <= 31
    assert rested < 10, "a thousand seconds without one look"


def test_a_partner_is_woken_when_the_peer_hangs_up() -> None:
    async def scenario() -> list[object]:
        got: list[object] = []
        async with wired() as (watch, wire, peer), trio.open_nursery() as nursery:
            other, far = socket.socketpair()
            other.setblocking(False)
            with far:
                partner = Wire(other, watch)
                wire.partner = partner
                nursery.start_soon(receive, partner, got)
                await trio.testing.wait_all_tasks_blocked()
                peer.close()
                while not got:
                    await trio.lowlevel.checkpoint()
                partner.close()
        assert wire.gone
        return got

    assert trio.run(scenario) == [InterruptedWaitError]


def test_a_fault_while_looking_ends_the_door_instead_of_hanging_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fault(_wire: Wire, events: int) -> None:
        raise ValueError(events)

    async def scenario() -> None:
        async with wired() as (_, _wire, peer):
            monkeypatch.setattr(Wire, "wake", fault)
            peer.send(b"hello")
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        trio.run(scenario)
    assert caught.group_contains(RuntimeError, match="cannot be looked at")
