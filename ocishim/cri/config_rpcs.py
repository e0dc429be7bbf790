"""What kubelet tells the runtime of the node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim.api.runtime import v1
from ocishim.network.pod_cidr import set_pod_cidr

if TYPE_CHECKING:
    from ocishim.lifecycle.node import Node


class ConfigRpcs(v1.RuntimeServiceBase):
    """RuntimeService's configuration."""

    _node: Node

    async def update_runtime_config(
        self, update_runtime_config_request: v1.UpdateRuntimeConfigRequest
    ) -> v1.UpdateRuntimeConfigResponse:
        """Take the node's pod CIDR; nothing comes of it without a configured template."""
        node, cidr = self._node, update_runtime_config_request.runtime_config.network_config.pod_cidr
        await node.jobs.run(
            "update-runtime-config",
            "UpdateRuntimeConfig",
            cidr,
            lambda: set_pod_cidr(node.cni, node.settings.cni, cidr),
        )
        return v1.UpdateRuntimeConfigResponse()
