"""One fetch for all who want the same thing at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from attestation.errors import AttestationError, UncheckableError
from attestation.panics import is_fault


class Flights:
    """Runs fetches in its owner's nursery: a caller that is cancelled leaves them to the others.

    Args:
        service: begins the codes of the errors that waiting callers get: `….stopped` when the
            nursery is cancelled, `….fault`.
    """

    def __init__(self, nursery: trio.Nursery, service: str) -> None:
        self._nursery, self._service = nursery, service
        self._flying: dict[str, _Flight] = {}

    async def join(self, name: str, fetch: Callable[[], Awaitable[bytes]]) -> bytes:
        """What `fetch` gives, which is called only if nobody waits for `name` already.

        Raises:
            AttestationError: as `fetch` did.
        """
        flight = self.begin(name, fetch)
        await flight.landed.wait()
        if flight.error is not None:
            raise flight.error
        assert flight.data is not None
        return flight.data

    def begin(self, name: str, fetch: Callable[[], Awaitable[bytes]]) -> _Flight:
        """Fetch in the background, if nobody does already."""
        flight = self._flying.get(name)
        if flight is None:
            flight = self._flying[name] = _Flight()
            self._nursery.start_soon(self._fly, name, flight, fetch)
        return flight

    async def _fly(self, name: str, flight: _Flight, fetch: Callable[[], Awaitable[bytes]]) -> None:
        try:
            flight.data = await fetch()
        except AttestationError as error:
            flight.error = error
        except trio.Cancelled:
            flight.error = UncheckableError(f"{self._service}.stopped", "the fetch was stopped")
            raise
        except BaseException as error:
            if not is_fault(error):
                raise
            # Perhaps nobody waits: it must not end the owner's nursery.
            flight.error = UncheckableError(
                f"{self._service}.fault", f"a fault of the agent itself: {type(error).__name__}"
            )
        finally:
            del self._flying[name]
            flight.landed.set()


class _Flight:
    def __init__(self) -> None:
        self.landed = trio.Event()
        self.data: bytes | None = None
        self.error: AttestationError | None = None
