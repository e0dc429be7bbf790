"""Checkpoint and restore, of containers and pods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ocishim.api.runtime import v1
from ocishim.errors import InvalidArgument
from ocishim.lifecycle.checkpoint import checkpoint_container, checkpoint_sandbox
from ocishim.lifecycle.pod_restore import restore_sandbox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocishim.lifecycle.node import Node

_LEAVE_RUNNING: Final = "leaveRunning"
_BOOLEANS: Final = {"true": True, "false": False}


class CheckpointRpcs(v1.RuntimeServiceBase):
    """RuntimeService's checkpoints."""

    _node: Node

    async def checkpoint_container(
        self, checkpoint_container_request: v1.CheckpointContainerRequest
    ) -> v1.CheckpointContainerResponse:
        """Write a container's state to an archive; it goes on running."""
        request = checkpoint_container_request
        if not request.container_id:
            raise InvalidArgument("container_id is required")
        if request.timeout < 0:
            raise InvalidArgument(f"timeout: {request.timeout} is negative")
        container = self._node.container(request.container_id)
        await checkpoint_container(self._node, container, request.location, float(request.timeout))
        return v1.CheckpointContainerResponse()

    async def checkpoint_pod(self, checkpoint_pod_request: v1.CheckpointPodRequest) -> v1.CheckpointPodResponse:
        """Write the state of a pod's containers, or of those named, to a directory."""
        request, node = checkpoint_pod_request, self._node
        if not request.pod_sandbox_id:
            raise InvalidArgument("pod_sandbox_id is required")
        leave_running = _options(request.options)
        sandbox = node.sandbox(request.pod_sandbox_id)
        chosen = [node.container(each) for each in request.container_ids]
        for container in chosen:
            if container.metadata.sandbox_id != sandbox.id:
                raise InvalidArgument(f"container_ids: {container.title} is not in {sandbox.title}")
        await checkpoint_sandbox(node, sandbox, request.output_path, chosen, leave_running=leave_running)
        return v1.CheckpointPodResponse()

    async def restore_pod(self, restore_pod_request: v1.RestorePodRequest) -> v1.RestorePodResponse:
        """Make a pod from its checkpoint; its containers run when this returns."""
        request = restore_pod_request
        for name in request.options:
            raise InvalidArgument(f"options: {name!r} is not known; there are none")
        sandbox_id, containers = await restore_sandbox(
            self._node, request.checkpoint_path, request.config, request.runtime_handler, request.container_configs
        )
        return v1.RestorePodResponse(
            pod_sandbox_id=sandbox_id,
            restored_containers=[v1.RestoredContainer(name=name, container_id=found) for name, found in containers],
        )


def _options(options: Mapping[str, str]) -> bool:
    """Whether the pod goes on; it does unless told otherwise."""
    for name, value in options.items():
        if name != _LEAVE_RUNNING or value not in _BOOLEANS:
            raise InvalidArgument(f"options: {name}={value!r}: there is {_LEAVE_RUNNING}, true or false")
    return _BOOLEANS[options.get(_LEAVE_RUNNING, "true")]
