"""What containers' own layers take of the disk: counted in the background, never while a client waits twice."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim.linux import files

if TYPE_CHECKING:
    from ocishim.lifecycle.jobs import Jobs

FRESH: Final = 10.0
"""Seconds a sample counts as fresh; kubelet asks this often."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A count and when it was made."""

    used: int
    inodes: int
    at: int
    """Nanoseconds since the epoch."""


class DiskUsage:
    """The usage of one directory tree."""

    def __init__(self, directory: str, jobs: Jobs) -> None:
        self._directory = directory
        self._jobs = jobs
        self._sample: Sample | None = None
        self._due = 0.0
        self._counting: asyncio.Task[None] | None = None

    async def sample(self) -> Sample:
        """The last count; one that is no longer fresh is counted again meanwhile. Only the first call waits."""
        if time.monotonic() >= self._due and (self._counting is None or self._counting.done()):
            self._counting = self._jobs.spawn(self._count(), f"count {self._directory}")
        if self._sample is None and self._counting is not None:
            await asyncio.shield(self._counting)
        return self._sample or Sample(0, 0, time.time_ns())

    async def _count(self) -> None:
        used, inodes = await asyncio.to_thread(files.tree_usage, self._directory)
        self._sample = Sample(used, inodes, time.time_ns())
        self._due = time.monotonic() + FRESH
