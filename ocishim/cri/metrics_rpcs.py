"""RuntimeService's RPCs that stand behind kubelet's /metrics/cadvisor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ocishim.api.runtime import v1
from ocishim.cri import listing
from ocishim.cri.metrics_encoding import descriptors
from ocishim.errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocishim.cri.metrics_encoding import MetricsEncoder
    from ocishim.cri.wire import Encoded
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.stats import Stats

_FIELD: Final = 1
_BATCH: Final = 20
"""Pods that a stream reads at a time."""
LARGEST: Final = 16 << 20
"""Bytes that kubelet's client takes."""


class MetricsRpcs(v1.RuntimeServiceBase):
    """The metrics RPCs: ready pods with their running containers."""

    _node: Node
    _stats: Stats
    _metrics_encoder: MetricsEncoder

    async def list_metric_descriptors(
        self,
        list_metric_descriptors_request: v1.ListMetricDescriptorsRequest,  # noqa: ARG002
    ) -> v1.ListMetricDescriptorsResponse:
        """Which metrics there are."""
        return descriptors()

    async def list_pod_sandbox_metrics(  # type: ignore[override] # the response, encoded already
        self,
        list_pod_sandbox_metrics_request: v1.ListPodSandboxMetricsRequest,  # noqa: ARG002
    ) -> Encoded:
        """All metrics of all pods."""
        answer = listing.join(await self._stats.samples(self._node.sandboxes, self._metrics_encoder.sandbox), _FIELD)
        if len(answer.content) > LARGEST:
            raise ResourceExhausted(
                f"the metrics of {len(self._node.sandboxes)} pods take {len(answer.content)} bytes, more than the "
                f"{LARGEST} that clients take in one message: ask by StreamPodSandboxMetrics"
            )
        return answer

    async def stream_pod_sandbox_metrics(  # type: ignore[override] # the responses, encoded already
        self,
        stream_pod_sandbox_metrics_request: v1.StreamPodSandboxMetricsRequest,  # noqa: ARG002
    ) -> AsyncIterator[Encoded]:
        """All metrics of all pods, in pieces."""
        pods = list(self._node.sandboxes)
        for start in range(0, len(pods), _BATCH):
            entries = await self._stats.samples(pods[start : start + _BATCH], self._metrics_encoder.sandbox)
            for chunk in listing.chunks(entries):
                yield listing.join(chunk, _FIELD)
