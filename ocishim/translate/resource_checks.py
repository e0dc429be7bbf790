"""Limits in a request are judged here, for containers and for pods, when they are made and when they are changed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ocishim.errors import InvalidArgument
from ocishim.translate import fields, limits

if TYPE_CHECKING:
    from ocishim.api.runtime import v1
    from ocishim.translate.facts import HostFacts

_MOST: Final = 2**62
_PERIOD: Final = (1000, 1_000_000)
"""Microseconds that the kernel takes (sched-bwc)."""
_LEAST_QUOTA: Final = 1000
_SHARES: Final = (2, 262_144)
_PAGE_SIZE: Final = re.compile(r"[1-9][0-9]{0,5}[KMG]B")
_FILE: Final = re.compile(r"[a-z][a-z0-9_]*(\.[A-Za-z0-9_-]+)+")
_LONGEST_TEXT: Final = 4096


def check(path: str, asked: v1.LinuxContainerResources) -> None:
    """Judge each value by itself: InvalidArgument for one that is nothing on any host. 0 and empty: not given."""
    _numbers(path, asked)
    for key in ("cpuset_cpus", "cpuset_mems"):
        _list(f"{path}.{key}", getattr(asked, key))
    seen: set[str] = set()
    for index, page in enumerate(asked.hugepage_limits):
        here = f"{path}.hugepage_limits[{index}]"
        if not _PAGE_SIZE.fullmatch(page.page_size):
            raise fields.refuse(f"{here}.page_size", page.page_size, "is no page size such as 2MB or 1GB")
        if page.page_size in seen:
            raise fields.refuse(f"{here}.page_size", page.page_size, "is there twice")
        seen.add(page.page_size)
        fields.bounded(f"{here}.limit", page.limit, 0, _MOST)
    for file, value in asked.unified.items():
        _unified(f"{path}.unified", file, value)


def _numbers(path: str, asked: v1.LinuxContainerResources) -> None:
    for key, low, high in (("cpu_period", *_PERIOD), ("cpu_shares", *_SHARES)):
        if value := getattr(asked, key):
            fields.bounded(f"{path}.{key}", value, low, high)
    if asked.cpu_quota not in (0, limits.UNLIMITED):
        fields.bounded(f"{path}.cpu_quota", asked.cpu_quota, _LEAST_QUOTA, _MOST)
    for key in ("memory_limit_in_bytes", "memory_swap_limit_in_bytes"):
        fields.bounded(f"{path}.{key}", getattr(asked, key), limits.UNLIMITED, _MOST)
    fields.bounded(f"{path}.oom_score_adj", asked.oom_score_adj, -1000, 1000)


def check_whole(path: str, whole: v1.LinuxContainerResources) -> None:
    """Judge what a request results in, where an update may leave fields as they were: swap is counted with memory.

    Raises InvalidArgument.
    """
    memory, swap = whole.memory_limit_in_bytes, whole.memory_swap_limit_in_bytes
    if swap > 0 and (memory < 0 or swap < memory):
        raise fields.refuse(
            f"{path}.memory_swap_limit_in_bytes",
            swap,
            f"is memory and swap together, and less than memory_limit_in_bytes, {memory}",
        )
    if swap > 0 and not memory:
        raise fields.refuse(f"{path}.memory_swap_limit_in_bytes", swap, "needs memory_limit_in_bytes")


def _list(path: str, value: str) -> None:
    if not value:
        return
    if len(value) > _LONGEST_TEXT:
        raise fields.refuse(path, value[:40] + "…", f"is longer than {_LONGEST_TEXT} characters")
    try:
        limits.cpus_of(value)
    except ValueError as error:
        raise fields.refuse(path, value, f"is no list of numbers and ranges: {error}") from error


def _unified(path: str, file: str, value: str) -> None:
    if not _FILE.fullmatch(file):
        raise fields.refuse(path, file, "is no name of a cgroup file")
    if file.startswith("cgroup."):
        raise fields.refuse(path, file, "is the kernel's lever on the cgroup itself, no limit")
    if "\0" in value or len(value) > _LONGEST_TEXT:
        raise fields.refuse(f"{path}[{file}]", value[:40], f"holds NUL or is longer than {_LONGEST_TEXT} characters")


def check_on_host(path: str, asked: v1.LinuxContainerResources, host: HostFacts) -> None:
    """Raise InvalidArgument for what this host's kind of cgroups cannot do."""
    if asked.unified and not host.cgroup_v2:
        raise InvalidArgument(
            f"{path}.unified: {', '.join(sorted(asked.unified))}: these are files of cgroup v2, and this host has v1"
        )
