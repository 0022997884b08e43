"""A panic of a library in Rust, as it arrives: no Exception, of no class that can be imported."""

from __future__ import annotations


class Panic(BaseException):
    """Stands for `pyo3_runtime.PanicException`."""


Panic.__name__ = "PanicException"
