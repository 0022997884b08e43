"""The daemon: configuration, life cycle, journal, stream and local API, on trio.

This is the only room that knows the others: it ties `attestation` and `enforcement` together.
"""
