"""A pod's cgroup: made and limited where it was missing, found by its containers and monitors, removed with the pod.

A cgroup that was there before the pod is another's, kubelet's as a rule, which limits it as well (the sum of the
pod's containers and its overhead); what the server may do there is make cgroups below it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from ocishim.errors import OperationFailed
from ocishim.linux import cgroup
from ocishim.translate import cgroups
from ocishim.translate import resources as limits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ocishim.api.runtime import v1
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.linux.cgroup_driver import CgroupDriver
    from ocishim.model import SandboxMetadata

log = logging.getLogger(__name__)

_LAST_WORDS: Final = 5.0
"""Seconds that monitors get to end by themselves before their cgroup goes: they sync the log last of all."""


def driver_of(node: Node, metadata: SandboxMetadata) -> CgroupDriver:
    """The driver that the pod was made with. Raises FailedPrecondition where it cannot work any more."""
    return node.cgroups.named(metadata.cgroup_driver)


def container_cgroup(metadata: SandboxMetadata, container_id: str) -> str:
    """The path of the cgroup of a container in the pod, or of its pause process under the pod's own id."""
    return cgroups.container_cgroup(metadata.cgroup_driver, metadata.cgroup_parent, container_id)


def runtime_path(metadata: SandboxMetadata, container_id: str) -> str:
    """The same as the OCI runtime is told of it."""
    return cgroups.runtime_path(metadata.cgroup_driver, metadata.cgroup_parent, container_id)


async def make(node: Node, sandbox: Sandbox) -> None:
    """Make the pod's cgroup where it was missing, and limit it as the request says.

    Raises OperationFailed, and what CgroupDriver.limit does, with the kernel's or systemd's answer.
    """
    metadata = sandbox.metadata
    if owns(sandbox):
        await driver_of(node, metadata).make(metadata.cgroup_parent)
        await limit(node, sandbox, sandbox.config.linux.resources, sandbox.config.linux.overhead)


async def limit(
    node: Node, sandbox: Sandbox, resources: v1.LinuxContainerResources, overhead: v1.LinuxContainerResources
) -> Callable[[], None]:
    """Limit the pod's cgroup to its containers' sum and its overhead; returns what undoes it. Another's is left alone.

    Raises what CgroupDriver.limit does.
    """
    metadata = sandbox.metadata
    wanted = limits.resources(limits.pod_total(resources, overhead), node.host)
    if not owns(sandbox) or not wanted.model_dump(exclude_defaults=True):
        return lambda: None
    return await driver_of(node, metadata).limit(metadata.cgroup_parent, wanted)


def monitor_place(node: Node, metadata: SandboxMetadata, container_id: str) -> Callable[[int], Awaitable[None]]:
    """What moves the monitor of a container to the cgroup that it is accounted to."""
    path = cgroups.monitor_cgroup(
        metadata.cgroup_driver, metadata.cgroup_parent, metadata.monitor_cgroup, metadata.id, container_id
    )
    driver = driver_of(node, metadata)

    async def place(pid: int) -> None:
        await driver.adopt(path, pid)

    return place


async def release(node: Node, sandbox: Sandbox) -> None:
    """Remove what was made for the pod, once its containers are gone. Raises OperationFailed where a monitor stays."""
    metadata = sandbox.metadata
    if node.containers_of(sandbox.id):
        return
    if not any(
        each is not sandbox and each.metadata.cgroup_parent == metadata.cgroup_parent for each in node.sandboxes
    ):
        node.oom_kills.explained.pop(metadata.cgroup_parent, None)
    if metadata.cgroup_driver == "cgroupfs" and metadata.monitor_cgroup == cgroups.POD:
        await asyncio.to_thread(_remove_monitors, cgroups.monitor_leaf(metadata.cgroup_parent, metadata.id))
    if not owns(sandbox):
        return
    sharing = [each for each in node.sandboxes if each is not sandbox and _is_in(each, metadata.cgroup_parent)]
    heir = next((each for each in sharing if each.metadata.cgroup_parent == metadata.cgroup_parent), None)
    if heir is not None:
        await heir.update(heir.status.model_copy(update={"inherits_cgroup": True}))
    elif sharing or not await driver_of(node, metadata).remove(metadata.cgroup_parent):
        log.warning("%s: its cgroup %s stays: others are in it", sandbox.title, metadata.cgroup_parent)


def owns(sandbox: Sandbox) -> bool:
    """Whether the pod's cgroup is this server's to limit and to remove."""
    return sandbox.metadata.owns_cgroup or sandbox.status.inherits_cgroup


def _is_in(sandbox: Sandbox, path: str) -> bool:
    return f"{sandbox.metadata.cgroup_parent}/".startswith(f"{path}/")


def _remove_monitors(path: str) -> None:
    cgroup.wait_empty(path, within=_LAST_WORDS)
    if not (cgroup.kill_all(path) and cgroup.remove(path)):
        raise OperationFailed(f"cgroup {path} cannot be removed: monitors in it do not end")
