"""A pod in memory: its records, its decoded configuration, and what must not happen to it twice at once."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ocishim.api.runtime import v1
from ocishim.translate import statuses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocishim.model import SandboxMetadata, SandboxStatus
    from ocishim.store.records import Records


class SandboxName(NamedTuple):
    """What no two pods share."""

    namespace: str
    name: str
    uid: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name} (uid {self.uid}, attempt {self.attempt})"


class Makings:
    """Containers in the making, side by side; a stop of their pod waits until none is left."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """While a container is made."""
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none.set()

    async def none_left(self) -> None:
        """Wait until no container is in the making."""
        await self._none.wait()


class Sandbox:
    """One pod."""

    def __init__(
        self,
        metadata: SandboxMetadata,
        status: SandboxStatus,
        records: Records[SandboxMetadata, SandboxStatus],
    ) -> None:
        self._records = records
        self.metadata = metadata
        self.config = v1.PodSandboxConfig().parse(metadata.config)
        self.stopping = False
        """Set before a stop does anything: no container is made in the pod any more."""
        self.lock = asyncio.Lock()
        """Held while the pod is taken down."""
        self.makings = Makings()
        self.on_change: Callable[[Sandbox, SandboxStatus], None] | None = None
        """Told of each change of the status, with the one before."""
        self._status = status
        self._entry: bytes | None = None

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self.metadata.id

    @property
    def name_key(self) -> SandboxName:
        """What no two pods share."""
        metadata = self.metadata
        return SandboxName(metadata.namespace, metadata.name, metadata.uid, metadata.attempt)

    @property
    def title(self) -> str:
        """How errors and the log call it."""
        return f"pod {self.metadata.namespace}/{self.metadata.name}"

    @property
    def status(self) -> SandboxStatus:
        """Where the pod is in its life."""
        return self._status

    async def update(self, status: SandboxStatus) -> None:
        """Change the status, on disk first."""
        await self._records.update(self.id, status)
        self._adopt(status)

    def presume(self, status: SandboxStatus) -> None:
        """Change the status in memory where the disk would not take it."""
        self._adopt(status)

    def _adopt(self, status: SandboxStatus) -> None:
        before, self._status = self._status, status
        self._entry = None
        if self.on_change is not None:
            self.on_change(self, before)

    @property
    def entry(self) -> bytes:
        """The pod's encoded list entry, kept until its status changes."""
        if self._entry is None:
            self._entry = bytes(statuses.sandbox_entry(self.metadata, self._status, self.config))
        return self._entry

    @property
    def is_ready(self) -> bool:
        """Whether containers may be made and started in it."""
        return self._status.is_ready and not self.stopping
