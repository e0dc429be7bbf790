"""The server's own metrics for Prometheus, and the HTTP endpoint that shows them.

Imported only where an address is configured: the libraries take a fifth of a second and some megabytes.
"""

from __future__ import annotations

import asyncio
import functools
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ocishim import __version__
from ocishim.errors import FailedPrecondition
from ocishim.metrics.meter import Meter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

_RPC_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 240)
_CNI_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_PULL_SECONDS: Final = (0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600)
_LAG_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_LOOK: Final = 0.25
"""Seconds between two looks at the event loop's clock."""


class PrometheusMeter(Meter):
    """Counts for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        info = Gauge("ocishim_build_info", "1, with the version as a label.", ["version"], registry=self.registry)
        info.labels(__version__).set(1)
        self._rpcs = Histogram(
            "ocishim_rpc_seconds",
            "How long RPCs took, by method and gRPC code.",
            ["method", "code"],
            buckets=_RPC_SECONDS,
            registry=self.registry,
        )
        self._cni = Histogram(
            "ocishim_cni_seconds",
            "How long CNI plugins took, by plugin, verb and result.",
            ["plugin", "verb", "result"],
            buckets=_CNI_SECONDS,
            registry=self.registry,
        )
        self._pulls = Histogram(
            "ocishim_image_pull_seconds",
            "How long image pulls took, by result.",
            ["result"],
            buckets=_PULL_SECONDS,
            registry=self.registry,
        )
        self._pulled = Counter("ocishim_image_pull_bytes", "Bytes fetched from registries.", registry=self.registry)
        self._findings = Counter(
            "ocishim_recovery_findings",
            "What the start has found amiss and mended, by kind.",
            ["kind"],
            registry=self.registry,
        )
        self._lag = Histogram(
            "ocishim_event_loop_lag_seconds",
            "How late the event loop came to a timer.",
            buckets=_LAG_SECONDS,
            registry=self.registry,
        )

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """An RPC has been answered, with a gRPC code by name."""
        self._rpcs.labels(method, code).observe(seconds)

    def cni(self, plugin: str, verb: str, seconds: float, *, failed: bool) -> None:
        """A CNI plugin has been called."""
        self._cni.labels(plugin, verb, _result(failed=failed)).observe(seconds)

    def pull(self, size: int, seconds: float, *, failed: bool) -> None:
        """An image pull has ended, having fetched so many bytes."""
        self._pulls.labels(_result(failed=failed)).observe(seconds)
        self._pulled.inc(size)

    def finding(self, kind: str) -> None:
        """The start after a crash or reboot has found something amiss and mended it."""
        self._findings.labels(kind).inc()

    def watch(self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Show a gauge by that name, read anew each time in a thread, with one sample for each value of the label."""
        self.registry.register(_Watched(name, text, label, read))

    async def measure_loop(self) -> None:
        """Note how late timers are, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LOOK
            await asyncio.sleep(_LOOK)
            self._lag.observe(max(loop.time() - due, 0.0))


class _Watched(Collector):
    def __init__(self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._name, self._text, self._label, self._read = name, text, label, read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._text, labels=[self._label])
        for value, number in self._read().items():
            family.add_metric([value], number)
        yield family


def _result(*, failed: bool) -> str:
    return "failed" if failed else "ok"


@asynccontextmanager
async def served(meter: PrometheusMeter, address: str) -> AsyncIterator[int]:
    """Serve /metrics on HOST:PORT for the time of the block; gives the port.

    Raises FailedPrecondition where it cannot listen there.
    """
    host, _, port = address.rpartition(":")
    application = web.Application()
    application.router.add_get("/metrics", functools.partial(_show, meter))
    runner = web.AppRunner(application, handle_signals=False, access_log=None, keepalive_timeout=30, shutdown_timeout=1)
    await runner.setup()
    measuring = asyncio.create_task(meter.measure_loop(), name="measure the event loop")
    try:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except (OSError, OverflowError) as error:
            raise FailedPrecondition(f"metrics.address: cannot listen on {address}: {error}") from error
        yield runner.addresses[0][1]
    finally:
        measuring.cancel()
        with suppress(asyncio.CancelledError):
            await measuring
        await runner.cleanup()


async def _show(meter: PrometheusMeter, request: web.Request) -> web.Response:
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    body = await asyncio.to_thread(encode, meter.registry)
    return web.Response(body=body, headers={"Content-Type": content_type})
