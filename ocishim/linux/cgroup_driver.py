"""Who makes cgroups, and the one interface to either: the file system itself, or systemd."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Final, Protocol, cast

from ocishim.errors import FailedPrecondition
from ocishim.linux import cgroup
from ocishim.linux.cgroupfs import Cgroupfs
from ocishim.linux.systemd_cgroups import SystemdCgroups
from ocishim.translate.limits import linear_weight

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocishim.config import CgroupDriverName
    from ocishim.linux.systemd_bus import SystemdManager
    from ocishim.spec import runtime as spec

_BOOTED: Final = "/run/systemd/system"
"""There exactly where systemd is the init system (sd_booted(3))."""
_BUS: Final = "ocishim.linux.systemd_bus"


class CgroupDriver(Protocol):
    """What is done to the cgroups of pods and monitors. A cgroup is its path below the cgroup root."""

    async def make(self, path: str) -> None:
        """Make a cgroup and its missing parents. Raises OperationFailed with the kernel's or systemd's answer."""

    async def limit(
        self, path: str, resources: spec.Resources, weight: Callable[[int], int] = linear_weight
    ) -> Callable[[], None]:
        """Set what limits there are in resources, all or none; returns what puts the former ones back (and blocks).

        Raises FailedPrecondition, InvalidArgument or OperationFailed with the kernel's or systemd's answer.
        """

    async def adopt(self, path: str, pid: int) -> None:
        """Move a process into a cgroup, which is made where it is missing. Raises OperationFailed."""

    async def remove(self, path: str) -> bool:
        """Remove a cgroup and those below it; False where something keeps it."""


class CgroupDrivers:
    """Both drivers; systemd is connected to, and the library for it loaded, when it is first used."""

    def __init__(self) -> None:
        self._cgroupfs = Cgroupfs()
        self._systemd: CgroupDriver | None = None
        self._manager: SystemdManager | None = None

    def named(self, name: CgroupDriverName) -> CgroupDriver:
        """The driver of that name. Raises FailedPrecondition for systemd where it does not run."""
        if name == "cgroupfs":
            return self._cgroupfs
        if self._systemd is None:
            problem = refusal(name)
            if problem is not None:
                raise FailedPrecondition(problem)
            # Not imported above: it loads the D-Bus library.
            self._manager = cast("SystemdManager", importlib.import_module(_BUS).SystemdManager())
            self._systemd = SystemdCgroups(self._manager)
        return self._systemd

    def close(self) -> None:
        """Let the connection to systemd go."""
        if self._manager is not None:
            self._manager.close()


def refusal(name: CgroupDriverName) -> str | None:
    """Why a driver cannot work here; None where nothing speaks against it."""
    if name == "systemd" and not os.path.isdir(_BOOTED):
        return f'cgroup_driver = "systemd": systemd is not the init system of this host ({_BOOTED} is not there)'
    if not cgroup.hierarchies():
        return f"no cgroups are mounted at {cgroup.ROOT}"
    return None
