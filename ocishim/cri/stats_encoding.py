"""Readings in the CRI's words. What a kernel does not tell is absent from the message, never 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from ocishim.api.runtime import v1
from ocishim.cri.protobuf import Fields
from ocishim.network.attachment import INTERFACE

if TYPE_CHECKING:
    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.lifecycle.stats import ContainerUsage, SandboxUsage
    from ocishim.lifecycle.usage import Sample
    from ocishim.metrics import kernel, usage

_CONTAINER: Final = Fields(v1.ContainerStats)
_SANDBOX: Final = Fields(v1.PodSandboxStats)
_LINUX: Final = Fields(v1.LinuxPodSandboxStats)
_CPU: Final = Fields(v1.CpuUsage)
_MEMORY: Final = Fields(v1.MemoryUsage)
_SWAP: Final = Fields(v1.SwapUsage)
_IO: Final = Fields(v1.IoUsage)
_PSI: Final = Fields(v1.PsiStats)
_STALL: Final = Fields(v1.PsiData)
_FILESYSTEM: Final = Fields(v1.FilesystemUsage)
_FILESYSTEM_ID: Final = Fields(v1.FilesystemIdentifier)
_NETWORK: Final = Fields(v1.NetworkUsage)
_INTERFACE: Final = Fields(v1.NetworkInterfaceUsage)
_PROCESS: Final = Fields(v1.ProcessUsage)


class Encoder:
    """Encodes entries of statistics; what never changes of a pod or container is encoded once."""

    def __init__(self, containers_directory: str) -> None:
        self._place = _FILESYSTEM.message("fs_id", _FILESYSTEM_ID.text("mountpoint", containers_directory))
        self._attributes: WeakKeyDictionary[Container | Sandbox, bytes] = WeakKeyDictionary()

    def container(self, found: ContainerUsage) -> bytes:
        """A ContainerStats."""
        used = found.usage
        return (
            self._container_attributes(found.container)
            + _CONTAINER.optional("cpu", used.cpu, lambda cpu: cpu_usage(cpu, found.nano_cores))
            + _CONTAINER.optional("memory", used.memory, memory_usage)
            + _CONTAINER.optional("writable_layer", found.layer, self._layer)
            + _CONTAINER.optional("swap", used.swap, swap_usage)
            + _CONTAINER.optional("io", used.io, io_usage)
        )

    def sandbox(self, found: SandboxUsage) -> bytes:
        """A PodSandboxStats."""
        used = found.usage
        parts = [
            _LINUX.optional("cpu", used.cpu, lambda cpu: cpu_usage(cpu, found.nano_cores)),
            _LINUX.optional("memory", used.memory, memory_usage),
            _LINUX.optional("io", used.io, io_usage),
        ]
        if found.interfaces is not None:
            parts.append(_LINUX.message("network", network_usage(found.interfaces, found.interfaces_at)))
        if found.processes is not None:
            counted = _PROCESS.number("timestamp", found.processes_at)
            parts.append(_LINUX.message("process", counted + _PROCESS.wrapped("process_count", found.processes)))
        parts += [_LINUX.message("containers", self.container(each)) for each in found.containers]
        return self._sandbox_attributes(found.sandbox) + _SANDBOX.message("linux", b"".join(parts))

    def _layer(self, sample: Sample) -> bytes:
        return (
            _FILESYSTEM.number("timestamp", sample.at)
            + self._place
            + _FILESYSTEM.wrapped("used_bytes", sample.used)
            + _FILESYSTEM.wrapped("inodes_used", sample.inodes)
        )

    def _container_attributes(self, container: Container) -> bytes:
        known = self._attributes.get(container)
        if known is None:
            metadata, config = container.metadata, container.config
            attributes = v1.ContainerAttributes(
                id=metadata.id,
                metadata=v1.ContainerMetadata(name=metadata.name, attempt=metadata.attempt),
                labels=config.labels,
                annotations=config.annotations,
            )
            known = self._attributes[container] = _CONTAINER.message("attributes", bytes(attributes))
        return known

    def _sandbox_attributes(self, sandbox: Sandbox) -> bytes:
        known = self._attributes.get(sandbox)
        if known is None:
            metadata, config = sandbox.metadata, sandbox.config
            attributes = v1.PodSandboxAttributes(
                id=metadata.id,
                metadata=v1.PodSandboxMetadata(
                    name=metadata.name, uid=metadata.uid, namespace=metadata.namespace, attempt=metadata.attempt
                ),
                labels=config.labels,
                annotations=config.annotations,
            )
            known = self._attributes[sandbox] = _SANDBOX.message("attributes", bytes(attributes))
        return known


def cpu_usage(used: usage.Cpu, nano_cores: int | None) -> bytes:
    """Processor time; the rate is absent until there are two readings."""
    return (
        _CPU.number("timestamp", used.at)
        + _CPU.wrapped("usage_core_nano_seconds", used.usage)
        + _CPU.wrapped("usage_nano_cores", nano_cores)
        + _CPU.optional("psi", used.pressure, psi)
    )


def memory_usage(used: usage.Memory) -> bytes:
    """Memory."""
    return (
        _MEMORY.number("timestamp", used.at)
        + _MEMORY.wrapped("usage_bytes", used.usage)
        + _MEMORY.wrapped("working_set_bytes", used.working_set)
        + _MEMORY.wrapped("available_bytes", used.available)
        + _MEMORY.wrapped("rss_bytes", used.rss)
        + _MEMORY.wrapped("page_faults", used.page_faults)
        + _MEMORY.wrapped("major_page_faults", used.major_page_faults)
        + _MEMORY.optional("psi", used.pressure, psi)
    )


def swap_usage(used: usage.Swap) -> bytes:
    """Swap."""
    return (
        _SWAP.number("timestamp", used.at)
        + _SWAP.wrapped("swap_usage_bytes", used.usage)
        + _SWAP.wrapped("swap_available_bytes", used.available)
    )


def io_usage(waited: usage.Io) -> bytes:
    """Waiting for disks."""
    return _IO.number("timestamp", waited.at) + _IO.message("psi", psi(waited.pressure))


def psi(pressure: kernel.Pressure) -> bytes:
    """Pressure stall information, in nanoseconds and per cent."""
    return _PSI.optional("full", pressure.full, _stall) + _PSI.optional("some", pressure.some, _stall)


def _stall(stall: kernel.Stall) -> bytes:
    return (
        _STALL.number("total", stall.total)
        + _STALL.double("avg10", stall.avg10)
        + _STALL.double("avg60", stall.avg60)
        + _STALL.double("avg300", stall.avg300)
    )


def network_usage(interfaces: tuple[kernel.Interface, ...], at: int) -> bytes:
    """A pod's interfaces: the one that CNI made under its usual name first, or where it has been renamed any."""
    entries = [
        _INTERFACE.text("name", each.name)
        + _INTERFACE.wrapped("rx_bytes", each.rx_bytes)
        + _INTERFACE.wrapped("rx_errors", each.rx_errors)
        + _INTERFACE.wrapped("tx_bytes", each.tx_bytes)
        + _INTERFACE.wrapped("tx_errors", each.tx_errors)
        for each in sorted(interfaces, key=lambda each: each.name != INTERFACE)
    ]
    roles = ("default_interface", *["interfaces"] * len(entries))
    parts = (_NETWORK.message(role, entry) for role, entry in zip(roles, entries, strict=False))
    return _NETWORK.number("timestamp", at) + b"".join(parts)
