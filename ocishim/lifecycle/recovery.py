"""The start after anything: load what is on disk, look at what is there, make the two agree, sweep the rest.

Assumed: this is the only server on these directories (daemon.py holds their locks) and nothing is served yet.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

from ocishim.errors import AlreadyExists, OcishimError
from ocishim.lifecycle.checkpoint import undo
from ocishim.lifecycle.container import Container
from ocishim.lifecycle.container_remove import release_container
from ocishim.lifecycle.container_start import watch
from ocishim.lifecycle.container_update import reapply
from ocishim.lifecycle.pause import watch_pause
from ocishim.lifecycle.sandbox import Sandbox
from ocishim.lifecycle.sandbox_release import release_sandbox
from ocishim.linux import cgroup, files, mount, namespace, proc
from ocishim.model import ProcessRef
from ocishim.translate.reconcile import (
    Action,
    ContainerObserved,
    SandboxObserved,
    reconcile_container,
    reconcile_sandbox,
)

if TYPE_CHECKING:
    from ocishim.lifecycle.node import Node
    from ocishim.model import ContainerMetadata, ContainerStatus, SandboxMetadata, SandboxStatus
    from ocishim.runtime.oci import OciRuntime
    from ocishim.store.records import Loaded

log = logging.getLogger(__name__)


async def recover(node: Node) -> None:
    """Bring memory, disk and host into agreement. Objects that fail are logged and left to their removal."""
    began = time.monotonic()
    sandboxes = await asyncio.to_thread(lambda: list(node.sandbox_records.load()))
    containers = await asyncio.to_thread(lambda: list(node.container_records.load()))
    for found in containers:
        node.images.hold(found.metadata.id, found.metadata.layers)
    for loaded in sandboxes:
        await _recover_sandbox(node, loaded)
    await node.oom_kills.recover(containers, node.boot_id)
    for each in containers:
        await _recover_container(node, each)
    for _ in (*node.sandbox_records.set_aside, *node.container_records.set_aside):
        node.meter.finding("record-unreadable")
    await _sweep(node)
    await node.images.sweep()
    if sandboxes or containers:
        elapsed = time.monotonic() - began
        log.info("recovered %d pods and %d containers in %.2f s", len(sandboxes), len(containers), elapsed)


async def _recover_sandbox(node: Node, loaded: Loaded[SandboxMetadata, SandboxStatus]) -> None:
    sandbox = Sandbox(loaded.metadata, loaded.status, node.sandbox_records)
    status, action = reconcile_sandbox(loaded.status, _observe_sandbox(node, loaded), time.time_ns())
    try:
        if action == "undo":
            log.info("%s was in the making when the server ended: undone", sandbox.title)
            node.meter.finding("sandbox-undone")
            await release_sandbox(node, sandbox)
            await node.sandbox_records.remove(sandbox.id)
            return
        if status is not loaded.status:
            log.warning("%s has lost its namespaces or its pause process: not ready", sandbox.title)
            node.meter.finding("sandbox-lost")
            await sandbox.update(status)
    except (OcishimError, OSError) as error:
        log.error("%s: %s", sandbox.title, error)  # noqa: TRY400 - no bug
        sandbox.presume(status.model_copy(update={"stopped_at": status.stopped_at or time.time_ns()}))
    try:
        node.sandboxes.add(sandbox)
        watch_pause(node, sandbox)
    except AlreadyExists as error:
        log.error("%s: %s; it is left on disk", sandbox.title, error)  # noqa: TRY400


def _observe_sandbox(node: Node, loaded: Loaded[SandboxMetadata, SandboxStatus]) -> SandboxObserved:
    metadata, status = loaded.metadata, loaded.status
    directory = node.layout.sandbox(metadata.id).namespaces
    return SandboxObserved(
        rebooted=metadata.boot_id != node.boot_id,
        namespaces_pinned=all(namespace.is_pinned(f"{directory}/{kind}") for kind in metadata.namespaces),
        pause_alive=status.pause is not None and proc.is_alive(status.pause.pid, status.pause.start),
    )


async def _recover_container(node: Node, loaded: Loaded[ContainerMetadata, ContainerStatus]) -> None:
    container = Container(loaded.metadata, loaded.status, node.container_records)
    try:
        observed = await _observe_container(node, container)
        status, action = reconcile_container(loaded.status, observed, time.time_ns())
        if action == "undo":
            log.info("%s was in the making when the server ended: undone", container.title)
            node.meter.finding("container-undone")
            await release_container(node, container)
            return
        if status is not loaded.status:
            node.meter.finding("container-changed")
            await container.update(status)
        node.containers.add(container)
        try:
            await undo(node, container)
        finally:
            # Whatever becomes of a checkpoint's remains, the container is supervised.
            await _act(node, container, action)
    except (OcishimError, OSError) as error:
        log.error("%s: %s", container.title, error)  # noqa: TRY400 - no bug
        if node.containers.named(container.name_key) is None:
            node.containers.add(container)


async def _observe_container(node: Node, container: Container) -> ContainerObserved:
    metadata, status = container.metadata, container.status
    paths = node.layout.container(metadata.id)
    launched = None
    if status.launched_at and not status.started_at and not status.has_exited:
        known = await node.runtime_of(container).state(metadata.id)
        if known is not None and known.status == "running" and (found := proc.stat(known.pid)):
            launched = ProcessRef(pid=found.pid, start=found.start)
    process = status.process
    return ContainerObserved(
        rebooted=metadata.boot_id != node.boot_id,
        has_exit_file=os.path.exists(paths.exit_file),  # noqa: ASYNC240 - in memory, and nothing is served yet
        process_alive=process is not None and proc.is_alive(process.pid, process.start),
        launched=launched,
    )


async def _act(node: Node, container: Container, action: Action) -> None:
    if action == "finish":
        node.meter.finding("container-ended")
    if action in ("watch", "finish"):
        watch(node, container, container.status.process)
        if action == "watch":
            await reapply(node, container)
    elif action == "clear" and container.status.launched_at:
        paths = node.layout.container(container.metadata.id)
        if await asyncio.to_thread(os.path.isdir, f"{node.runtime_of(container).root}/{container.id}"):
            await node.runtime_of(container).delete(container.id)
        await asyncio.to_thread(mount.unmount_all, paths.rootfs)
        await asyncio.to_thread(cgroup.remove, container.metadata.cgroup)


async def _sweep(node: Node) -> None:
    """Take away what is named after an id that no record has."""
    known = {each.id for each in node.sandboxes} | {each.id for each in node.containers}
    for runtime in node.runtimes.by_name.values():
        for container_id in await asyncio.to_thread(_names, runtime.root):
            if container_id not in known and await _is_ours(node, runtime, container_id):
                log.warning("%s has a container %s that no record knows: deleted", runtime.name, container_id)
                node.meter.finding("container-unknown")
                await runtime.delete(container_id)
    await asyncio.to_thread(_sweep_files, node, known)


async def _is_ours(node: Node, runtime: OciRuntime, container_id: str) -> bool:
    """What a runtime keeps below the server's own directory is the server's; elsewhere others may keep theirs too."""
    ours = f"{node.settings.state}/"
    if runtime.root.startswith(ours):
        return True
    try:
        found = await runtime.state(container_id)
    except OcishimError:
        return False
    return found is not None and found.bundle.startswith(ours)


def _sweep_files(node: Node, known: set[str]) -> None:
    layout = node.layout
    for parent in (layout.sandbox_states, layout.container_states, layout.exits, layout.sockets):
        for name in _names(parent):
            if name not in known:
                log.warning("%s/%s belongs to nothing: removed", parent, name)
                node.meter.finding("files-unknown")
                mount.unmount_tree(f"{parent}/{name}")
                files.remove_tree(f"{parent}/{name}")


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
