"""What happens to pods and containers, in order, for whoever listens.

An object's CREATED is its entry into the index that clients' lists are made from, its DELETED that it leaves it, and
what lies between are changes of its status: no operation has to remember to tell. An event is encoded once, and only
while somebody listens. A subscriber's queue is bounded; one that does not read is ended, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from ocishim.translate import events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ocishim.api.runtime import v1
    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.model import ContainerStatus, SandboxStatus
    from ocishim.store.index import Index

MOST_EVENTS: Final = 1024
"""Events that wait for one subscriber."""
MOST_BYTES: Final = 16 << 20
"""Bytes that wait for one subscriber; a full pod's event is some 50 KB, and annotations make it more."""


class Subscription:
    """Encoded events from the moment it is made, until it is closed or has fallen too far behind."""

    def __init__(self, close: Callable[[Subscription], None], overflowed: Callable[[], None]) -> None:
        self._close = close
        self._overflowed = overflowed
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._news = asyncio.Event()
        self.has_overflowed = False
        """It was too slow: it gets nothing any more."""

    async def next(self) -> bytes:
        """The next event, waiting for it; one caller at a time."""
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        event = self._waiting.popleft()
        self._size -= len(event)
        return event

    def put(self, event: bytes) -> None:
        """Queue an event, or end the subscription where the queue is full."""
        if len(self._waiting) >= MOST_EVENTS or self._size + len(event) > MOST_BYTES:
            self.has_overflowed = True
            self.close()
            self._overflowed()
            return
        self._waiting.append(event)
        self._size += len(event)
        self._news.set()

    def close(self) -> None:
        """Get nothing any more, and let go of what waits; any number of times."""
        self._close(self)
        self._waiting.clear()
        self._size = 0


class Journal:
    """Tells all subscribers what happens to the objects of two indexes."""

    def __init__(self, sandboxes: Index[Sandbox], containers: Index[Container]) -> None:
        self._sandboxes = sandboxes
        self._containers = containers
        self._subscribers: list[Subscription] = []
        self._last = 0
        sandboxes.observe(self._sandbox_added, self._sandbox_removed)
        containers.observe(self._container_added, self._container_removed)

    def subscribe(self, overflowed: Callable[[], None]) -> Subscription:
        """Listen from now on; `overflowed` is called at once when the subscriber has been too slow."""
        made = Subscription(self._unsubscribe, overflowed)
        self._subscribers.append(made)
        return made

    def _unsubscribe(self, subscription: Subscription) -> None:
        if subscription in self._subscribers:
            self._subscribers.remove(subscription)

    def _sandbox_added(self, sandbox: Sandbox) -> None:
        sandbox.on_change = self._sandbox_changed
        self._tell([events.CREATED, *([events.STARTED] if sandbox.status.is_ready else [])], sandbox.id, sandbox)

    def _sandbox_changed(self, sandbox: Sandbox, before: SandboxStatus) -> None:
        self._tell(events.sandbox_changes(before, sandbox.status), sandbox.id, sandbox)

    def _sandbox_removed(self, sandbox: Sandbox) -> None:
        sandbox.on_change = None
        self._tell([events.DELETED], sandbox.id, sandbox)

    def _container_added(self, container: Container) -> None:
        container.on_change = self._container_changed
        self._tell([events.CREATED], container.id, self._pod_of(container))

    def _container_changed(self, container: Container, before: ContainerStatus) -> None:
        self._tell(events.container_changes(before, container.status), container.id, self._pod_of(container))

    def _container_removed(self, container: Container) -> None:
        container.on_change = None
        self._tell([events.DELETED], container.id, self._pod_of(container))

    def _pod_of(self, container: Container) -> Sandbox | None:
        return self._sandboxes.find(container.metadata.sandbox_id)

    def _tell(self, kinds: Iterable[v1.ContainerEventType], subject: str, sandbox: Sandbox | None) -> None:
        if not self._subscribers:
            return
        for kind in kinds:
            event = bytes(self._event(kind, subject, sandbox))
            for subscriber in tuple(self._subscribers):
                subscriber.put(event)

    def _event(self, kind: v1.ContainerEventType, subject: str, sandbox: Sandbox | None) -> v1.ContainerEventResponse:
        # The clock may be set back; the order of events may not.
        self._last = max(self._last + 1, time.time_ns())
        if sandbox is None:
            return events.event(kind, subject, self._last, None, ())
        pod = (sandbox.metadata, sandbox.status, sandbox.config)
        containers = [
            (each.metadata, each.status, each.config)
            for each in self._containers
            if each.metadata.sandbox_id == sandbox.id
        ]
        return events.event(kind, subject, self._last, pod, containers)
