"""What pods and containers use, read when asked for; what takes time to know is sampled while somebody asks.

All reading happens in one thread at a time, made for it: it enters the pods' network namespaces one after the other,
which costs some 20 µs each, and needs neither a process nor a descriptor kept in any of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from ocishim.linux import namespace
from ocishim.linux.uncancelled import to_the_end
from ocishim.metrics import reading
from ocishim.metrics.usage import total
from ocishim.metrics.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.lifecycle.usage import Sample
    from ocishim.metrics.kernel import Interface
    from ocishim.metrics.usage import Details, Usage

T = TypeVar("T")

_IDLE: Final = 60.0
"""Seconds after the last question that sampling goes on: a node whose statistics nobody reads pays nothing for them."""


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """One running container's reading."""

    container: Container
    usage: Usage
    nano_cores: int | None
    layer: Sample | None
    """What its writable layer takes, as last counted."""


@dataclass(frozen=True, slots=True)
class SandboxUsage:
    """One ready pod's reading."""

    sandbox: Sandbox
    usage: Usage
    nano_cores: int | None
    interfaces: tuple[Interface, ...] | None
    """None with the host's network, which is not the pod's."""
    interfaces_at: int
    processes: int | None
    processes_at: int
    containers: list[ContainerUsage]


@dataclass(frozen=True, slots=True)
class ContainerSample:
    """All that the metrics show of a running container."""

    container: Container
    usage: Usage
    details: Details
    layer: Sample | None
    filesystem: reading.Filesystem | None
    processes: reading.Processes | None
    open_files_limit: int | None


@dataclass(frozen=True, slots=True)
class SandboxSample:
    """All that the metrics show of a ready pod."""

    sandbox: Sandbox
    interfaces: tuple[Interface, ...] | None
    containers: list[ContainerSample]


class Stats:
    """The statistics of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._cgroups = reading.Cgroups()
        self._interval = node.settings.stats.interval
        self._windows = Windows(self._interval)
        self._lane = asyncio.Lock()
        self._wanted_until = 0.0
        self._sampling: asyncio.Task[None] | None = None

    async def containers(self, wanted: Iterable[Container], present: Callable[[ContainerUsage], T]) -> list[T]:
        """Readings of those that are running, each passed through `present` in the reading thread."""
        chosen = [each for each in wanted if each.status.is_running]
        return await self._read(lambda: [present(found) for each in chosen if (found := self._container(each))])

    async def sandboxes(self, wanted: Iterable[Sandbox], present: Callable[[SandboxUsage], T]) -> list[T]:
        """Readings of those that are ready, likewise."""
        chosen = self._with_containers(wanted)
        common = self._shared_cgroups()
        return await self._read(
            lambda: [present(found) for each, own in chosen if (found := self._sandbox(each, own, common))]
        )

    async def samples(self, wanted: Iterable[Sandbox], present: Callable[[SandboxSample], T]) -> list[T]:
        """All that the metrics show of ready pods, likewise."""
        chosen = self._with_containers(wanted)
        return await self._read(
            lambda: [present(found) for each, own in chosen if (found := self._sample_sandbox(each, own))]
        )

    def _with_containers(self, wanted: Iterable[Sandbox]) -> list[tuple[Sandbox, list[Container]]]:
        members: dict[str, list[Container]] = {}
        for container in self._node.containers:
            if container.status.is_running:
                members.setdefault(container.metadata.sandbox_id, []).append(container)
        return [(each, members.get(each.id, [])) for each in wanted if each.is_ready]

    async def _read(self, work: Callable[[], T]) -> T:
        self._keep_sampling()
        async with self._lane:
            # Nothing else runs in the thread, and it must have ended before the next begins.
            return await to_the_end(namespace.in_fresh_thread(work, "read-usage"))

    def _shared_cgroups(self) -> frozenset[str]:
        """Parents that are more than one pod's: what they use is no single pod's use."""
        return shared([each.metadata.cgroup_parent for each in self._node.sandboxes if each.is_ready])

    def _container(self, container: Container) -> ContainerUsage | None:
        usage = self._cgroups.usage(container.metadata.cgroup)
        if usage.is_empty or not container.status.is_running:
            return None  # it has ended meanwhile
        rate = self._windows.rate(container.id, usage.cpu.usage if usage.cpu else None)
        return ContainerUsage(container, usage, rate, self._node.written.layer(container.id))

    def _sandbox(
        self, sandbox: Sandbox, containers: Sequence[Container], common: frozenset[str]
    ) -> SandboxUsage | None:
        found = [entry for each in containers if (entry := self._container(each))]
        parent = sandbox.metadata.cgroup_parent
        is_own = parent not in common
        usage = self._cgroups.usage(parent) if is_own else total([each.usage for each in found])
        processes_at = time.time_ns()
        paths = [parent] if is_own else [each.metadata.cgroup for each in containers]
        counts = [len(pids) for path in paths if (pids := self._cgroups.processes(path)) is not None]
        interfaces_at = time.time_ns()
        interfaces = self._interfaces(sandbox)
        if not sandbox.is_ready:
            return None  # it has been stopped meanwhile
        return SandboxUsage(
            sandbox,
            usage,
            self._windows.rate(sandbox.id, usage.cpu.usage if usage.cpu else None),
            interfaces,
            interfaces_at,
            sum(counts) if counts else None,
            processes_at,
            found,
        )

    def _interfaces(self, sandbox: Sandbox) -> tuple[Interface, ...] | None:
        if "net" not in sandbox.metadata.namespaces:
            return None
        return reading.network_of(f"{self._node.layout.sandbox(sandbox.metadata.id).namespaces}/net")

    def _sample_sandbox(self, sandbox: Sandbox, containers: Sequence[Container]) -> SandboxSample | None:
        filesystem = reading.filesystem(self._node.layout.containers) if containers else None
        found = [sample for each in containers if (sample := self._sample_container(each, filesystem))]
        interfaces = self._interfaces(sandbox)
        return SandboxSample(sandbox, interfaces, found) if sandbox.is_ready else None

    def _sample_container(self, container: Container, filesystem: reading.Filesystem | None) -> ContainerSample | None:
        path = container.metadata.cgroup
        usage, details = self._cgroups.all(path)
        pids = self._cgroups.processes(path)
        process = container.status.process
        open_files = reading.open_files_limit_of(process.pid) if process else None
        if usage.is_empty or not container.status.is_running:
            return None  # it has ended meanwhile
        return ContainerSample(
            container,
            usage,
            details,
            self._node.written.layer(container.id),
            filesystem,
            None if pids is None else reading.held_by(pids),
            open_files,
        )

    def _keep_sampling(self) -> None:
        self._wanted_until = time.monotonic() + max(_IDLE, 2 * self._interval)
        if self._sampling is None or self._sampling.done():
            self._sampling = self._node.jobs.spawn(self._sample(), "sample usage")

    async def _sample(self) -> None:
        """Keep rates and counts fresh, so that who asks again has them at once."""
        while time.monotonic() < self._wanted_until:
            self._node.written.refresh()
            running = [(each.id, each.metadata.cgroup) for each in self._node.containers if each.status.is_running]
            pods = [(each.id, each.metadata.cgroup_parent) for each in self._node.sandboxes if each.is_ready]
            common = self._shared_cgroups()
            counters = running + [(key, path) for key, path in pods if path not in common]
            async with self._lane:
                await to_the_end(asyncio.to_thread(self._note, counters, {key for key, _ in running + pods}))
            await asyncio.sleep(self._interval)

    def _note(self, counters: list[tuple[str, str]], known: set[str]) -> None:
        for key, path in counters:
            self._windows.rate(key, self._cgroups.cpu_usage(path))
        self._windows.keep(known)


def shared(parents: Sequence[str]) -> frozenset[str]:
    """Which cgroups of pods hold other pods as well; the root always does."""
    count = Counter(parents)
    above = {parent[:end] for parent in count for end, character in enumerate(parent) if character == "/"}
    return frozenset({parent for parent, pods in count.items() if pods > 1 or parent in above} | {"/", ""})
