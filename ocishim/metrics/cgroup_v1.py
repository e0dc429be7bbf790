"""A cgroup's files under version 1, a hierarchy a controller; `unified` is version 2's tree beside them, if any.

Documentation/admin-guide/cgroup-v1 of the kernel. Numbers include the cgroups below, as version 2's do.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from ocishim.metrics.kernel import Keyed, limit, number, per_device, pressure
from ocishim.metrics.usage import (
    Cpu,
    CpuDetails,
    Details,
    DeviceIo,
    HugePages,
    Io,
    Memory,
    MemoryDetails,
    Swap,
    Usage,
    above,
    available,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocishim.metrics.kernel import Source

UNIFIED: Final = "unified"


def cpu_usage(read: Source) -> int | None:
    """Nanoseconds of one core."""
    return number(read("cpuacct", "cpuacct.usage"))


def processes(read: Source) -> bytes | None:
    """The ids of its own processes, a line each."""
    return read("pids", "cgroup.procs") or read("memory", "cgroup.procs")


def usage(read: Source) -> Usage:
    """What the statistics show."""
    at = time.time_ns()
    used = cpu_usage(read)
    cpu = None if used is None else Cpu(at, used, pressure(read(UNIFIED, "cpu.pressure")))
    memory, swap = _memory(read)
    at = time.time_ns()
    waited = pressure(read(UNIFIED, "io.pressure"))
    return Usage(cpu, memory, swap, None if waited is None else Io(at, waited))


def _memory(read: Source) -> tuple[Memory | None, Swap | None]:
    at = time.time_ns()
    used = number(read("memory", "memory.usage_in_bytes"))
    if used is None:
        return None, None
    stat = Keyed(read("memory", "memory.stat"))
    most = limit(read("memory", "memory.limit_in_bytes"))
    working_set = above(stat(b"total_inactive_file"), used)
    memory = Memory(
        at,
        used,
        working_set,
        available(most, working_set),
        stat(b"total_rss"),
        stat(b"total_pgfault"),
        stat(b"total_pgmajfault"),
        pressure(read(UNIFIED, "memory.pressure")),
    )
    return memory, _swap(read, stat, most)


def _swap(read: Source, stat: Keyed, memory_limit: int | None) -> Swap | None:
    at = time.time_ns()
    # The line is there only where swap is accounted for; so is memsw, the limit of memory and swap together.
    used = stat(b"total_swap")
    both = limit(read("memory", "memory.memsw.limit_in_bytes"))
    if used is None or both is None:
        return None
    left = above(used, max(both - memory_limit, 0)) if both and memory_limit else None
    return Swap(at, used, left)


def details(read: Source, page_sizes: Iterable[str]) -> Details:
    """What only the metrics show."""
    return Details(
        _cpu_details(read),
        _memory_details(read),
        number(read("pids", "pids.current")),
        limit(read("pids", "pids.max")),
        _devices(read),
        tuple(_huge_pages(read, page_sizes)),
    )


def _cpu_details(read: Source) -> CpuDetails:
    stat = Keyed(read("cpu", "cpu.stat"))
    return CpuDetails(
        user=number(read("cpuacct", "cpuacct.usage_user")),
        system=number(read("cpuacct", "cpuacct.usage_sys")),
        periods=stat(b"nr_periods"),
        throttled_periods=stat(b"nr_throttled"),
        throttled=stat(b"throttled_time"),
        quota=limit(read("cpu", "cpu.cfs_quota_us")),
        period=number(read("cpu", "cpu.cfs_period_us")),
        shares=number(read("cpu", "cpu.shares")),
    )


def _memory_details(read: Source) -> MemoryDetails:
    stat = Keyed(read("memory", "memory.stat"))
    return MemoryDetails(
        cache=stat(b"total_cache"),
        mapped_file=stat(b"total_mapped_file"),
        kernel=number(read("memory", "memory.kmem.usage_in_bytes")),
        most=number(read("memory", "memory.max_usage_in_bytes")),
        limit_hits=number(read("memory", "memory.failcnt")),
        active_file=stat(b"total_active_file"),
        inactive_file=stat(b"total_inactive_file"),
        own_page_faults=stat(b"pgfault"),
        own_major_page_faults=stat(b"pgmajfault"),
        limit=limit(read("memory", "memory.limit_in_bytes")),
        reservation=limit(read("memory", "memory.soft_limit_in_bytes")),
        swap_limit=limit(read("memory", "memory.memsw.limit_in_bytes")),
        oom_kills=Keyed(read("memory", "memory.oom_control"))(b"oom_kill"),
    )


def _devices(read: Source) -> tuple[DeviceIo, ...]:
    moved = _operations(read("blkio", "blkio.throttle.io_service_bytes_recursive"))
    counted = _operations(read("blkio", "blkio.throttle.io_serviced_recursive"))
    return tuple(
        DeviceIo(
            *device,
            *(moved.get((device, kind), 0) for kind in (b"Read", b"Write")),
            *(counted.get((device, kind), 0) for kind in (b"Read", b"Write")),
        )
        for device in sorted({device for device, _ in moved.keys() | counted.keys()})
    )


def _operations(data: bytes | None) -> dict[tuple[tuple[int, int], bytes], int]:
    """Lines such as `8:0 Read 4096`."""
    found = {}
    for major, minor, rest in per_device(data):
        kind, _, text = rest.partition(b" ")
        value = number(text)
        if value is not None:
            found[(major, minor), kind] = value
    return found


def _huge_pages(read: Source, page_sizes: Iterable[str]) -> Iterable[HugePages]:
    for size in page_sizes:
        used = number(read("hugetlb", f"hugetlb.{size}.usage_in_bytes"))
        if used is not None:
            yield HugePages(size, used, number(read("hugetlb", f"hugetlb.{size}.max_usage_in_bytes")))
