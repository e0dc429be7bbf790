"""Giving back what a pod holds. Everything is derived from its record, so that a failed run, a stop, a removal
and a recovery all do the same, any number of times."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ocishim.errors import OcishimError, OperationFailed
from ocishim.lifecycle.jobs import step
from ocishim.linux import cgroup, files, mount, namespace
from ocishim.network.attachment import Attachment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox

log = logging.getLogger(__name__)


async def release_sandbox(node: Node, sandbox: Sandbox) -> None:
    """End the pause process and the network, let go of namespaces, mounts and files of this boot.

    Each part is tried whatever becomes of the others. Raises OperationFailed that names what is left.
    """
    parts: tuple[tuple[str, Callable[[Node, Sandbox], Awaitable[None]]], ...] = (
        ("end the pause process", _end_pause),
        ("detach from the network", _detach),
        ("let namespaces and mounts go", _unmount),
        ("remove the cgroup", _remove_cgroup),
    )
    failures: list[str] = []
    for what, part in parts:
        try:
            with step(what):
                await part(node, sandbox)
        except (OcishimError, OSError) as error:
            failures.append(f"{what}: {error}")
    if failures:
        raise OperationFailed(f"{sandbox.title} ({sandbox.id[:13]}): {'; '.join(failures)}")


async def _end_pause(node: Node, sandbox: Sandbox) -> None:
    metadata = sandbox.metadata
    if metadata.has_pause:
        await node.runtimes.choose(metadata.runtime).delete(metadata.id)
        await asyncio.to_thread(cgroup.remove, f"{metadata.cgroup_parent}/{metadata.id}")


async def _detach(node: Node, sandbox: Sandbox) -> None:
    """DEL with exactly what ADD was given; the attachment's file stays until it has succeeded."""
    path = node.layout.sandbox(sandbox.metadata.id).attachment
    content = await node.sandbox_records.read_text(sandbox.id, "network.json")
    if content is None:
        return
    try:
        attachment = Attachment.model_validate_json(content)
    except ValidationError as error:
        raise OperationFailed(
            f"{path} cannot be read ({error.errors()[0]['msg']}), so CNI DEL is not called"
        ) from error
    await node.cni.delete(attachment)
    await asyncio.to_thread(files.unlink, path)


async def _unmount(node: Node, sandbox: Sandbox) -> None:
    await asyncio.to_thread(_unmount_all, node, sandbox)


def _unmount_all(node: Node, sandbox: Sandbox) -> None:
    paths = node.layout.sandbox(sandbox.metadata.id)
    namespace.unpin(paths.namespaces)
    mount.unmount_all(paths.shm)
    files.remove_tree(paths.state)


async def _remove_cgroup(node: Node, sandbox: Sandbox) -> None:
    if sandbox.metadata.owns_cgroup and not node.containers_of(sandbox.id):
        await asyncio.to_thread(cgroup.remove, sandbox.metadata.cgroup_parent)
