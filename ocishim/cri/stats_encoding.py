"""Readings in the CRI's words. What a kernel does not tell is absent from the message, never 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from ocishim.api.runtime import v1
from ocishim.cri import listing
from ocishim.network.attachment import INTERFACE

if TYPE_CHECKING:
    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.lifecycle.stats import ContainerUsage, SandboxUsage
    from ocishim.lifecycle.usage import Sample
    from ocishim.metrics import kernel, usage

_ATTRIBUTES_FIELD: Final = 1


class Encoder:
    """Encodes entries of statistics; what never changes of a pod or container is encoded once."""

    def __init__(self, containers_directory: str) -> None:
        self._directory = containers_directory
        self._attributes: WeakKeyDictionary[Container | Sandbox, bytes] = WeakKeyDictionary()

    def container(self, found: ContainerUsage) -> bytes:
        """A ContainerStats."""
        attributes = self._attributes.get(found.container)
        if attributes is None:
            made = listing.join([bytes(container_attributes(found.container))], _ATTRIBUTES_FIELD).content
            attributes = self._attributes.setdefault(found.container, made)
        return attributes + bytes(self._values(found))

    def sandbox(self, found: SandboxUsage) -> bytes:
        """A PodSandboxStats."""
        attributes = self._attributes.get(found.sandbox)
        if attributes is None:
            made = listing.join([bytes(sandbox_attributes(found.sandbox))], _ATTRIBUTES_FIELD).content
            attributes = self._attributes.setdefault(found.sandbox, made)
        return attributes + bytes(self._sandbox_values(found))

    def _values(self, found: ContainerUsage) -> v1.ContainerStats:
        used = found.usage
        stats = v1.ContainerStats()
        if used.cpu:
            stats.cpu = cpu_usage(used.cpu, found.nano_cores)
        if used.memory:
            stats.memory = memory_usage(used.memory)
        if used.swap:
            stats.swap = swap_usage(used.swap)
        if used.io:
            stats.io = io_usage(used.io)
        if found.layer:
            stats.writable_layer = filesystem_usage(self._directory, found.layer)
        return stats

    def _sandbox_values(self, found: SandboxUsage) -> v1.PodSandboxStats:
        used = found.usage
        linux = v1.LinuxPodSandboxStats(containers=[])
        if used.cpu:
            linux.cpu = cpu_usage(used.cpu, found.nano_cores)
        if used.memory:
            linux.memory = memory_usage(used.memory)
        if used.io:
            linux.io = io_usage(used.io)
        if found.interfaces is not None:
            linux.network = network_usage(found.interfaces, found.interfaces_at)
        if found.processes is not None:
            linux.process = v1.ProcessUsage(
                timestamp=found.processes_at, process_count=v1.UInt64Value(value=found.processes)
            )
        for each in found.containers:
            stats = self._values(each)
            stats.attributes = container_attributes(each.container)
            linux.containers.append(stats)
        return v1.PodSandboxStats(linux=linux)


def container_attributes(container: Container) -> v1.ContainerAttributes:
    """Which container it is."""
    metadata, config = container.metadata, container.config
    return v1.ContainerAttributes(
        id=metadata.id,
        metadata=v1.ContainerMetadata(name=metadata.name, attempt=metadata.attempt),
        labels=config.labels,
        annotations=config.annotations,
    )


def sandbox_attributes(sandbox: Sandbox) -> v1.PodSandboxAttributes:
    """Which pod it is."""
    metadata, config = sandbox.metadata, sandbox.config
    return v1.PodSandboxAttributes(
        id=metadata.id,
        metadata=v1.PodSandboxMetadata(
            name=metadata.name, uid=metadata.uid, namespace=metadata.namespace, attempt=metadata.attempt
        ),
        labels=config.labels,
        annotations=config.annotations,
    )


def cpu_usage(used: usage.Cpu, nano_cores: int | None) -> v1.CpuUsage:
    """Processor time; the rate is absent until there are two readings."""
    answer = v1.CpuUsage(timestamp=used.at, usage_core_nano_seconds=v1.UInt64Value(value=used.usage))
    if nano_cores is not None:
        answer.usage_nano_cores = v1.UInt64Value(value=nano_cores)
    if used.pressure:
        answer.psi = psi(used.pressure)
    return answer


def memory_usage(used: usage.Memory) -> v1.MemoryUsage:
    """Memory."""
    answer = v1.MemoryUsage(timestamp=used.at, usage_bytes=v1.UInt64Value(value=used.usage))
    for field, value in (
        ("working_set_bytes", used.working_set),
        ("available_bytes", used.available),
        ("rss_bytes", used.rss),
        ("page_faults", used.page_faults),
        ("major_page_faults", used.major_page_faults),
    ):
        if value is not None:
            setattr(answer, field, v1.UInt64Value(value=value))
    if used.pressure:
        answer.psi = psi(used.pressure)
    return answer


def swap_usage(used: usage.Swap) -> v1.SwapUsage:
    """Swap."""
    answer = v1.SwapUsage(timestamp=used.at, swap_usage_bytes=v1.UInt64Value(value=used.usage))
    if used.available is not None:
        answer.swap_available_bytes = v1.UInt64Value(value=used.available)
    return answer


def io_usage(waited: usage.Io) -> v1.IoUsage:
    """Waiting for disks."""
    return v1.IoUsage(timestamp=waited.at, psi=psi(waited.pressure))


def psi(pressure: kernel.Pressure) -> v1.PsiStats:
    """Pressure stall information, in nanoseconds and per cent."""
    answer = v1.PsiStats()
    if pressure.full:
        answer.full = _psi_data(pressure.full)
    if pressure.some:
        answer.some = _psi_data(pressure.some)
    return answer


def _psi_data(stall: kernel.Stall) -> v1.PsiData:
    return v1.PsiData(total=stall.total, avg10=stall.avg10, avg60=stall.avg60, avg300=stall.avg300)


def filesystem_usage(mountpoint: str, sample: Sample) -> v1.FilesystemUsage:
    """What a directory takes of its filesystem."""
    return v1.FilesystemUsage(
        timestamp=sample.at,
        fs_id=v1.FilesystemIdentifier(mountpoint=mountpoint),
        used_bytes=v1.UInt64Value(value=sample.used),
        inodes_used=v1.UInt64Value(value=sample.inodes),
    )


def network_usage(interfaces: tuple[kernel.Interface, ...], at: int) -> v1.NetworkUsage:
    """A pod's interfaces: the one that CNI made under its usual name first, or where it has been renamed any."""
    entries = [
        v1.NetworkInterfaceUsage(
            name=each.name,
            rx_bytes=v1.UInt64Value(value=each.rx_bytes),
            rx_errors=v1.UInt64Value(value=each.rx_errors),
            tx_bytes=v1.UInt64Value(value=each.tx_bytes),
            tx_errors=v1.UInt64Value(value=each.tx_errors),
        )
        for each in sorted(interfaces, key=lambda each: each.name != INTERFACE)
    ]
    answer = v1.NetworkUsage(timestamp=at, interfaces=entries[1:])
    if entries:
        answer.default_interface = entries[0]
    return answer
