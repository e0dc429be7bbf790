"""The systemd driver: pods are slices and monitors scopes of systemd's, which owns the cgroup tree on its hosts.

Limits are written to the cgroup's files first, so that the kernel judges them and a refusal is undone exactly, and
are then told to systemd, which would otherwise undo them when it sets its units anew (`systemctl daemon-reload`).
"""

from __future__ import annotations

import asyncio
import posixpath
from typing import TYPE_CHECKING, Final, Protocol

from ocishim.errors import OcishimError
from ocishim.linux import cgroup, cgroup_limits
from ocishim.linux.cgroupfs import enable_controllers
from ocishim.translate import limits
from ocishim.translate.unit_properties import Property, unit_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ocishim.spec import runtime as spec

_LAST_WORDS: Final = 5.0
"""Seconds that monitors get to end by themselves before their slice goes: they sync the log last of all."""
_ACCOUNTED: Final = tuple(
    Property(name, "b", True) for name in ("MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting")
)


class Manager(Protocol):
    """What is needed of systemd; systemd_bus.SystemdManager has it."""

    async def start_transient_unit(self, unit: str, properties: Iterable[Property]) -> bool:
        """Make a unit; False where there is one of that name."""

    async def stop_unit(self, unit: str) -> None:
        """Stop a unit; content where there is none."""

    async def set_unit_properties(self, unit: str, properties: Iterable[Property]) -> None:
        """Change a unit until the next boot."""


class SystemdCgroups:
    """Slices for pods; the OCI runtime has systemd make the containers' own scopes in them."""

    name = "systemd"

    def __init__(self, manager: Manager, root: str = cgroup.ROOT) -> None:
        self._manager = manager
        self._root = root

    async def make(self, path: str) -> None:
        """Make a slice; systemd makes those that its name says it is in. Raises OperationFailed in its words."""
        unit = posixpath.basename(path)
        await self._manager.start_transient_unit(
            unit,
            [
                Property("Description", "s", f"pods of ocishim: {unit}"),
                Property("DefaultDependencies", "b", False),
                *_ACCOUNTED,
            ],
        )

    async def limit(
        self, path: str, resources: spec.Resources, weight: Callable[[int], int] = limits.linear_weight
    ) -> Callable[[], None]:
        """Set what limits there are in resources, all or none; returns what puts the former files back (and blocks).

        Raises as cgroup_limits.apply does, and OperationFailed in systemd's words.
        """
        v2 = cgroup.is_v2(self._root)
        writes = limits.writes(resources, v2=v2, weight=weight)
        if v2:
            await asyncio.to_thread(self._enable, path, {write.controller for write in writes})
        before = await asyncio.to_thread(cgroup_limits.apply, path, writes, self._root)
        properties = unit_properties(resources, v2=v2, weight=weight)
        try:
            if properties:
                await self._manager.set_unit_properties(posixpath.basename(path), properties)
                # systemd rounds quotas to whole percents; what was asked for is what holds.
                await asyncio.to_thread(cgroup_limits.apply, path, writes, self._root)
        except OcishimError:
            await asyncio.to_thread(cgroup_limits.restore, before)
            raise
        return lambda: cgroup_limits.restore(before)

    def _enable(self, path: str, controllers: set[str]) -> None:
        """systemd lends a unit only the controllers that its properties ask for, which they do after this."""
        directory = self._root
        for part in path.strip("/").split("/"):
            enable_controllers(directory, controllers)
            directory = f"{directory}/{part}"

    async def adopt(self, path: str, pid: int) -> None:
        """Put a process into a scope of its own. Raises OperationFailed in systemd's words."""
        unit, parent = posixpath.basename(path), posixpath.basename(posixpath.dirname(path))
        await self._manager.start_transient_unit(
            unit,
            [
                Property("Description", "s", "monitor of a container"),
                Property("PIDs", "au", [pid]),
                Property("Slice", "s", parent),
                *_ACCOUNTED,
                Property("DefaultDependencies", "b", False),
                Property("CollectMode", "s", "inactive-or-failed"),
            ],
        )

    async def remove(self, path: str) -> bool:
        """Stop the unit, once nothing runs in it, and see its cgroup gone; False where something keeps it."""
        if not await asyncio.to_thread(cgroup.wait_empty, path, within=_LAST_WORDS, root=self._root):
            return False  # stopping it would kill what is none of ours
        await self._manager.stop_unit(posixpath.basename(path))
        return await asyncio.to_thread(cgroup.remove, path, self._root)
