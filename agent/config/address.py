"""Addresses to listen on, as text."""

from __future__ import annotations

import ipaddress


def parse_address(text: str) -> tuple[str, int]:
    """`host:port` or `[ipv6]:port` as (host, port); the host is an IP address.

    Raises:
        ValueError: neither form.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{text!r} is not ADDRESS:PORT, for example 127.0.0.1:8080")
    host = "127.0.0.1" if host == "localhost" else host
    return str(ipaddress.ip_address(host)), int(port)


def address_problems(name: str, text: str) -> list[str]:
    """Why the value of this key is no address; nothing where it is one."""
    try:
        parse_address(text)
    except ValueError as error:
        return [f"{name}: {error}"]
    return []
