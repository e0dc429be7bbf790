"""A container's limits, as the OCI runtime takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim.spec import runtime as spec

if TYPE_CHECKING:
    from ocishim.api.runtime import v1
    from ocishim.translate.facts import HostFacts


def resources(asked: v1.LinuxContainerResources, host: HostFacts) -> spec.Resources:
    """Limits without device rules. What the kernel has no controller for is left out, as the peers do.

    cpu.shares are given as they are: runtimes turn them into cgroup v2's weight themselves.
    """
    memory = None
    if asked.memory_limit_in_bytes or asked.memory_swap_limit_in_bytes:
        memory = spec.Memory(
            limit=asked.memory_limit_in_bytes or None,
            swap=(asked.memory_swap_limit_in_bytes or None) if host.has_swap_accounting else None,
        )
    cpu = spec.Cpu(
        shares=asked.cpu_shares or None,
        quota=asked.cpu_quota or None,
        period=asked.cpu_period or None,
        cpus=asked.cpuset_cpus or None,
        mems=asked.cpuset_mems or None,
    )
    hugepages = [spec.HugepageLimit(page_size=limit.page_size, limit=limit.limit) for limit in asked.hugepage_limits]
    return spec.Resources(
        memory=memory,
        cpu=cpu if cpu.model_dump(exclude_none=True) else None,
        hugepage_limits=hugepages if hugepages and host.has_hugetlb else None,
        unified=dict(asked.unified) if asked.unified and host.cgroup_v2 else None,
    )


def oom_score_adj(asked: int, host: HostFacts) -> int | None:
    """The score, no lower than the server may set: without CAP_SYS_RESOURCE it cannot go below its own."""
    score = asked if host.may_raise_limits else max(asked, host.oom_score_adj)
    return score if score != host.oom_score_adj else None
