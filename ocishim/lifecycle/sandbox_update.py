"""UpdatePodSandboxResources: what a pod's containers take together, and the pod beyond them, has changed.

kubelet calls it when it has changed its own cgroup of the pod; of a pod whose cgroup is this server's, the server
does it here.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import betterproto

from ocishim.errors import FailedPrecondition, InvalidArgument, OperationFailed
from ocishim.lifecycle import pod_cgroup
from ocishim.lifecycle.jobs import step
from ocishim.translate import resource_checks, resources, statuses

if TYPE_CHECKING:
    from ocishim.api.runtime import v1
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox

log = logging.getLogger(__name__)


async def update_sandbox(node: Node, sandbox: Sandbox, request: v1.UpdatePodSandboxResourcesRequest) -> None:
    """Change what the request has values for, all or nothing.

    Raises InvalidArgument for a value that is none, FailedPrecondition where the pod is not ready or uses more
    than a new limit, both in the kernel's words where the kernel decides.
    """
    for key in ("resources", "overhead"):
        resource_checks.check(key, getattr(request, key))
        resource_checks.check_on_host(key, getattr(request, key), node.host)
    await node.jobs.run(
        ("update-sandbox", sandbox.id, bytes(request)),
        f"UpdatePodSandboxResources of {sandbox.title}",
        None,
        lambda: _update(node, sandbox, request),
    )


async def _update(node: Node, sandbox: Sandbox, request: v1.UpdatePodSandboxResourcesRequest) -> None:
    async with sandbox.lock:
        if not sandbox.is_ready:
            raise FailedPrecondition(f"{sandbox.title} is not ready: it has no limits to change")
        own, overhead = statuses.sandbox_resources(sandbox.status, sandbox.config)
        own, overhead = _changed(own, request.resources), _changed(overhead, request.overhead)
        for key, whole in (("resources", own), ("overhead", overhead)):
            resource_checks.check_whole(key, whole)
        try:
            with step("change the cgroup"):
                undo = await pod_cgroup.limit(node, sandbox, own, overhead)
        except (FailedPrecondition, InvalidArgument, OperationFailed) as error:
            raise type(error)(f"{sandbox.title}: {error}") from error
        try:
            with step("record the limits"):
                await sandbox.update(
                    sandbox.status.model_copy(update={"resources": bytes(own), "overhead": bytes(overhead)})
                )
        except BaseException:
            await asyncio.to_thread(undo)
            raise


def _changed(current: v1.LinuxContainerResources, asked: v1.LinuxContainerResources) -> v1.LinuxContainerResources:
    return resources.merged(current, asked) if betterproto.serialized_on_wire(asked) else current
