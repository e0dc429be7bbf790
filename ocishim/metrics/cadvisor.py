"""The metrics that consumers of kubelet's /metrics/cadvisor know, by cAdvisor's names, types and labels.

The table is static for the life of the server. The CRI carries whole numbers only: what is named seconds loses its
fraction. A value that the kernel does not tell has no sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ocishim.metrics.kernel import Interface, Pressure
    from ocishim.metrics.reading import Filesystem, Processes
    from ocishim.metrics.usage import CpuDetails, Details, MemoryDetails, Usage

BASE_LABELS: Final = ("id", "name", "image", "namespace", "pod", "container")
"""cAdvisor's as kubelet sets them: the cgroup's path, the container's id, and what Kubernetes knows."""
_SECOND: Final = 10**9


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to know of a container."""

    usage: Usage
    details: Details
    processes: Processes | None
    open_files_limit: int | None
    filesystem: Filesystem | None
    device: str
    """Of that filesystem."""
    written: int | None
    """Bytes of the writable layer."""
    started_at: int
    """Nanoseconds since the epoch."""
    now: int
    device_name: Callable[[int, int], str]


Sample = tuple[tuple[str, ...], int | None]
"""Values of a metric's own labels, and its value."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of containers."""

    name: str
    help: str
    labels: tuple[str, ...]
    """Beyond the base labels."""
    is_counter: bool
    samples: Callable[[Facts], Iterable[Sample]]
    is_live: bool = True
    """Read when asked for, rather than sampled in the background."""


@dataclass(frozen=True, slots=True)
class NetworkMetric:
    """A counter of a pod's interfaces."""

    name: str
    help: str
    value: Callable[[Interface], int]


def _one(value: Callable[[Facts], int | None]) -> Callable[[Facts], Iterable[Sample]]:
    return lambda facts: (((), value(facts)),)


def _gauge(name: str, text: str, value: Callable[[Facts], int | None]) -> Metric:
    return Metric(name, text, (), False, _one(value))


def _counter(name: str, text: str, value: Callable[[Facts], int | None]) -> Metric:
    return Metric(name, text, (), True, _one(value))


def _cpu(name: str, text: str, value: Callable[[CpuDetails], int | None]) -> Metric:
    return _counter(name, text, lambda facts: value(facts.details.cpu))


def _throttling(name: str, text: str, value: Callable[[CpuDetails], int | None]) -> Metric:
    """Only containers with a quota are ever throttled."""
    return _counter(name, text, lambda facts: value(facts.details.cpu) if facts.details.cpu.quota else None)


def _memory(name: str, text: str, value: Callable[[MemoryDetails], int | None]) -> Metric:
    return _gauge(name, text, lambda facts: value(facts.details.memory))


def _seconds(nanoseconds: int | None) -> int | None:
    return None if nanoseconds is None else nanoseconds // _SECOND


def _cpu_usage(facts: Facts) -> Iterator[Sample]:
    if facts.usage.cpu:
        yield ("total",), _seconds(facts.usage.cpu.usage)


def _of_memory(facts: Facts, field: str) -> int | None:
    value: int | None = getattr(facts.usage.memory, field, None)
    return value


def _page_faults(facts: Facts) -> Iterator[Sample]:
    memory = facts.details.memory
    yield ("pgfault", "container"), memory.own_page_faults
    yield ("pgfault", "hierarchy"), _of_memory(facts, "page_faults")
    yield ("pgmajfault", "container"), memory.own_major_page_faults
    yield ("pgmajfault", "hierarchy"), _of_memory(facts, "major_page_faults")


def _io(name: str, text: str, field: str) -> Metric:
    def samples(facts: Facts) -> Iterator[Sample]:
        for each in facts.details.devices:
            yield (facts.device_name(each.major, each.minor),), getattr(each, field)

    return Metric(name, text, ("device",), True, samples)


def _block_io(facts: Facts) -> Iterator[Sample]:
    for each in facts.details.devices:
        labels = (facts.device_name(each.major, each.minor), str(each.major), str(each.minor))
        yield (*labels, "Read"), each.read_bytes
        yield (*labels, "Write"), each.write_bytes


def _filesystem(name: str, text: str, value: Callable[[Facts], int | None], *, is_live: bool = True) -> Metric:
    return Metric(name, text, ("device",), False, lambda facts: (((facts.device,), value(facts)),), is_live)


def _huge_pages(name: str, text: str, field: str) -> Metric:
    def samples(facts: Facts) -> Iterator[Sample]:
        for each in facts.details.huge_pages:
            yield (each.size,), getattr(each, field)

    return Metric(name, text, ("pagesize",), False, samples)


def _stalled(pressure: Pressure | None) -> int | None:
    return _seconds(pressure.full.total) if pressure and pressure.full else None


def _waiting(pressure: Pressure | None) -> int | None:
    return _seconds(pressure.some.total) if pressure and pressure.some else None


def _pressures() -> Iterator[Metric]:
    resources: tuple[tuple[str, str, Callable[[Usage], Pressure | None]], ...] = (
        ("cpu", "CPU", lambda usage: usage.cpu.pressure if usage.cpu else None),
        ("memory", "memory", lambda usage: usage.memory.pressure if usage.memory else None),
        ("io", "I/O", lambda usage: usage.io.pressure if usage.io else None),
    )
    for name, word, pressure in resources:
        yield _counter(
            f"container_pressure_{name}_stalled_seconds_total",
            f"Seconds in which no task of the container could go on for want of {word}.",
            lambda facts, pressure=pressure: _stalled(pressure(facts.usage)),  # type: ignore[misc] # bound now, not late
        )
        yield _counter(
            f"container_pressure_{name}_waiting_seconds_total",
            f"Seconds in which some task of the container waited for {word}.",
            lambda facts, pressure=pressure: _waiting(pressure(facts.usage)),  # type: ignore[misc] # likewise
        )


CONTAINER_METRICS: Final = (
    Metric("container_cpu_usage_seconds_total", "CPU time used, in seconds.", ("cpu",), True, _cpu_usage),
    _cpu("container_cpu_user_seconds_total", "CPU time in user mode, in seconds.", lambda cpu: _seconds(cpu.user)),
    _cpu("container_cpu_system_seconds_total", "CPU time in the kernel, in seconds.", lambda cpu: _seconds(cpu.system)),
    _throttling("container_cpu_cfs_periods_total", "Enforcement periods that have passed.", lambda cpu: cpu.periods),
    _throttling(
        "container_cpu_cfs_throttled_periods_total",
        "Enforcement periods in which the container was throttled.",
        lambda cpu: cpu.throttled_periods,
    ),
    _throttling(
        "container_cpu_cfs_throttled_seconds_total",
        "Seconds for which the container was throttled.",
        lambda cpu: _seconds(cpu.throttled),
    ),
    _gauge("container_memory_usage_bytes", "Memory in use, file pages included.", lambda f: _of_memory(f, "usage")),
    _gauge(
        "container_memory_working_set_bytes",
        "Memory in use without file pages that were not used lately.",
        lambda f: _of_memory(f, "working_set"),
    ),
    _gauge("container_memory_rss", "Anonymous memory in use, in bytes.", lambda f: _of_memory(f, "rss")),
    _memory("container_memory_cache", "File pages in memory, in bytes.", lambda memory: memory.cache),
    _memory("container_memory_mapped_file", "Mapped file pages, in bytes.", lambda memory: memory.mapped_file),
    _memory("container_memory_kernel_usage", "Memory of the kernel's own, in bytes.", lambda memory: memory.kernel),
    _memory("container_memory_max_usage_bytes", "The most memory ever in use.", lambda memory: memory.most),
    _memory(
        "container_memory_total_active_file_bytes",
        "File pages used lately, in bytes.",
        lambda memory: memory.active_file,
    ),
    _memory(
        "container_memory_total_inactive_file_bytes",
        "File pages not used lately, in bytes.",
        lambda memory: memory.inactive_file,
    ),
    _gauge(
        "container_memory_swap",
        "Swap in use, in bytes.",
        lambda facts: facts.usage.swap.usage if facts.usage.swap else None,
    ),
    _counter(
        "container_memory_failcnt",
        "How often memory usage hit its limit.",
        lambda facts: facts.details.memory.limit_hits,
    ),
    Metric(
        "container_memory_failures_total",
        "Page faults by type and scope.",
        ("failure_type", "scope"),
        True,
        _page_faults,
    ),
    _counter(
        "container_oom_events_total",
        "Processes killed for want of memory.",
        lambda facts: facts.details.memory.oom_kills,
    ),
    _filesystem("container_fs_usage_bytes", "Bytes in the writable layer.", lambda facts: facts.written, is_live=False),
    _filesystem(
        "container_fs_limit_bytes",
        "Size of the filesystem of the writable layer.",
        lambda facts: facts.filesystem.size if facts.filesystem else None,
    ),
    _filesystem(
        "container_fs_inodes_total",
        "Inodes of that filesystem.",
        lambda facts: facts.filesystem.inodes if facts.filesystem else None,
    ),
    _filesystem(
        "container_fs_inodes_free",
        "Free inodes of that filesystem.",
        lambda facts: facts.filesystem.inodes_free if facts.filesystem else None,
    ),
    _io("container_fs_reads_bytes_total", "Bytes read from block devices.", "read_bytes"),
    _io("container_fs_reads_total", "Reads from block devices.", "reads"),
    _io("container_fs_writes_bytes_total", "Bytes written to block devices.", "write_bytes"),
    _io("container_fs_writes_total", "Writes to block devices.", "writes"),
    Metric(
        "container_blkio_device_usage_total",
        "Bytes moved from and to block devices.",
        ("device", "major", "minor", "operation"),
        True,
        _block_io,
    ),
    _huge_pages("container_hugetlb_usage_bytes", "Huge pages in use, in bytes.", "usage"),
    _huge_pages("container_hugetlb_max_usage_bytes", "The most huge pages ever in use, in bytes.", "most"),
    _gauge("container_processes", "Processes.", lambda facts: facts.processes.number if facts.processes else None),
    _gauge(
        "container_file_descriptors",
        "Open file descriptors.",
        lambda facts: facts.processes.descriptors if facts.processes else None,
    ),
    _gauge("container_sockets", "Open sockets.", lambda facts: facts.processes.sockets if facts.processes else None),
    _gauge("container_threads", "Threads.", lambda facts: facts.details.threads),
    _gauge(
        "container_threads_max", "Threads that there may be; 0 is no limit.", lambda facts: facts.details.threads_limit
    ),
    Metric(
        "container_ulimits_soft",
        "Soft limits of the container's first process.",
        ("ulimit",),
        False,
        lambda facts: ((("max_open_files",), facts.open_files_limit),),
    ),
    _gauge(
        "container_last_seen", "When the container was seen last, as a Unix time.", lambda facts: _seconds(facts.now)
    ),
    _gauge(
        "container_start_time_seconds",
        "When the container was started, as a Unix time.",
        lambda facts: _seconds(facts.started_at),
    ),
    _gauge("container_spec_cpu_period", "Enforcement period, in microseconds.", lambda facts: facts.details.cpu.period),
    _gauge(
        "container_spec_cpu_quota",
        "CPU time a period, in microseconds.",
        lambda facts: facts.details.cpu.quota or None,
    ),
    _gauge("container_spec_cpu_shares", "CPU shares.", lambda facts: facts.details.cpu.shares),
    _memory("container_spec_memory_limit_bytes", "Memory limit; 0 is none.", lambda memory: memory.limit),
    _memory(
        "container_spec_memory_reservation_limit_bytes",
        "Memory reservation; 0 is none.",
        lambda memory: memory.reservation,
    ),
    _memory("container_spec_memory_swap_limit_bytes", "Swap limit; 0 is none.", lambda memory: memory.swap_limit),
    *_pressures(),
)

NETWORK_METRICS: Final = tuple(
    NetworkMetric(f"container_network_{direction}_{what}_total", text, value)
    for direction, what, text, value in (
        ("receive", "bytes", "Bytes received.", lambda each: each.rx_bytes),
        ("receive", "packets", "Packets received.", lambda each: each.rx_packets),
        ("receive", "packets_dropped", "Packets dropped while receiving.", lambda each: each.rx_dropped),
        ("receive", "errors", "Errors while receiving.", lambda each: each.rx_errors),
        ("transmit", "bytes", "Bytes sent.", lambda each: each.tx_bytes),
        ("transmit", "packets", "Packets sent.", lambda each: each.tx_packets),
        ("transmit", "packets_dropped", "Packets dropped while sending.", lambda each: each.tx_dropped),
        ("transmit", "errors", "Errors while sending.", lambda each: each.tx_errors),
    )
)


def descriptors() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, help and label keys of every metric."""
    for each in CONTAINER_METRICS:
        yield each.name, each.help, (*BASE_LABELS, *each.labels)
    for network in NETWORK_METRICS:
        yield network.name, network.help, (*BASE_LABELS, "interface")
