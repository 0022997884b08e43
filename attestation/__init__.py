"""Evidence, its verification, passports, and the formats that prove what was decided.

Everything here is pure: bytes and a clock value in, typed values or an exception out. The edges
that touch files or sockets take them as arguments. Nothing here imports `agent` or `enforcement`.
"""
