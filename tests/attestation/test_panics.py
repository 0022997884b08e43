"""Panics of libraries in Rust are faults like any other."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from attestation.errors import UncheckableError
from attestation.fetching.flights import Flights
from attestation.panics import FaultsEndHere, is_fault
from tests.panics import Panic


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        Panic(),
        ExceptionGroup("g", [ValueError()]),
        BaseExceptionGroup("g", [Panic()]),
        BaseExceptionGroup("g", [ValueError(), BaseExceptionGroup("h", [Panic()])]),
    ],
)
def test_errors_and_panics_are_faults_however_deep(error: BaseException) -> None:
    assert is_fault(error)
    noted: list[BaseException] = []
    with FaultsEndHere(noted.append):
        raise error
    assert noted == [error]


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        SystemExit(),
        BaseExceptionGroup("g", [KeyboardInterrupt()]),
        BaseExceptionGroup("g", [Panic(), KeyboardInterrupt()]),
    ],
)
def test_what_is_no_fault_goes_on(error: BaseException) -> None:
    assert not is_fault(error)
    noted: list[BaseException] = []
    with pytest.raises(type(error)) as caught, FaultsEndHere(noted.append):
        raise error
    assert len(noted) == (len(getattr(error, "exceptions", ())) == 2)
    if noted:
        assert isinstance(caught.value, BaseExceptionGroup)
        assert [type(one) for one in caught.value.exceptions] == [KeyboardInterrupt]


async def test_a_cancellation_goes_on_beside_a_panic() -> None:
    noted: list[BaseException] = []

    async def panics() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Panic

    with trio.CancelScope() as scope:
        with FaultsEndHere(noted.append):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(panics)
                nursery.start_soon(trio.sleep_forever)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        raise AssertionError("it was cancelled")
    assert scope.cancelled_caught
    assert len(noted) == 1


@pytest.mark.parametrize("error", [Panic("secret"), RecursionError("secret"), OSError(5, "secret")])
async def test_a_fault_in_a_fetch_is_told_to_those_who_wait_and_ends_nothing(
    error: BaseException,
) -> None:
    async def fetch() -> bytes:
        await trio.lowlevel.checkpoint()
        raise error

    async with trio.open_nursery() as nursery:
        flights = Flights(nursery, "kds")
        flights.begin("nobody waits", fetch)
        with pytest.raises(UncheckableError) as caught:
            await flights.join("vcek", fetch)
        assert caught.value.code == "kds.fault"
        assert "secret" not in str(caught.value)
