"""The daemon: configuration, life cycle, journal, stream and local API, on trio.

This is the only room that knows the others: it ties `attestation` and `enforcement` together.
"""

__version__ = "0.1.0"  # as in pyproject.toml: to read the installed one costs 1 MB of memory
