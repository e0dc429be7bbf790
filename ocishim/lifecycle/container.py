"""A container in memory: its records, its decoded configuration, its process, and its one stop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from ocishim.api.runtime import v1
from ocishim.translate import statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocishim.linux.proc import ForeignProcess
    from ocishim.model import ContainerMetadata, ContainerStatus
    from ocishim.runtime.exits import Exit
    from ocishim.spec.runtime import Process
    from ocishim.store.records import Records


class ContainerName(NamedTuple):
    """What no two containers share."""

    sandbox_id: str
    name: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.name} (attempt {self.attempt}) in pod sandbox {self.sandbox_id}"


class Container:
    """One container."""

    def __init__(
        self,
        metadata: ContainerMetadata,
        status: ContainerStatus,
        records: Records[ContainerMetadata, ContainerStatus],
    ) -> None:
        self._records = records
        self.metadata = metadata
        self.config = v1.ContainerConfig().parse(metadata.config)
        self.lock = asyncio.Lock()
        """Held while it is started, while its end is recorded, and while it is removed; never over a wait."""
        self.checkpointing = asyncio.Lock()
        """Held while its state is written down, which is not to be in the way of its stop, only of its removal."""
        self.process: ForeignProcess | None = None
        """Its init process, from its start until its end is recorded."""
        self.exit_report: asyncio.Future[Exit] | None = None
        """Set by the exit watch."""
        self.ended = asyncio.Event()
        """Its end is on disk."""
        self.stop: Stop | None = None
        self.exec_template: Process | None = None
        """How its own process was started, read from the bundle by the first exec."""
        self.on_change: Callable[[Container, ContainerStatus], None] | None = None
        """Told of each change of the status, with the one before."""
        self._status = status
        self._entry: bytes | None = None
        if status.has_exited:
            self.ended.set()

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self.metadata.id

    @property
    def name_key(self) -> ContainerName:
        """What no two containers share."""
        return ContainerName(self.metadata.sandbox_id, self.metadata.name, self.metadata.attempt)

    @property
    def title(self) -> str:
        """How errors and the log call it."""
        return f"container {self.metadata.name} ({self.id[:13]})"

    @property
    def status(self) -> ContainerStatus:
        """Where the container is in its life."""
        return self._status

    async def update(self, status: ContainerStatus) -> None:
        """Change the status, on disk first."""
        await self._records.update(self.id, status)
        self._adopt(status)

    def presume(self, status: ContainerStatus) -> None:
        """Change the status in memory where the disk would not take it: what has happened has happened."""
        self._adopt(status)

    def _adopt(self, status: ContainerStatus) -> None:
        before, self._status = self._status, status
        self._entry = None
        if self.on_change is not None:
            self.on_change(self, before)
        if status.has_exited:
            self.ended.set()

    @property
    def entry(self) -> bytes:
        """The container's encoded list entry, kept until its status changes."""
        if self._entry is None:
            self._entry = bytes(statuses.container_entry(self.metadata, self._status, self.config))
        return self._entry

    def forget_process(self) -> None:
        """Let the descriptor of its init process go."""
        if self.process is not None:
            self.process.close()
            self.process = None


class Stop:
    """The one stop that a container has: later calls join it and may only shorten it."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """On the event loop's clock."""
        self.shortened = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def shorten(self, deadline: float) -> None:
        """Kill at this time if that is earlier."""
        if deadline < self.deadline:
            self.deadline = deadline
            self.shortened.set()
