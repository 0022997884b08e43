"""Panics of libraries that are written in Rust: they reach Python as a BaseException of their own.

`except Exception` does not see them, so one in a parser would end what must survive everything.
"""

from __future__ import annotations


def is_fault(error: BaseException) -> bool:
    """Whether it is an error or a panic: not a cancellation or a signal, which must go on."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
