"""A container's and a pod's limits: as the OCI runtime takes them, changed by a later request, and added up."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from ocishim.spec import runtime as spec
from ocishim.translate.limits import DEFAULT_PERIOD, UNLIMITED

if TYPE_CHECKING:
    from ocishim.api.runtime import v1
    from ocishim.translate.facts import HostFacts

_NUMBERS: Final = ("cpu_period", "cpu_quota", "cpu_shares", "memory_limit_in_bytes", "memory_swap_limit_in_bytes")
_TEXTS: Final = ("cpuset_cpus", "cpuset_mems")


def new_container(asked: v1.LinuxContainerResources, host: HostFacts, *, pids_limit: int = 0) -> spec.Resources:
    """The same for a cgroup that is to be made: it has no limits, and -1 need not be said.

    crun 1.8.1 writes a quota of -1 as an unsigned number, which cgroup v1 refuses.
    """
    wanted = resources(asked, host, pids_limit=pids_limit)
    if wanted.cpu is not None and wanted.cpu.quota == UNLIMITED:
        wanted.cpu.quota = None
    if wanted.memory is not None:
        limit, swap = (None if value == UNLIMITED else value for value in (wanted.memory.limit, wanted.memory.swap))
        wanted.memory = spec.Memory(limit=limit, swap=swap) if limit is not None or swap is not None else None
    return wanted


def resources(asked: v1.LinuxContainerResources, host: HostFacts, *, pids_limit: int = 0) -> spec.Resources:
    """Limits without device rules. What the kernel has no controller for is left out, as the peers do.

    A memory limit without one for swap allows no swap, as Kubernetes means it. cpu.shares are given as they are:
    runtimes turn them into cgroup v2's weight themselves. `pids_limit` 0 is none.
    """
    cpu = spec.Cpu(
        shares=asked.cpu_shares or None,
        quota=asked.cpu_quota or None,
        period=asked.cpu_period or None,
        cpus=asked.cpuset_cpus or None,
        mems=asked.cpuset_mems or None,
    )
    hugepages = [spec.HugepageLimit(page_size=limit.page_size, limit=limit.limit) for limit in asked.hugepage_limits]
    return spec.Resources(
        memory=_memory(asked, host),
        cpu=cpu if cpu.model_dump(exclude_none=True) else None,
        pids=spec.Pids(limit=pids_limit) if pids_limit else None,
        hugepage_limits=hugepages if hugepages and host.has_hugetlb else None,
        unified=dict(asked.unified) if asked.unified and host.cgroup_v2 else None,
    )


def _memory(asked: v1.LinuxContainerResources, host: HostFacts) -> spec.Memory | None:
    swap = (asked.memory_swap_limit_in_bytes or asked.memory_limit_in_bytes) if host.has_swap_accounting else 0
    memory = spec.Memory(limit=asked.memory_limit_in_bytes or None, swap=swap or None)
    return memory if memory.limit is not None or memory.swap is not None else None


def merged(current: v1.LinuxContainerResources, asked: v1.LinuxContainerResources) -> v1.LinuxContainerResources:
    """What holds after an update: the request's fields where it has any, in zero or empty ones nothing changes."""
    result = dataclasses.replace(current)
    for key in (*_NUMBERS, *_TEXTS, "oom_score_adj"):
        if value := getattr(asked, key):
            setattr(result, key, value)
    pages = {limit.page_size: limit for limit in (*current.hugepage_limits, *asked.hugepage_limits)}
    result.hugepage_limits = list(pages.values())
    result.unified = {**current.unified, **asked.unified}
    return result


def change(result: v1.LinuxContainerResources, asked: v1.LinuxContainerResources) -> v1.LinuxContainerResources:
    """What of `result` (an update's outcome) must be written: what was asked for, and what means nothing without.

    A quota is one of a period, and swap is counted with memory: they are written together.
    """
    part = dataclasses.replace(asked)
    if asked.cpu_quota or asked.cpu_period:
        part.cpu_quota, part.cpu_period = result.cpu_quota, result.cpu_period
    if asked.memory_limit_in_bytes or asked.memory_swap_limit_in_bytes:
        part.memory_limit_in_bytes = result.memory_limit_in_bytes
        part.memory_swap_limit_in_bytes = result.memory_swap_limit_in_bytes
    return part


def pod_total(own: v1.LinuxContainerResources, overhead: v1.LinuxContainerResources) -> v1.LinuxContainerResources:
    """A pod's limits: its containers' sum and what the pod takes beyond them. No limit plus something is no limit."""
    total = dataclasses.replace(own)
    if own.cpu_shares:
        total.cpu_shares = min(own.cpu_shares + overhead.cpu_shares, 262_144)
    if own.cpu_quota > 0 and overhead.cpu_quota > 0:
        period = own.cpu_period or DEFAULT_PERIOD
        scaled = overhead.cpu_quota * period // (overhead.cpu_period or DEFAULT_PERIOD)
        total.cpu_quota, total.cpu_period = own.cpu_quota + scaled, period
    if own.memory_limit_in_bytes > 0:
        more = max(overhead.memory_limit_in_bytes, 0)
        total.memory_limit_in_bytes = own.memory_limit_in_bytes + more
        if own.memory_swap_limit_in_bytes > 0:
            total.memory_swap_limit_in_bytes = own.memory_swap_limit_in_bytes + more
    return total


def oom_score_adj(asked: int, host: HostFacts) -> int | None:
    """The score for config.json; None where the server's own is inherited."""
    score = clamped_oom_score(asked, host)
    return score if score != host.oom_score_adj else None


def clamped_oom_score(asked: int, host: HostFacts) -> int:
    """The score, no lower than the server may set: without CAP_SYS_RESOURCE it cannot go below its own."""
    return asked if host.may_raise_limits else max(asked, host.oom_score_adj)
