"""Rates: a token bucket for each principal and rate, in bounded memory, on a monotonic clock.

A bucket holds as many tokens as the rate counts, and fills evenly. A request takes one from every
bucket that binds it, or, if one is empty, none at all. Buckets live as long as the agent: a reload
of the bundle does not fill them, as long as the policy and its rate stay the same.

When there are too many buckets, the one that was used longest ago goes, if it is full by now (then
nothing is lost). If even that one is not, a newcomer is refused: to forget a limit would be to lift
it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from enforcement.policy.obligations import Rate

MAX_BUCKETS: Final = 65_536  # about 300 bytes each

_Key = tuple[Rate, tuple[str, str]]


class _Bucket(msgspec.Struct):
    tokens: float
    as_of: float  # seconds


class RateLimiter:
    """Counts. Used from one thread."""

    def __init__(self, *, max_buckets: int = MAX_BUCKETS) -> None:
        self._max = max_buckets
        self._buckets: OrderedDict[_Key, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(
        self, principal: tuple[str, str], rates: tuple[Rate, ...], now: float
    ) -> tuple[Rate, float] | None:
        """Take one request's worth of all rates. `now`: seconds, never going backwards.

        Returns:
            None if it may go on; else the rate that is used up, and the seconds until it is not.
        """
        found = []
        for rate in rates:
            bucket = self._bucket((rate, principal), now)
            if bucket is None:
                return rate, rate.seconds
            speed = rate.count / rate.seconds
            passed = max(now - bucket.as_of, 0.0)
            bucket.tokens = min(bucket.tokens + passed * speed, float(rate.count))
            bucket.as_of = max(now, bucket.as_of)
            if bucket.tokens < 1.0:
                return rate, (1.0 - bucket.tokens) / speed
            found.append(bucket)
        for bucket in found:
            bucket.tokens -= 1.0
        return None

    def _bucket(self, key: _Key, now: float) -> _Bucket | None:
        bucket = self._buckets.get(key)
        if bucket is not None:
            self._buckets.move_to_end(key)
            return bucket
        if len(self._buckets) >= self._max:
            (rate, _), oldest = next(iter(self._buckets.items()))
            missing = rate.count - oldest.tokens
            if (now - oldest.as_of) * rate.count / rate.seconds < missing:
                return None
            self._buckets.popitem(last=False)
        bucket = self._buckets[key] = _Bucket(float(key[0].count), now)
        return bucket
