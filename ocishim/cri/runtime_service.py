"""RuntimeService: what kubelet and crictl ask about pods, containers and the runtime."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

from ocishim import __version__
from ocishim.api.runtime import v1
from ocishim.cri import listing
from ocishim.cri.checkpoint_rpcs import CheckpointRpcs
from ocishim.cri.config_rpcs import ConfigRpcs
from ocishim.cri.event_rpcs import EventRpcs
from ocishim.cri.list_rpcs import ListRpcs
from ocishim.cri.metrics_encoding import MetricsEncoder
from ocishim.cri.metrics_rpcs import MetricsRpcs
from ocishim.cri.stats_encoding import Encoder
from ocishim.cri.stats_rpcs import StatsRpcs
from ocishim.cri.streaming_rpcs import StreamingRpcs
from ocishim.cri.update_rpcs import UpdateRpcs
from ocishim.cri.verbose import container_info, network_info, sandbox_info
from ocishim.errors import FailedPrecondition, InvalidArgument
from ocishim.lifecycle.container_create import create_container
from ocishim.lifecycle.container_remove import remove_container
from ocishim.lifecycle.container_start import start_container
from ocishim.lifecycle.container_stop import stop_container
from ocishim.lifecycle.exec import exec_sync
from ocishim.lifecycle.sandbox_run import run_sandbox
from ocishim.lifecycle.sandbox_stop import remove_sandbox, stop_sandbox
from ocishim.lifecycle.stats import Stats
from ocishim.runtime import conmon
from ocishim.translate import statuses

if TYPE_CHECKING:
    from ocishim.cri.wire import Encoded
    from ocishim.lifecycle.node import Node
    from ocishim.streaming.server import StreamingServer

RUNTIME_NAME: Final = "ocishim"
API_VERSION: Final = "v1"
_KUBELET_VERSION: Final = "0.1.0"
_CONTAINERS_FIELD: Final = 1
_ITEMS_FIELD: Final = 1
_LONGEST: Final = 10 * 365 * 86400
"""Ten years in seconds: a larger grace period or timeout means for ever, and clocks do not overflow."""


class RuntimeService(
    EventRpcs, ListRpcs, ConfigRpcs, CheckpointRpcs, StatsRpcs, MetricsRpcs, StreamingRpcs, UpdateRpcs
):
    """An RPC a method; those that are missing answer UNIMPLEMENTED by name."""

    def __init__(self, node: Node, streaming: StreamingServer) -> None:
        self._node = node
        self._stats = Stats(node)
        self._encoder = Encoder(node.layout.containers)
        self._metrics_encoder = MetricsEncoder(node.layout.containers)
        self._streaming = streaming

    async def version(self, version_request: v1.VersionRequest) -> v1.VersionResponse:
        """Name and version."""
        return v1.VersionResponse(
            version=version_request.version or _KUBELET_VERSION,
            runtime_name=RUNTIME_NAME,
            runtime_version=__version__,
            runtime_api_version=API_VERSION,
        )

    async def status(self, status_request: v1.StatusRequest) -> v1.StatusResponse:
        """Conditions of runtime and network, and what the handlers can do."""
        node = self._node
        network = node.cni.readiness()
        default = node.runtimes.default
        runtime = v1.RuntimeCondition(type="RuntimeReady", status=bool(default))
        if not default:
            runtime.reason = "NoRuntime"
            runtime.message = "; ".join(node.runtimes.refusals.values())
        rootfs = v1.RuntimeCondition(type="OverlayReady", status=node.rootfs.kind == "overlay")
        if not rootfs.status:
            rootfs.reason = "NoOverlay"
            rootfs.message = f"root filesystems are made by {node.rootfs.kind}, which is slower: {node.rootfs.why}"
        response = v1.StatusResponse(
            status=v1.RuntimeStatus(
                conditions=[
                    runtime,
                    rootfs,
                    v1.RuntimeCondition(
                        type="NetworkReady", status=network.ready, reason=network.reason, message=network.message
                    ),
                ]
            ),
            runtime_handlers=_handlers(node),
            features=v1.RuntimeFeatures(
                supplemental_groups_policy=True,
                user_namespaces_host_network=any(each.user_namespaces for each in node.features.values()),
                mount_options=True,
            ),
        )
        if status_request.verbose:
            response.info = {
                "config": node.settings.model_dump_json(),
                "setAside": json.dumps(
                    [*node.sandbox_records.set_aside, *node.container_records.set_aside, *node.images.set_aside]
                ),
                **network_info(node.cni),
                "operations": json.dumps(node.jobs.under_way()),
            }
        return response

    async def runtime_config(self, runtime_config_request: v1.RuntimeConfigRequest) -> v1.RuntimeConfigResponse:  # noqa: ARG002
        """The cgroup driver, which kubelet then uses too: that of the default runtime."""
        driver = self._node.settings.cgroups_of(self._node.runtimes.default).driver
        linux = v1.LinuxRuntimeConfiguration(cgroup_driver=v1.CgroupDriver.from_string(driver.upper()))
        return v1.RuntimeConfigResponse(linux=linux)

    async def run_pod_sandbox(self, run_pod_sandbox_request: v1.RunPodSandboxRequest) -> v1.RunPodSandboxResponse:
        """Make a pod."""
        request = run_pod_sandbox_request
        sandbox_id = await run_sandbox(self._node, request.config, request.runtime_handler)
        return v1.RunPodSandboxResponse(pod_sandbox_id=sandbox_id)

    async def stop_pod_sandbox(self, stop_pod_sandbox_request: v1.StopPodSandboxRequest) -> v1.StopPodSandboxResponse:
        """Stop a pod; an unknown one is stopped."""
        sandbox = self._node.sandboxes.find(_required("pod_sandbox_id", stop_pod_sandbox_request.pod_sandbox_id))
        if sandbox is not None:
            await stop_sandbox(self._node, sandbox)
        return v1.StopPodSandboxResponse()

    async def remove_pod_sandbox(
        self, remove_pod_sandbox_request: v1.RemovePodSandboxRequest
    ) -> v1.RemovePodSandboxResponse:
        """Remove a pod; an unknown one is removed."""
        sandbox = self._node.sandboxes.find(_required("pod_sandbox_id", remove_pod_sandbox_request.pod_sandbox_id))
        if sandbox is not None:
            await remove_sandbox(self._node, sandbox)
        return v1.RemovePodSandboxResponse()

    async def pod_sandbox_status(
        self, pod_sandbox_status_request: v1.PodSandboxStatusRequest
    ) -> v1.PodSandboxStatusResponse:
        """One pod."""
        request = pod_sandbox_status_request
        sandbox = self._node.sandbox(_required("pod_sandbox_id", request.pod_sandbox_id))
        response = v1.PodSandboxStatusResponse(
            status=statuses.sandbox_status(sandbox.metadata, sandbox.status, sandbox.config),
            containers_statuses=[
                statuses.container_status(each.metadata, each.status, each.config)
                for each in self._node.containers_of(sandbox.id)
            ],
            timestamp=time.time_ns(),
        )
        if request.verbose:
            response.info = sandbox_info(self._node, sandbox)
        return response

    async def list_pod_sandbox(self, list_pod_sandbox_request: v1.ListPodSandboxRequest) -> Encoded:  # type: ignore[override] # the response, encoded already
        """Pods, from their encoded entries."""
        found = listing.sandboxes(self._node, list_pod_sandbox_request.filter)
        return listing.join((each.entry for each in found), _ITEMS_FIELD)

    async def create_container(self, create_container_request: v1.CreateContainerRequest) -> v1.CreateContainerResponse:
        """Make a container."""
        request = create_container_request
        sandbox = self._node.sandbox(_required("pod_sandbox_id", request.pod_sandbox_id))
        return v1.CreateContainerResponse(container_id=await create_container(self._node, sandbox, request.config))

    async def start_container(self, start_container_request: v1.StartContainerRequest) -> v1.StartContainerResponse:
        """Start a container."""
        container_id = _required("container_id", start_container_request.container_id)
        await start_container(self._node, self._node.container(container_id))
        return v1.StartContainerResponse()

    async def stop_container(self, stop_container_request: v1.StopContainerRequest) -> v1.StopContainerResponse:
        """Stop a container; an unknown one is stopped."""
        request = stop_container_request
        container = self._node.containers.find(_required("container_id", request.container_id))
        if container is not None:
            await stop_container(self._node, container, min(max(request.timeout, 0), _LONGEST))
        return v1.StopContainerResponse()

    async def remove_container(self, remove_container_request: v1.RemoveContainerRequest) -> v1.RemoveContainerResponse:
        """Remove a container; an unknown one is removed."""
        container = self._node.containers.find(_required("container_id", remove_container_request.container_id))
        if container is not None:
            await remove_container(self._node, container)
        return v1.RemoveContainerResponse()

    async def list_containers(self, list_containers_request: v1.ListContainersRequest) -> Encoded:  # type: ignore[override] # the response, encoded already
        """Containers, from their encoded entries."""
        found = listing.containers(self._node, list_containers_request.filter)
        return listing.join((each.entry for each in found), _CONTAINERS_FIELD)

    async def container_status(self, container_status_request: v1.ContainerStatusRequest) -> v1.ContainerStatusResponse:
        """One container."""
        request = container_status_request
        container = self._node.container(_required("container_id", request.container_id))
        response = v1.ContainerStatusResponse(
            status=statuses.container_status(container.metadata, container.status, container.config)
        )
        if request.verbose:
            response.info = await container_info(self._node, container)
        return response

    async def reopen_container_log(
        self, reopen_container_log_request: v1.ReopenContainerLogRequest
    ) -> v1.ReopenContainerLogResponse:
        """Have conmon open the log path anew."""
        container_id = _required("container_id", reopen_container_log_request.container_id)
        container = self._node.container(container_id)
        if not container.status.is_running:
            raise FailedPrecondition(f"{container.title} is not running: it has no log to reopen")
        await conmon.reopen_log(self._node.layout.container(container.metadata.id).bundle)
        return v1.ReopenContainerLogResponse()

    async def exec_sync(self, exec_sync_request: v1.ExecSyncRequest) -> v1.ExecSyncResponse:
        """Run a command in a container."""
        request = exec_sync_request
        container = self._node.container(_required("container_id", request.container_id))
        if request.timeout < 0:
            raise InvalidArgument(f"timeout: {request.timeout} is negative")
        result = await exec_sync(self._node, container, request.cmd, min(request.timeout, _LONGEST))
        return v1.ExecSyncResponse(stdout=result.stdout, stderr=result.stderr, exit_code=result.exit_code)


def _handlers(node: Node) -> list[v1.RuntimeHandler]:
    """The handlers by name, and the default one again under the empty name."""
    named = dict(node.features)
    if node.runtimes.default:
        named[""] = node.features[node.runtimes.default]
    return [
        v1.RuntimeHandler(
            name=name,
            features=v1.RuntimeHandlerFeatures(
                recursive_read_only_mounts=each.recursive_read_only_mounts, user_namespaces=each.user_namespaces
            ),
        )
        for name, each in sorted(named.items())
    ]


def _required(field: str, value: str) -> str:
    if not value:
        raise InvalidArgument(f"{field} is required")
    return value
