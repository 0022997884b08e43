"""Who counts as one peer, and how much of what peers may have."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

_NEIGHBOURS: Final = 64  # bits of an IPv6 address that one customer shares with nobody


def peer(host: str) -> str:
    """The name under which an address is counted: itself, of IPv6 its /64. What is no address
    counts as it is."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_loopback:
        return str(address)
    return str(ipaddress.ip_network((int(address), _NEIGHBOURS), strict=False))


class Rate:
    """So many at once, and so many a second after that.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, burst: int, per_second: float, *, clock: Callable[[], float]) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._left = float(burst)
        self._then = clock()

    def allows(self) -> bool:
        """True where one more is within the rate; it is then counted."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._then) * self._per_second)
        self._then = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Full(Exception):  # noqa: N818 - a ruling, named after what the peer is told
    """No place for another one. `why` is a word of ours: `address` or `all`."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Places:
    """So many places in all, and so many for one peer.

    Args:
        shared: addresses or networks of proxies, which many people come from: only `total` holds
            for them.
    """

    def __init__(self, total: int, per_peer: int, *, shared: Iterable[str] = ()) -> None:
        self._total = total
        self._per_peer = per_peer
        self._shared = tuple(map(ipaddress.ip_network, shared))
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._taken.total()

    def take(self, name: str) -> None:
        """Take a place for a peer (as `peer` names it). Give it back with `leave`.

        Raises:
            Full: there is none.
        """
        if self._taken[name] >= self._per_peer and not self._is_shared(name):
            raise Full("address")
        if self.taken >= self._total:
            raise Full("all")
        self._taken[name] += 1

    def _is_shared(self, name: str) -> bool:
        try:
            network = ipaddress.ip_network(name)
        except ValueError:
            return False
        return any(
            network.version == shared.version and network.overlaps(shared)
            for shared in self._shared
        )

    def leave(self, name: str) -> None:
        """Give a place back."""
        self._taken[name] -= 1
        if not self._taken[name]:
            del self._taken[name]
