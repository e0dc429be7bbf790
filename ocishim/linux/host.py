"""What this node is and what the server may do on it, read once at start."""

from __future__ import annotations

import os
import platform
import resource

from ocishim.config import RLIMITS
from ocishim.linux import cgroup
from ocishim.translate.facts import HostFacts
from ocishim.translate.rlimits import INFINITY
from ocishim.translate.security import KERNEL_CAPABILITIES


def gather() -> HostFacts:
    """Read /proc and /sys. Blocks shortly."""
    bounding = capability_set("CapBnd")
    effective = capability_set("CapEff")
    v2 = os.path.exists(f"{cgroup.ROOT}/cgroup.controllers")
    return HostFacts(
        architecture=platform.machine(),
        cgroup_v2=v2,
        has_hugetlb=_has_controller("hugetlb", v2=v2),
        has_swap_accounting=v2 or os.path.exists(f"{cgroup.ROOT}/memory/memory.memsw.limit_in_bytes"),
        has_apparmor=os.path.isdir("/sys/kernel/security/apparmor"),
        has_selinux=os.path.exists("/sys/fs/selinux/enforce"),
        capabilities=bounding & effective,
        may_raise_limits="CAP_SYS_RESOURCE" in effective,
        oom_score_adj=int(_read("/proc/self/oom_score_adj") or 0),
        rlimits=hard_limits(),
    )


def hard_limits() -> dict[str, int]:
    """This process's hard limits by name; RLIM_INFINITY as the runtime spec has it, 2**64 - 1."""
    found = {}
    for name in RLIMITS:
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is not None:
            hard = resource.getrlimit(number)[1]
            found[name] = INFINITY if hard == resource.RLIM_INFINITY else hard
    return found


def capability_set(field: str) -> frozenset[str]:
    """A capability set of this process from /proc/self/status (proc(5)), by name."""
    for line in _read("/proc/self/status").splitlines():
        key, _, value = line.partition(":")
        if key == field:
            mask = int(value, 16)
            return frozenset(name for bit, name in enumerate(KERNEL_CAPABILITIES) if mask >> bit & 1)
    return frozenset()


def kernel_release() -> str:
    """Such as 6.1.0-13-amd64."""
    return os.uname().release


def nodename() -> str:
    """The host's own name."""
    return os.uname().nodename


def _has_controller(name: str, *, v2: bool) -> bool:
    if v2:
        return name in _read(f"{cgroup.ROOT}/cgroup.controllers").split()
    return os.path.isdir(f"{cgroup.ROOT}/{name}")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        return ""
