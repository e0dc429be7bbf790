"""The RPCs that change limits in place: UpdateContainerResources and UpdatePodSandboxResources."""

from __future__ import annotations

from typing import TYPE_CHECKING

import betterproto

from ocishim.api.runtime import v1
from ocishim.errors import InvalidArgument
from ocishim.lifecycle.container_update import update_container
from ocishim.lifecycle.sandbox_update import update_sandbox

if TYPE_CHECKING:
    from ocishim.lifecycle.node import Node


class UpdateRpcs(v1.RuntimeServiceBase):
    """A part of RuntimeService."""

    _node: Node

    async def update_container_resources(
        self, update_container_resources_request: v1.UpdateContainerResourcesRequest
    ) -> v1.UpdateContainerResourcesResponse:
        """Change a container's limits; those that the request does not name stay."""
        request = update_container_resources_request
        if not request.container_id:
            raise InvalidArgument("container_id is required")
        if betterproto.serialized_on_wire(request.windows):
            raise InvalidArgument("windows: this node runs Linux containers")
        await update_container(self._node, self._node.container(request.container_id), request.linux)
        return v1.UpdateContainerResourcesResponse()

    async def update_pod_sandbox_resources(
        self, update_pod_sandbox_resources_request: v1.UpdatePodSandboxResourcesRequest
    ) -> v1.UpdatePodSandboxResourcesResponse:
        """Take note of a pod's limits, and set them where the pod's cgroup is this server's."""
        request = update_pod_sandbox_resources_request
        if not request.pod_sandbox_id:
            raise InvalidArgument("pod_sandbox_id is required")
        await update_sandbox(self._node, self._node.sandbox(request.pod_sandbox_id), request)
        return v1.UpdatePodSandboxResourcesResponse()
