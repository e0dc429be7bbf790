"""Samples of metrics as the CRI carries them, some thirty thousand an answer on a full node.

What is the same for all samples of a metric, or for all of a container, is encoded once.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Final

from ocishim.api.runtime import v1
from ocishim.cri.protobuf import Fields
from ocishim.metrics import cadvisor, reading

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.lifecycle.stats import ContainerSample, SandboxSample
    from ocishim.metrics.kernel import Interface

_SANDBOX: Final = Fields(v1.PodSandboxMetrics)
_CONTAINER: Final = Fields(v1.ContainerMetrics)
_METRIC: Final = Fields(v1.Metric)


def descriptors() -> v1.ListMetricDescriptorsResponse:
    """All of them, always the same."""
    return v1.ListMetricDescriptorsResponse(
        descriptors=[
            v1.MetricDescriptor(name=name, help=text, label_keys=list(keys))
            for name, text, keys in cadvisor.descriptors()
        ]
    )


class MetricsEncoder:
    """Encodes pods' metrics."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        """What writable layers lie below."""
        self._device_name = functools.cache(reading.device_name)
        self._heads = {
            each.name: _head(each.name, is_counter=each.is_counter) for each in cadvisor.CONTAINER_METRICS
        } | {each.name: _head(each.name, is_counter=True) for each in cadvisor.NETWORK_METRICS}

    @functools.cached_property
    def _device(self) -> str:
        return reading.device_of(self._directory)

    def sandbox(self, found: SandboxSample) -> bytes:
        """A PodSandboxMetrics."""
        sandbox = found.sandbox
        parts = [_SANDBOX.text("pod_sandbox_id", sandbox.id)]
        parts += self._network(_sandbox_labels(sandbox), found.interfaces or ())
        for each in found.containers:
            own = self._container(each, _container_labels(each.container, sandbox))
            parts.append(
                _SANDBOX.message(
                    "container_metrics", b"".join([_CONTAINER.text("container_id", each.container.id), *own])
                )
            )
        return b"".join(parts)

    def _network(self, labels: bytes, interfaces: Iterable[Interface]) -> Iterable[bytes]:
        for interface in interfaces:
            own = labels + _METRIC.text("label_values", interface.name)
            for metric in cadvisor.NETWORK_METRICS:
                yield _SANDBOX.message(
                    "metrics", self._heads[metric.name] + own + _METRIC.wrapped("value", metric.value(interface))
                )

    def _container(self, found: ContainerSample, labels: bytes) -> Iterable[bytes]:
        facts = cadvisor.Facts(
            usage=found.usage,
            details=found.details,
            processes=found.processes,
            open_files_limit=found.open_files_limit,
            filesystem=found.filesystem,
            device=self._device,
            written=found.layer.used if found.layer else None,
            started_at=found.container.status.started_at,
            now=time.time_ns(),
            device_name=self._device_name,
        )
        # What is read when it is asked for has no time of its own, by the CRI; what was sampled before has.
        sampled = _METRIC.number("timestamp", found.layer.at) if found.layer else b""
        for metric in cadvisor.CONTAINER_METRICS:
            head = self._heads[metric.name] + labels + (b"" if metric.is_live else sampled)
            for extra, value in metric.samples(facts):
                if value is not None:
                    own = b"".join(_METRIC.text("label_values", each) for each in extra)
                    yield _CONTAINER.message("metrics", head + own + _METRIC.wrapped("value", value))


def _sandbox_labels(sandbox: Sandbox) -> bytes:
    metadata = sandbox.metadata
    return _labels(metadata.cgroup_parent, metadata.id, "", metadata.namespace, metadata.name, "")


def _container_labels(container: Container, sandbox: Sandbox) -> bytes:
    metadata, pod = container.metadata, sandbox.metadata
    return _labels(metadata.cgroup, metadata.id, metadata.user_specified_image, pod.namespace, pod.name, metadata.name)


def _labels(*values: str) -> bytes:
    """Values of the base labels, in their order."""
    return b"".join(_METRIC.text("label_values", value) for value in values)


def _head(name: str, *, is_counter: bool) -> bytes:
    kind = v1.MetricType.COUNTER if is_counter else v1.MetricType.GAUGE
    return _METRIC.text("name", name) + _METRIC.number("metric_type", kind)
