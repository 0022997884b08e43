"""Panics of libraries that are written in Rust (cryptography, cbor2, Cedar): they reach Python as a
BaseException of their own.

`except Exception` does not see them, so one in a parser would end what must survive everything.
Where a task of the daemon calls such a library, a fault is caught by `FaultsEndHere`, or as
`except BaseException as error: if not is_fault(error): raise`.
"""

from __future__ import annotations

from collections.abc import Callable


def is_fault(error: BaseException) -> bool:
    """Whether it is an error or a panic: not a cancellation or a signal, which must go on. A group
    is a fault if nothing else is in it.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_fault(inner) for inner in error.exceptions)
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


class FaultsEndHere:
    """What goes wrong in the block is noted and ends with it. What is no fault goes on, also where
    both come in one group, as out of a nursery that is cancelled.
    """

    def __init__(self, note: Callable[[BaseException], object]) -> None:
        self._note = note

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if error is None:
            return False
        if is_fault(error):
            self._note(error)
            return True
        if isinstance(error, BaseExceptionGroup):
            faults, rest = error.split(is_fault)
            if faults is not None and rest is not None:
                self._note(faults)
                raise rest from None
        return False
