"""Limits as properties of a systemd unit, so that systemd does not undo them when it sets its units anew.

org.freedesktop.systemd1(5) and systemd.resource-control(5) describe them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ocishim.translate.limits import DEFAULT_PERIOD, cpus_of, linear_weight, swap_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocishim.spec import runtime as spec


class Property(NamedTuple):
    """A property of a unit: name, D-Bus signature, value."""

    name: str
    signature: str
    value: int | bool | str | bytes | list[int]


_INFINITY: Final = 2**64 - 1
_QUOTA_STEP: Final = 10_000
"""systemd keeps CPUQuotaPerSecUSec as whole percents: less would be rounded down, and 0 means no limit."""
_UNIFIED: Final = {
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
    "cpu.weight": "CPUWeight",
}


def unit_properties(
    resources: spec.Resources, *, v2: bool, weight: Callable[[int], int] = linear_weight
) -> tuple[Property, ...]:
    """The properties that say what limits.writes writes; what systemd has none for is in the files alone."""
    memory, cpu = resources.memory, resources.cpu
    return (
        *(_memory(memory, v2=v2) if memory is not None else ()),
        *(_cpu(cpu, v2=v2, weight=weight) if cpu is not None else ()),
        *((_number("TasksMax", resources.pids.limit),) if resources.pids is not None else ()),
        *_unified(resources.unified or {}),
    )


def _memory(memory: spec.Memory, *, v2: bool) -> Iterator[Property]:
    if memory.limit is not None:
        yield _number("MemoryMax" if v2 else "MemoryLimit", memory.limit)
    if v2 and (swap := swap_alone(memory)) is not None:
        yield _number("MemorySwapMax", swap)


def _cpu(cpu: spec.Cpu, *, v2: bool, weight: Callable[[int], int]) -> Iterator[Property]:
    if cpu.shares is not None:
        yield _number("CPUWeight", weight(cpu.shares)) if v2 else _number("CPUShares", cpu.shares)
    if cpu.period is not None:
        yield _number("CPUQuotaPeriodUSec", cpu.period)
    if cpu.quota is not None:
        yield _number("CPUQuotaPerSecUSec", _per_second(cpu.quota, cpu.period or DEFAULT_PERIOD))
    if v2 and cpu.cpus:
        yield Property("AllowedCPUs", "ay", bit_mask(cpu.cpus))
    if v2 and cpu.mems:
        yield Property("AllowedMemoryNodes", "ay", bit_mask(cpu.mems))


def _unified(files: dict[str, str]) -> Iterator[Property]:
    for file, value in files.items():
        name = _UNIFIED.get(file)
        if name is not None and (value == "max" or (value.isascii() and value.isdecimal())):
            yield Property(name, "t", _INFINITY if value == "max" else int(value))


def _number(name: str, value: int) -> Property:
    return Property(name, "t", value if value >= 0 else _INFINITY)


def _per_second(quota: int, period: int) -> int:
    return -1 if quota < 0 else -(-quota * 1_000_000 // period // _QUOTA_STEP) * _QUOTA_STEP


def bit_mask(listed: str) -> bytes:
    """A list of numbers as bytes with a bit each, the lowest first."""
    numbers = cpus_of(listed)
    return sum(1 << number for number in numbers).to_bytes(max(numbers) // 8 + 1, "little")
