"""StopPodSandbox and RemovePodSandbox: repeatable, and right whatever is gone already."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from ocishim.lifecycle.container_remove import remove_container
from ocishim.lifecycle.container_stop import stop_container
from ocishim.lifecycle.jobs import step
from ocishim.lifecycle.sandbox_release import release_sandbox

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox


async def stop_sandbox(node: Node, sandbox: Sandbox) -> None:
    """Kill the pod's containers and give back what it holds. Raises OperationFailed that names what is left."""
    await node.jobs.run(
        ("stop-sandbox", sandbox.id), f"StopPodSandbox of {sandbox.title}", None, lambda: _stop(node, sandbox)
    )


async def _stop(node: Node, sandbox: Sandbox) -> None:
    sandbox.stopping = True
    # None is begun or started any more, so that one in the making has nothing running when it is made.
    await _each(stop_container(node, container, 0) for container in node.containers_of(sandbox.id))
    with step("wait for containers in the making"):
        await sandbox.makings.none_left()
    async with sandbox.lock:
        await release_sandbox(node, sandbox)
        if not sandbox.status.stopped_at:
            await sandbox.update(sandbox.status.model_copy(update={"stopped_at": time.time_ns()}))


async def remove_sandbox(node: Node, sandbox: Sandbox) -> None:
    """Stop the pod if it is not, then remove its containers and every trace of it."""
    await node.jobs.run(
        ("remove-sandbox", sandbox.id), f"RemovePodSandbox of {sandbox.title}", None, lambda: _remove(node, sandbox)
    )


async def _remove(node: Node, sandbox: Sandbox) -> None:
    if not sandbox.status.stopped_at:
        await stop_sandbox(node, sandbox)
    # A pod that ended with its pause process may still have containers in the making, and running ones.
    sandbox.stopping = True
    await sandbox.makings.none_left()
    await _each(remove_container(node, container) for container in node.containers_of(sandbox.id))
    async with sandbox.lock:
        # Again: it finishes what a stop could not, and costs nothing where nothing is left.
        await release_sandbox(node, sandbox)
        await node.sandbox_records.remove(sandbox.id)
        node.sandboxes.discard(sandbox)


async def _each(operations: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All side by side, all to their end; then the first failure, if any."""
    results = await asyncio.gather(*operations, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
