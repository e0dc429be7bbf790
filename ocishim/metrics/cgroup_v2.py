"""A cgroup's files under version 2, where all controllers share one directory.

Documentation/admin-guide/cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from ocishim.metrics.kernel import Keyed, limit, nanoseconds, number, per_device, pressure
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

_LEAST_SHARES, _MOST_SHARES = 2, 262144
_MOST_WEIGHT: Final = 10000


def cpu_usage(read: Source) -> int | None:
    """Nanoseconds of one core."""
    return nanoseconds(Keyed(read("", "cpu.stat"))(b"usage_usec"))


def processes(read: Source) -> bytes | None:
    """The ids of its own processes, a line each."""
    return read("", "cgroup.procs")


def usage(read: Source) -> Usage:
    """What the statistics show."""
    at = time.time_ns()
    used = cpu_usage(read)
    cpu = None if used is None else Cpu(at, used, pressure(read("", "cpu.pressure")))
    memory = _memory(read)
    swap = _swap(read)
    at = time.time_ns()
    waited = pressure(read("", "io.pressure"))
    return Usage(cpu, memory, swap, None if waited is None else Io(at, waited))


def _memory(read: Source) -> Memory | None:
    at = time.time_ns()
    used = number(read("", "memory.current"))
    if used is None:
        return None
    stat = Keyed(read("", "memory.stat"))
    working_set = above(stat(b"inactive_file"), used)
    return Memory(
        at,
        used,
        working_set,
        available(limit(read("", "memory.max")), working_set),
        stat(b"anon"),
        stat(b"pgfault"),
        stat(b"pgmajfault"),
        pressure(read("", "memory.pressure")),
    )


def _swap(read: Source) -> Swap | None:
    at = time.time_ns()
    used = number(read("", "memory.swap.current"))
    if used is None:
        return None
    data = read("", "memory.swap.max")
    # A limit of 0 bytes is one here, and the usual one: it leaves nothing.
    most = None if data is None or data.strip() == b"max" else number(data)
    return Swap(at, used, None if most is None else max(most - used, 0))


def details(read: Source, page_sizes: Iterable[str]) -> Details:
    """What only the metrics show."""
    return Details(
        _cpu_details(read),
        _memory_details(read),
        number(read("", "pids.current")),
        limit(read("", "pids.max")),
        tuple(_devices(read)),
        tuple(_huge_pages(read, page_sizes)),
    )


def _cpu_details(read: Source) -> CpuDetails:
    stat = Keyed(read("", "cpu.stat"))
    quota, _, period = (read("", "cpu.max") or b"").partition(b" ")
    weight = number(read("", "cpu.weight"))
    return CpuDetails(
        user=nanoseconds(stat(b"user_usec")),
        system=nanoseconds(stat(b"system_usec")),
        periods=stat(b"nr_periods"),
        throttled_periods=stat(b"nr_throttled"),
        throttled=nanoseconds(stat(b"throttled_usec")),
        quota=limit(quota or None),
        period=number(period),
        shares=None if weight is None else shares_of(weight),
    )


def shares_of(weight: int) -> int:
    """cpu.weight as version 1's shares, by the inverse of what OCI runtimes compute from shares."""
    wanted = _LEAST_SHARES + (weight - 1) * (_MOST_SHARES - _LEAST_SHARES) // (_MOST_WEIGHT - 1)
    return min(max(wanted, _LEAST_SHARES), _MOST_SHARES)


def _memory_details(read: Source) -> MemoryDetails:
    stat = Keyed(read("", "memory.stat"))
    events = Keyed(read("", "memory.events"))
    return MemoryDetails(
        cache=stat(b"file"),
        mapped_file=stat(b"file_mapped"),
        kernel=stat(b"kernel"),
        most=number(read("", "memory.peak")),
        limit_hits=events(b"max"),
        active_file=stat(b"active_file"),
        inactive_file=stat(b"inactive_file"),
        own_page_faults=stat(b"pgfault"),
        own_major_page_faults=stat(b"pgmajfault"),
        limit=limit(read("", "memory.max")),
        reservation=limit(read("", "memory.low")),
        swap_limit=limit(read("", "memory.swap.max")),
        oom_kills=events(b"oom_kill"),
    )


def _devices(read: Source) -> Iterable[DeviceIo]:
    """Lines such as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`."""
    for major, minor, rest in per_device(read("", "io.stat")):
        found = dict(each.split(b"=", 1) for each in rest.split() if b"=" in each)
        values = [number(found.get(key)) for key in (b"rbytes", b"wbytes", b"rios", b"wios")]
        if any(value is not None for value in values):
            yield DeviceIo(major, minor, *(value or 0 for value in values))


def _huge_pages(read: Source, page_sizes: Iterable[str]) -> Iterable[HugePages]:
    for size in page_sizes:
        used = number(read("", f"hugetlb.{size}.current"))
        if used is not None:
            yield HugePages(size, used, None)
