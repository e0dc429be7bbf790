"""What containers have written: counted in the background, never while a client waits twice."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim.linux import files

if TYPE_CHECKING:
    from ocishim.lifecycle.jobs import Jobs

FRESH: Final = 10.0
"""Seconds a count serves; kubelet asks this often."""
_REST: Final = 10
"""Times that a count took until the next one begins: counting has a tenth of one core at most."""
_LAYER: Final = "upper"


@dataclass(frozen=True, slots=True)
class Sample:
    """A count and when it was made."""

    used: int
    inodes: int
    at: int
    """Nanoseconds since the epoch."""


class DiskUsage:
    """The usage of the directory of all containers, and of each one's writable layer in it."""

    def __init__(self, directory: str, jobs: Jobs, fresh: float = FRESH) -> None:
        self._directory = directory
        self._jobs = jobs
        self._fresh = fresh
        self._sample: Sample | None = None
        self._layers: dict[str, Sample] = {}
        self._begun: dict[str, Sample] = {}
        """Layers counted by themselves while all are being counted."""
        self._due = 0.0
        self._counting: asyncio.Task[None] | None = None

    def begin(self, container_id: str) -> None:
        """Count the layer of a container that has just started: there is little in it, and who asks next finds it."""
        self._jobs.spawn(self._count_one(container_id), f"count the layer of {container_id[:13]}")

    def refresh(self) -> None:
        """Begin to count where the last count is no longer fresh."""
        if time.monotonic() >= self._due and (self._counting is None or self._counting.done()):
            self._counting = self._jobs.spawn(self._count(), f"count {self._directory}")

    async def sample(self) -> Sample:
        """The last count; one that is no longer fresh is counted again meanwhile. Only the first call waits."""
        self.refresh()
        if self._sample is None and self._counting is not None:
            await asyncio.shield(self._counting)
        return self._sample or Sample(0, 0, time.time_ns())

    def layer(self, container_id: str) -> Sample | None:
        """The last count of a container's writable layer; None until its first. Never waits."""
        return self._layers.get(container_id)

    async def _count_one(self, container_id: str) -> None:
        used, inodes = await asyncio.to_thread(files.tree_usage, f"{self._directory}/{container_id}/{_LAYER}")
        self._layers[container_id] = self._begun[container_id] = Sample(used, inodes, time.time_ns())

    async def _count(self) -> None:
        began = time.monotonic()
        self._begun.clear()
        layers, self._sample = await asyncio.to_thread(_count, self._directory)
        self._layers = self._begun | layers
        self._begun.clear()
        ended = time.monotonic()
        self._due = ended + max(self._fresh, (ended - began) * _REST)


def _count(directory: str) -> tuple[dict[str, Sample], Sample]:
    layers: dict[str, Sample] = {}
    used, inodes = 0, 0
    for name in files.names(directory):
        for part in files.names(f"{directory}/{name}"):
            below = files.tree_usage(f"{directory}/{name}/{part}")
            if part == _LAYER:
                layers[name] = Sample(*below, time.time_ns())
            own = files.own_usage(f"{directory}/{name}/{part}")
            used, inodes = used + own[0] + below[0], inodes + own[1] + below[1]
        own = files.own_usage(f"{directory}/{name}")
        used, inodes = used + own[0], inodes + own[1]
    return layers, Sample(used, inodes, time.time_ns())
