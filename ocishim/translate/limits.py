"""Limits in the kernel's terms: which cgroup file takes which value, on cgroup v1 and on v2.

What OCI runtimes do with config.json's linux.resources when they make a container is done here for cgroups that
exist already: those of running containers, and those of pods. Files are described in the kernel's
admin-guide/cgroup-v1 and admin-guide/cgroup-v2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocishim.spec import runtime as spec

UNLIMITED: Final = -1
DEFAULT_PERIOD: Final = 100_000
"""Microseconds: the kernel's own where nobody has set another."""
_LEAST_SHARES, _MOST_SHARES = 2, 262_144
_LEAST_WEIGHT, _MOST_WEIGHT = 1, 10_000
_HIGHEST_CPU: Final = 8191
"""The most that the kernel can be built for (CONFIG_NR_CPUS)."""


class Write(NamedTuple):
    """A value for a file of a cgroup."""

    controller: str
    file: str
    value: str


def linear_weight(shares: int) -> int:
    """cgroup v2's cpu.weight for v1's cpu.shares, the one range laid on the other."""
    shares = min(max(shares, _LEAST_SHARES), _MOST_SHARES)
    return 1 + (shares - _LEAST_SHARES) * (_MOST_WEIGHT - 1) // (_MOST_SHARES - _LEAST_SHARES)


def default_keeping_weight(shares: int) -> int:
    """The same as runtimes have it since 2025: quadratic in the logarithm, so that 1024, v1's default, is 100, v2's."""
    shares = min(max(shares, _LEAST_SHARES), _MOST_SHARES)
    exponent = math.log2(shares)
    weight = math.ceil(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34))
    return min(max(weight, _LEAST_WEIGHT), _MOST_WEIGHT)


def weight_rule(shares: int, weight: int) -> Callable[[int], int]:
    """Which rule made this weight of these shares: the one that the container's runtime goes by."""
    return (
        default_keeping_weight if weight == default_keeping_weight(shares) != linear_weight(shares) else linear_weight
    )


def writes(resources: spec.Resources, *, v2: bool, weight: Callable[[int], int] = linear_weight) -> tuple[Write, ...]:
    """What to write for limits; those that are absent stay as they are. Their order is not the kernel's matter."""
    return tuple(_v2(resources, weight) if v2 else _v1(resources))


def _v1(resources: spec.Resources) -> Iterator[Write]:
    if (cpu := resources.cpu) is not None:
        for controller, file, number in (
            ("cpu", "cpu.shares", cpu.shares),
            ("cpu", "cpu.cfs_period_us", cpu.period),
            ("cpu", "cpu.cfs_quota_us", cpu.quota),
        ):
            if number is not None:
                yield Write(controller, file, str(number))
        yield from _cpuset(cpu)
    if (memory := resources.memory) is not None:
        if memory.limit is not None:
            yield Write("memory", "memory.limit_in_bytes", str(memory.limit))
        if memory.swap is not None:
            yield Write("memory", "memory.memsw.limit_in_bytes", str(memory.swap))
    if resources.pids is not None:
        yield Write("pids", "pids.max", _or_max(resources.pids.limit))
    for page in resources.hugepage_limits or ():
        yield Write("hugetlb", f"hugetlb.{page.page_size}.limit_in_bytes", str(page.limit))


def _v2(resources: spec.Resources, weight: Callable[[int], int]) -> Iterator[Write]:
    if (cpu := resources.cpu) is not None:
        if cpu.shares is not None:
            yield Write("cpu", "cpu.weight", str(weight(cpu.shares)))
        if cpu.quota is not None or cpu.period is not None:
            quota = _or_max(cpu.quota if cpu.quota is not None else UNLIMITED)
            yield Write("cpu", "cpu.max", f"{quota} {cpu.period or DEFAULT_PERIOD}")
        yield from _cpuset(cpu)
    if (memory := resources.memory) is not None:
        if memory.limit is not None:
            yield Write("memory", "memory.max", _or_max(memory.limit))
        if (swap := swap_alone(memory)) is not None:
            yield Write("memory", "memory.swap.max", _or_max(swap))
    if resources.pids is not None:
        yield Write("pids", "pids.max", _or_max(resources.pids.limit))
    for page in resources.hugepage_limits or ():
        yield Write("hugetlb", f"hugetlb.{page.page_size}.max", str(page.limit))
    for file, value in (resources.unified or {}).items():
        yield Write(file.split(".", 1)[0], file, value)


def _cpuset(cpu: spec.Cpu) -> Iterator[Write]:
    if cpu.cpus is not None:
        yield Write("cpuset", "cpuset.cpus", cpu.cpus)
    if cpu.mems is not None:
        yield Write("cpuset", "cpuset.mems", cpu.mems)


def swap_alone(memory: spec.Memory) -> int | None:
    """Swap without memory, as v2 counts it, of memory and swap together, as v1 and the CRI do; None: say nothing."""
    if memory.swap is None:
        return None
    if memory.swap < 0:
        return UNLIMITED
    return memory.swap - memory.limit if memory.limit is not None and memory.limit >= 0 else None


def _or_max(number: int) -> str:
    return str(number) if number >= 0 else "max"


def cpus_of(listed: str) -> set[int]:
    """The numbers of a list such as `0-2,7` (cpuset(7), List format). Raises ValueError where it is none."""
    found: set[int] = set()
    for part in listed.split(","):
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdecimal() and (not dash or (last.isascii() and last.isdecimal()))):
            raise ValueError(f"{part!r} is no number and no range")
        low, high = int(first), int(last or first)
        if low > high or high > _HIGHEST_CPU:
            raise ValueError(f"{part!r} is no range of numbers up to {_HIGHEST_CPU}")
        found.update(range(low, high + 1))
    return found
