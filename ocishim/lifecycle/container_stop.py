"""StopContainer: one signal, one grace period, then SIGKILL until it is gone.

A container has one stop. Later calls join it and may only shorten it; no lock is held while it waits.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Final

from ocishim.lifecycle.container import Stop
from ocishim.linux import cgroup

if TYPE_CHECKING:
    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 10.0


async def stop_container(node: Node, container: Container, grace: float) -> None:
    """Stop the container, `grace` seconds after the stop signal by force; 0 kills at once.

    Returns when its end is recorded; at once where it does not run.
    """
    async with container.lock:  # a start under way comes to its end first
        if not container.status.is_running:
            return
        deadline = asyncio.get_running_loop().time() + grace
        if container.stop is None:
            container.stop = Stop(deadline)
            container.stop.task = node.jobs.spawn(_stop(container, container.stop), f"stop {container.title}")
        else:
            container.stop.shorten(deadline)
        task = container.stop.task
    if task is not None:
        await asyncio.shield(task)


async def _stop(container: Container, stop: Stop) -> None:
    loop = asyncio.get_running_loop()
    if stop.deadline > loop.time():
        _signal(container, container.metadata.stop_signal)
    while stop.deadline > loop.time() and not container.ended.is_set():
        await _first(container.ended, stop.shortened, timeout=stop.deadline - loop.time())
        stop.shortened.clear()
    pause = _FIRST_PAUSE
    while not container.ended.is_set():
        _signal(container, signal.SIGKILL)
        await _first(container.ended, timeout=pause)
        if not container.ended.is_set():
            # Frozen, or more than its first process: take all there is in its cgroup.
            await asyncio.to_thread(cgroup.kill_all, container.metadata.cgroup, within=pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def _signal(container: Container, number: int) -> None:
    if container.process is not None:
        container.process.signal(number)


async def _first(*events: asyncio.Event, timeout: float) -> None:  # noqa: ASYNC109 - asyncio.wait's own
    """Wait until one of the events is set or the time is over."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
