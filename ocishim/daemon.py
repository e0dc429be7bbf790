"""The composition root: everything is made, wired together, run and ended here."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from ocishim import __version__, dump
from ocishim.cri.image_service import ImageService
from ocishim.cri.own_service import OwnImageService
from ocishim.cri.runtime_service import RuntimeService
from ocishim.cri.server import CriServer, image_handlers, listen, runtime_handlers
from ocishim.cri.traced import traced
from ocishim.errors import FailedPrecondition
from ocishim.images import rootfs
from ocishim.images.limits import Limits
from ocishim.images.store import ImageStore
from ocishim.lifecycle.events import Journal
from ocishim.lifecycle.image import Registries
from ocishim.lifecycle.jobs import Jobs
from ocishim.lifecycle.node import Node
from ocishim.lifecycle.recovery import recover
from ocishim.lifecycle.streaming import NodeBackend
from ocishim.lifecycle.usage import DiskUsage
from ocishim.linux import files, host, proc
from ocishim.linux.cgroup_driver import CgroupDrivers
from ocishim.linux.process import become_subreaper, reap_orphans
from ocishim.metrics.meter import Meter
from ocishim.model import ContainerMetadata, ContainerStatus, SandboxMetadata, SandboxStatus
from ocishim.network.cni import Cni
from ocishim.runtime import choice, exits, features
from ocishim.store.index import Index
from ocishim.store.layout import Layout
from ocishim.store.records import Records
from ocishim.streaming.server import StreamingServer
from ocishim.translate.security import check_names

if TYPE_CHECKING:
    import socket
    from contextlib import AbstractAsyncContextManager

    from ocishim.config import Settings
    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.runtime.exits import Exit
    from ocishim.tracing import Tracer

log = logging.getLogger("ocishim")

_THREADS: Final = 64
"""For blocking work: a few that hang on a dead network filesystem must not stop the others."""
_SHUTDOWN_GRACE: Final = 20.0
"""Seconds that operations under way get at shutdown."""
_UNIX: Final = "unix://"


async def serve(settings: Settings) -> None:
    """Run the server until SIGTERM or SIGINT; containers go on without it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Until there is something to tell; not ignored, which every child would inherit.
    loop.add_signal_handler(signal.SIGUSR1, log.info, "dump: still starting")
    become_subreaper()
    loop.add_signal_handler(signal.SIGCHLD, reap_orphans)
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="blocking"))
    os.umask(0o022)
    os.chdir("/")
    layout = Layout(settings.root, settings.state)
    layout.make()
    async with AsyncExitStack() as stack:
        for directory in (settings.root, settings.state):
            stack.callback(os.close, _lock(directory))
        tracer = await _tracer(settings, stack)
        meter = await _meter(settings, stack)
        node = await _node(settings, layout, meter)
        if node.rootfs.kind != "overlay":
            log.warning("root filesystems are made by %s: %s", node.rootfs.kind, node.rootfs.why)
        stack.callback(node.cgroups.close)
        if node.rootfs.shifts_by_copy:
            log.warning("pods with user namespaces get copies of their images: %s", node.rootfs.shifts_by_copy)
        registries = Registries(node)
        stack.push_async_callback(registries.close)
        await stack.enter_async_context(_exit_watch(node))
        await stack.enter_async_context(node.cni.followed())
        await recover(node)
        node.written.refresh()
        _watch(node)
        loop.add_signal_handler(signal.SIGUSR1, dump.write, node)
        streaming = StreamingServer(settings.streaming, NodeBackend(node))
        await stack.enter_async_context(streaming.running())
        meter.watch("ocishim_sessions", "Streaming sessions, by RPC.", "rpc", streaming.open_sessions)
        servers = await _servers(stack, node, RuntimeService(node, streaming), registries, tracer)
        log.info(
            "ocishim %s is ready on %s (runtime %s, root %s, state %s)",
            __version__,
            settings.listen,
            node.runtimes.default or "none",
            settings.root,
            settings.state,
        )
        await stop.wait()
        log.info("stopping; containers go on")
        await node.jobs.close(_SHUTDOWN_GRACE)
        for server in servers:
            server.close()


async def _node(settings: Settings, layout: Layout, meter: Meter) -> Node:
    check_names("containers.capabilities", settings.containers.capabilities or ())
    runtimes = await choice.with_abilities(choice.find(settings, f"{settings.state}/runtimes"))
    for runtime in runtimes.by_name.values():
        os.makedirs(runtime.root, mode=0o700, exist_ok=True)
    chosen = settings.images
    limits = Limits(size=chosen.largest_layer, keep_free=chosen.keep_free)
    images = ImageStore(layout.images, limits=limits, search=chosen.short_names)
    await images.open()
    sandboxes: Index[Sandbox] = Index("pod sandbox")
    containers: Index[Container] = Index("container")
    jobs = Jobs()
    return Node(
        settings=settings,
        layout=layout,
        host=host.gather(),
        boot_id=proc.boot_id(),
        runtimes=runtimes,
        cgroups=_cgroups(settings, runtimes),
        cni=Cni(settings.cni, meter.cni),
        images=images,
        rootfs=await rootfs.choose(layout.containers),
        features=await asyncio.to_thread(features.probe, runtimes, settings.state),
        jobs=jobs,
        sandbox_records=Records(layout.sandboxes, layout.set_aside, SandboxMetadata, SandboxStatus),
        container_records=Records(layout.containers, layout.set_aside, ContainerMetadata, ContainerStatus),
        sandboxes=sandboxes,
        containers=containers,
        journal=Journal(sandboxes, containers),
        meter=meter,
        written=DiskUsage(layout.containers, jobs, settings.stats.interval),
    )


async def _meter(settings: Settings, stack: AsyncExitStack) -> Meter:
    """What counts the server's own work; served from now on, where the settings say so."""
    if not settings.metrics.address:
        return Meter()
    from ocishim.metrics import prometheus  # noqa: PLC0415 - libraries that a server without it need not load

    meter = prometheus.PrometheusMeter()
    port = await stack.enter_async_context(prometheus.served(meter, settings.metrics.address))
    log.info("metrics are on port %d of %s", port, settings.metrics.address.rpartition(":")[0])
    return meter


def _watch(node: Node) -> None:
    """Gauges of what there is."""
    meter = node.meter
    meter.watch("ocishim_operations", "Operations under way.", "operation", node.jobs.kinds)
    meter.watch("ocishim_containers", "Containers, by state.", "state", node.containers_by_state)
    meter.watch("ocishim_sandboxes", "Pod sandboxes, by state.", "state", node.sandboxes_by_state)


def _cgroups(settings: Settings, runtimes: choice.Runtimes) -> CgroupDrivers:
    """Raises FailedPrecondition or InvalidArgument now rather than for the first pod of a runtime."""
    drivers = CgroupDrivers()
    for name in runtimes.by_name:
        drivers.named(settings.cgroups_of(name).driver)
    return drivers


def _exit_watch(node: Node) -> AbstractAsyncContextManager[None]:
    def report(found: Exit) -> None:
        container = node.containers.find(found.container_id)
        waiting = container.exit_report if container else None
        if waiting is not None and not waiting.done():
            waiting.set_result(found)

    def overflowed() -> None:
        for container in node.containers:
            if container.status.is_running and (found := exits.read(node.layout.exits, container.id)):
                report(found)

    return exits.watched(node.layout.exits, report, overflowed)


async def _servers(
    stack: AsyncExitStack, node: Node, runtime_service: RuntimeService, registries: Registries, tracer: Tracer | None
) -> list[CriServer]:
    """One server, or two where the image service has a socket of its own."""
    settings = node.settings
    runtime = runtime_handlers(runtime_service, node)
    images = image_handlers(ImageService(node, registries), OwnImageService(node, registries), node)
    wanted = {settings.listen: runtime | images}
    if settings.image_listen:
        wanted = {settings.listen: runtime, settings.image_listen: images}
    servers = []
    for address, handlers in wanted.items():
        path = address.removeprefix(_UNIX)
        bound: socket.socket = listen(path)
        stack.callback(files.unlink, path)
        server = CriServer(traced(handlers, tracer))
        await server.start(path=None, sock=bound)
        servers.append(server)
    return servers


def _lock(directory: str) -> int:
    """Held until the process ends. Raises FailedPrecondition where another server has it."""
    fd = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise FailedPrecondition(f"another ocishim is at work on {directory}") from error
    return fd


async def _tracer(settings: Settings, stack: AsyncExitStack) -> Tracer | None:
    """None where nothing is configured. Raises FailedPrecondition where the libraries are missing."""
    if not settings.tracing.endpoint:
        return None
    try:
        from ocishim.tracing import otel  # noqa: PLC0415 - for those that trace only
    except ImportError as error:
        raise FailedPrecondition(
            f"tracing.endpoint is configured, and tracing needs OpenTelemetry: pip install 'ocishim[otel]' ({error})"
        ) from error
    made = otel.OtelTracer(settings.tracing)
    stack.push_async_callback(made.close)
    return made
