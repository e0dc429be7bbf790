"""Rates from counters: what a cgroup used lately, from two readings that lie far enough apart."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

SECOND: Final = 10**9
LEAST: Final = SECOND
"""Nanoseconds that a rate must span: shorter ones tell of the scheduler, not of the workload."""

_STALE: Final = 3
"""Intervals."""


@dataclass(frozen=True, slots=True)
class _Reading:
    at: int
    used: int


@dataclass(slots=True)
class _Counter:
    newer: _Reading
    older: _Reading


class Windows:
    """The last readings of each counter, by a key of the caller's.

    A rate is taken against the older of two readings that are kept an interval apart, so that it always spans one to
    two intervals, however often it is asked for.
    """

    def __init__(self, interval: float, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._interval = int(interval * SECOND)
        self._clock = clock
        self._counters: dict[str, _Counter] = {}

    def rate(self, key: str, used: int | None) -> int | None:
        """Enter a reading; returns its growth a second, None until there is an older one to compare with."""
        if used is None:
            return None
        now = _Reading(self._clock(), used)
        counter = self._counters.get(key)
        # A counter that falls is another one now; one that was not read for long tells nothing of lately.
        if counter is None or used < counter.newer.used or now.at - counter.newer.at > _STALE * self._interval:
            self._counters[key] = _Counter(now, now)
            return None
        if now.at - counter.newer.at >= self._interval:
            counter.older, counter.newer = counter.newer, now
        elapsed = now.at - counter.older.at
        return (used - counter.older.used) * SECOND // elapsed if elapsed >= LEAST else None

    def keep(self, keys: Collection[str]) -> None:
        """Forget all others."""
        for key in self._counters.keys() - set(keys):
            del self._counters[key]
