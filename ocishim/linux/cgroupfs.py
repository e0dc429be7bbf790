"""The cgroupfs driver: cgroups made, limited and removed as directories and files, on cgroup v1, hybrid and v2."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ocishim.errors import OperationFailed
from ocishim.linux import cgroup, cgroup_limits
from ocishim.linux.uncancelled import to_the_end
from ocishim.translate import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Set

    from ocishim.spec import runtime as spec

WANTED: Final = frozenset(("cpu", "cpuset", "io", "memory", "pids", "hugetlb"))
"""v2's controllers that limits and statistics of pods need."""


class Cgroupfs:
    """Needs no other program; the OCI runtime makes the containers' own cgroups the same way."""

    name = "cgroupfs"

    def __init__(self, root: str = cgroup.ROOT) -> None:
        self._root = root

    async def make(self, path: str) -> None:
        """Make a cgroup and its missing parents, ready for processes and for limited children below it.

        Raises OperationFailed with the kernel's answer.
        """
        await to_the_end(asyncio.to_thread(self._make, path))

    def _make(self, path: str) -> None:
        try:
            for base in cgroup.hierarchies(self._root):
                _make_below(base, cgroup.below("", path), enable=cgroup.is_v2(self._root))
        except OSError as error:
            raise OperationFailed(f"cgroup {path} cannot be made: {error.filename}: {error.strerror}") from error

    async def limit(
        self, path: str, resources: spec.Resources, weight: Callable[[int], int] = limits.linear_weight
    ) -> Callable[[], None]:
        """Set what limits there are in resources, all or none; returns what puts the former ones back (and blocks).

        Raises as cgroup_limits.apply does.
        """
        writes = limits.writes(resources, v2=cgroup.is_v2(self._root), weight=weight)
        before = await to_the_end(asyncio.to_thread(cgroup_limits.apply, path, writes, self._root))
        return lambda: cgroup_limits.restore(before)

    async def adopt(self, path: str, pid: int) -> None:
        """Move a process into a cgroup, which is made where it is missing. Raises OperationFailed."""
        await to_the_end(asyncio.to_thread(self._adopt, path, pid))

    def _adopt(self, path: str, pid: int) -> None:
        v2 = cgroup.is_v2(self._root)
        try:
            for base in cgroup.hierarchies(self._root):
                _make_below(base, cgroup.below("", path), enable=v2, leaf=True)
                cgroup.write(f"{cgroup.below(base, path)}/cgroup.procs", str(pid))
        except OSError as error:
            raise OperationFailed(
                f"process {pid} cannot be moved to cgroup {path}: {error.filename}: {error.strerror}"
            ) from error

    async def remove(self, path: str) -> bool:
        """Remove a cgroup and those below it where no process is in them; False where one keeps it."""
        return await asyncio.to_thread(cgroup.remove, path, self._root)


def _make_below(base: str, relative: str, *, enable: bool, leaf: bool = False) -> None:
    directory = base
    for part in relative.strip("/").split("/"):
        if enable:
            enable_controllers(directory, WANTED)
        directory = f"{directory}/{part}"
        if not os.path.isdir(directory):
            _make_directory(directory)
        _inherit_cpuset(directory)
    if enable and not leaf:
        enable_controllers(directory, WANTED)


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        if not os.path.isdir(path):  # one of the kernel's files
            raise


def enable_controllers(directory: str, wanted: Set[str]) -> None:
    """v2: let the children of a cgroup be limited. A controller that cannot is met where its limit is set."""
    available = wanted & set(cgroup.words(f"{directory}/cgroup.controllers"))
    for controller in sorted(available - set(cgroup.words(f"{directory}/cgroup.subtree_control"))):
        with suppress(OSError):
            cgroup.write(f"{directory}/cgroup.subtree_control", f"+{controller}")


def _inherit_cpuset(directory: str) -> None:
    """v1: a new cpuset has no processors and takes no process until it is given some (cpusets.rst)."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        path = f"{directory}/{file}"
        if os.path.exists(f"{directory}/cpuset.sched_load_balance") and not cgroup.words(path):
            cgroup.write(path, " ".join(cgroup.words(f"{os.path.dirname(directory)}/{file}")))
