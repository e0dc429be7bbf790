"""RemoveContainer: everything a container holds goes, its record last; its log stays."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ocishim.errors import OcishimError, OperationFailed
from ocishim.lifecycle.container_mounts import unmount_all
from ocishim.lifecycle.container_stop import stop_container
from ocishim.lifecycle.jobs import step
from ocishim.linux import cgroup, files

if TYPE_CHECKING:
    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node

log = logging.getLogger(__name__)


async def remove_container(node: Node, container: Container) -> None:
    """Remove a container, killing it first if it runs. Raises OperationFailed that names what is left."""
    await node.jobs.run(
        ("remove-container", container.id),
        f"RemoveContainer of {container.title}",
        None,
        lambda: _remove(node, container),
    )


async def _remove(node: Node, container: Container) -> None:
    while True:
        with step("stop it"):
            await stop_container(node, container, 0)
        async with container.checkpointing, container.lock:
            if container.status.is_running:
                continue  # a start came in between
            await release_container(node, container)
            node.containers.discard(container)
            return


async def release_container(node: Node, container: Container) -> None:
    """Give back what the container holds, derived from its record; any number of times.

    The record goes only when all else is gone, so that what fails is tried again by the next removal.
    """
    container.forget_process()
    metadata = container.metadata
    try:
        if container.status.launched_at:
            with step("delete it in the runtime"):
                await node.runtime_of(container).delete(metadata.id)
        with step("remove its mounts and files"):
            await asyncio.to_thread(_clear, node, container)
        await node.container_records.remove(metadata.id)
    except OSError as error:
        raise OperationFailed(f"{container.title} cannot be removed: {error}") from error
    await node.images.release(metadata.id)


def _clear(node: Node, container: Container) -> None:
    metadata = container.metadata
    paths = node.layout.container(metadata.id)
    if not cgroup.kill_all(metadata.cgroup):
        raise OcishimError(f"{container.title}: processes in cgroup {metadata.cgroup} do not die")
    cgroup.remove(metadata.cgroup)
    unmount_all(paths, len(metadata.volumes))
    files.remove_tree(paths.state)
    files.remove_tree(f"{paths.sockets}/{metadata.id}")
    files.unlink(paths.exit_file)
