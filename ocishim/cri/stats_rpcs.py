"""RuntimeService's RPCs about what pods and containers use: one, lists, and lists as streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ocishim.api.runtime import v1
from ocishim.cri import listing
from ocishim.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocishim.cri.stats_encoding import Encoder
    from ocishim.cri.wire import Encoded
    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.lifecycle.stats import Stats

_FIELD: Final = 1
"""Of the one, of all in a list, and of all in a stream's message."""
_BATCH: Final = 50
"""Pods or containers that a stream reads at a time."""


class StatsRpcs(v1.RuntimeServiceBase):
    """The statistics RPCs. Lists hold what runs; what ends while it is read is left out."""

    _node: Node
    _stats: Stats
    _encoder: Encoder

    async def container_stats(self, container_stats_request: v1.ContainerStatsRequest) -> Encoded:  # type: ignore[override] # the response, encoded already
        """One running container."""
        container_id = container_stats_request.container_id
        if not container_id:
            raise InvalidArgument("container_id is required")
        container = self._node.container(container_id)
        found = await self._stats.containers([container], self._encoder.container)
        if not found:
            raise FailedPrecondition(f"{container.title} is not running: it uses nothing")
        return listing.join(found, _FIELD)

    async def list_container_stats(self, list_container_stats_request: v1.ListContainerStatsRequest) -> Encoded:  # type: ignore[override] # the response, encoded already
        """Running containers."""
        wanted = self._containers(list_container_stats_request.filter)
        return listing.join(await self._stats.containers(wanted, self._encoder.container), _FIELD)

    async def stream_container_stats(  # type: ignore[override] # the responses, encoded already
        self, stream_container_stats_request: v1.StreamContainerStatsRequest
    ) -> AsyncIterator[Encoded]:
        """Running containers, in pieces."""
        wanted = self._containers(stream_container_stats_request.filter)
        for start in range(0, len(wanted), _BATCH):
            entries = await self._stats.containers(wanted[start : start + _BATCH], self._encoder.container)
            for chunk in listing.chunks(entries):
                yield listing.join(chunk, _FIELD)

    async def pod_sandbox_stats(self, pod_sandbox_stats_request: v1.PodSandboxStatsRequest) -> Encoded:  # type: ignore[override] # the response, encoded already
        """One ready pod, with its running containers."""
        sandbox_id = pod_sandbox_stats_request.pod_sandbox_id
        if not sandbox_id:
            raise InvalidArgument("pod_sandbox_id is required")
        sandbox = self._node.sandbox(sandbox_id)
        found = await self._stats.sandboxes([sandbox], self._encoder.sandbox)
        if not found:
            raise FailedPrecondition(f"{sandbox.title} is not ready: it uses nothing")
        return listing.join(found, _FIELD)

    async def list_pod_sandbox_stats(self, list_pod_sandbox_stats_request: v1.ListPodSandboxStatsRequest) -> Encoded:  # type: ignore[override] # the response, encoded already
        """Ready pods, each with its running containers."""
        wanted = self._sandboxes(list_pod_sandbox_stats_request.filter)
        return listing.join(await self._stats.sandboxes(wanted, self._encoder.sandbox), _FIELD)

    async def stream_pod_sandbox_stats(  # type: ignore[override] # the responses, encoded already
        self, stream_pod_sandbox_stats_request: v1.StreamPodSandboxStatsRequest
    ) -> AsyncIterator[Encoded]:
        """Ready pods, in pieces."""
        wanted = self._sandboxes(stream_pod_sandbox_stats_request.filter)
        for start in range(0, len(wanted), _BATCH):
            entries = await self._stats.sandboxes(wanted[start : start + _BATCH], self._encoder.sandbox)
            for chunk in listing.chunks(entries):
                yield listing.join(chunk, _FIELD)

    def _containers(self, wanted: v1.ContainerStatsFilter) -> list[Container]:
        same = v1.ContainerFilter(
            id=wanted.id, pod_sandbox_id=wanted.pod_sandbox_id, label_selector=wanted.label_selector
        )
        return listing.containers(self._node, same)

    def _sandboxes(self, wanted: v1.PodSandboxStatsFilter) -> list[Sandbox]:
        same = v1.PodSandboxFilter(id=wanted.id, label_selector=wanted.label_selector)
        return listing.sandboxes(self._node, same)
