"""What a cgroup uses, whichever version of cgroups told it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocishim.metrics.kernel import Pressure


@dataclass(frozen=True, slots=True)
class Cpu:
    """Processor time; `at` is nanoseconds since the epoch here and below."""

    at: int
    usage: int
    """Nanoseconds of one core since the cgroup was made."""
    pressure: Pressure | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, and page faults since the cgroup was made."""

    at: int
    usage: int
    working_set: int | None
    """Usage without the file pages that were not used lately, which the kernel can take back at once."""
    available: int | None
    """What its own limit leaves above the working set; None without a limit."""
    rss: int | None
    page_faults: int | None
    major_page_faults: int | None
    pressure: Pressure | None


@dataclass(frozen=True, slots=True)
class Swap:
    """Bytes."""

    at: int
    usage: int
    available: int | None
    """None without a limit."""


@dataclass(frozen=True, slots=True)
class Io:
    """Waiting for disks."""

    at: int
    pressure: Pressure


@dataclass(frozen=True, slots=True)
class Usage:
    """What there is to know of a cgroup, each part with its own time."""

    cpu: Cpu | None
    memory: Memory | None
    swap: Swap | None
    io: Io | None

    @property
    def is_empty(self) -> bool:
        """Whether the cgroup is gone."""
        return self.cpu is None and self.memory is None


@dataclass(frozen=True, slots=True)
class CpuDetails:
    """Nanoseconds, and what throttles; None where the kernel does not tell."""

    user: int | None
    system: int | None
    periods: int | None
    throttled_periods: int | None
    throttled: int | None
    quota: int | None
    """Microseconds a period; 0: no limit."""
    period: int | None
    """Microseconds."""
    shares: int | None


@dataclass(frozen=True, slots=True)
class MemoryDetails:
    """Bytes and counts; a limit of 0 is none."""

    cache: int | None
    mapped_file: int | None
    kernel: int | None
    most: int | None
    limit_hits: int | None
    active_file: int | None
    inactive_file: int | None
    own_page_faults: int | None
    """Without those of cgroups below."""
    own_major_page_faults: int | None
    limit: int | None
    reservation: int | None
    swap_limit: int | None
    oom_kills: int | None


@dataclass(frozen=True, slots=True)
class DeviceIo:
    """A block device's share: bytes and operations since the cgroup was made."""

    major: int
    minor: int
    read_bytes: int
    write_bytes: int
    reads: int
    writes: int


@dataclass(frozen=True, slots=True)
class HugePages:
    """Bytes in huge pages of one size, such as 2MB."""

    size: str
    usage: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Details:
    """What only the metrics show."""

    cpu: CpuDetails
    memory: MemoryDetails
    threads: int | None
    threads_limit: int | None
    devices: tuple[DeviceIo, ...]
    huge_pages: tuple[HugePages, ...]


def above(low: int | None, high: int) -> int | None:
    """high - low, not below 0: the two were read one after the other."""
    return None if low is None else max(high - low, 0)


def available(limit: int | None, used: int | None) -> int | None:
    """What a limit leaves; None without one."""
    return above(used, limit) if limit else None


def total(parts: list[Usage]) -> Usage:
    """What several cgroups use together. Pressure is left out: that of several is not the sum of theirs."""
    cpus = [each.cpu for each in parts if each.cpu]
    memories = [each.memory for each in parts if each.memory]
    swaps = [each.swap for each in parts if each.swap]
    cpu = Cpu(max(each.at for each in cpus), sum(each.usage for each in cpus), None) if cpus else None
    memory = None
    if memories:
        memory = Memory(
            max(each.at for each in memories),
            sum(each.usage for each in memories),
            _sum(each.working_set for each in memories),
            None,
            _sum(each.rss for each in memories),
            _sum(each.page_faults for each in memories),
            _sum(each.major_page_faults for each in memories),
            None,
        )
    swap = Swap(max(each.at for each in swaps), sum(each.usage for each in swaps), None) if swaps else None
    return Usage(cpu, memory, swap, None)


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
