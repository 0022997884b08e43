"""The thread that stays: in order, errors to who asked, and an end."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import trio

from agent.worker import open_worker


def refuse() -> None:
    raise ValueError("no")


async def test_pieces_run_in_one_thread_in_order_and_give_values() -> None:
    names: list[str] = []
    done: list[int] = []

    def piece(number: int) -> int:
        names.append(threading.current_thread().name)
        done.append(number)
        return number * 2

    async with open_worker("one") as worker:
        assert [await worker.run(partial(piece, n)) for n in range(5)] == [0, 2, 4, 6, 8]
    assert set(names) == {"one"}
    assert done == [0, 1, 2, 3, 4]


async def test_an_error_goes_to_who_asked_and_the_next_piece_runs() -> None:
    async with open_worker("one") as worker:
        with pytest.raises(ValueError, match="no"):
            await worker.run(refuse)
        assert await worker.run(lambda: 7) == 7


async def test_a_cancelled_caller_waits_for_the_end_of_its_piece() -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def piece() -> None:
        begun.set()
        go.wait(10)
        ended.set()

    async with open_worker("one") as worker, trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, piece)
        await trio.to_thread.run_sync(begun.wait)
        nursery.cancel_scope.cancel()
        go.set()
    assert ended.is_set()


async def test_no_thread_is_left_behind() -> None:
    before = set(threading.enumerate())
    async with open_worker("mine"):
        assert any(thread.name == "mine" for thread in threading.enumerate())
    assert not {thread.name for thread in set(threading.enumerate()) - before} & {"mine"}
