"""Which OCI runtimes there are, which of them this host can run, and which one a pod's handler means."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ocishim.errors import FailedPrecondition, NotFound
from ocishim.runtime.abilities import probe
from ocishim.runtime.oci import OciRuntime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocishim.config import Settings

KNOWN: Final = ("crun", "runc")
_DIRECTORIES: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")


@dataclass(frozen=True, slots=True)
class Runtimes:
    """All runtimes by handler name, the default one, and why the others were passed over."""

    by_name: Mapping[str, OciRuntime]
    default: str
    refusals: Mapping[str, str]

    def choose(self, handler: str) -> OciRuntime:
        """The runtime of a pod's runtime_handler; empty means the default.

        Raises NotFound for an unknown handler, FailedPrecondition where no runtime can run here.
        """
        name = handler or self.default
        if not name:
            reasons = "; ".join(f"{known}: {why}" for known, why in self.refusals.items())
            raise FailedPrecondition(f"no OCI runtime can run on this host ({reasons}); see `ocishim check`")
        found = self.by_name.get(name)
        if found is None:
            raise NotFound(
                f"runtime_handler {handler!r} is not configured; there are: {', '.join(sorted(self.by_name))}"
            )
        return found


def find(settings: Settings, runtime_root: str) -> Runtimes:
    """Look the configured and the well-known runtimes up; `runtime_root` is the parent of their state."""
    paths = {name: runtime.path for name, runtime in settings.runtimes.items()}
    for name in KNOWN:
        if name not in paths and (path := _which(name)):
            paths[name] = path
    timeout = settings.containers.runtime_timeout
    runtimes = {name: _runtime(settings, name, path, runtime_root, timeout) for name, path in paths.items()}
    refusals = {name: why for name in {*KNOWN, *paths} if (why := refusal(name, paths.get(name)))}
    default = settings.default_runtime
    if default and default not in runtimes:
        raise NotFound(f"default_runtime {default!r} is not installed and has no [runtimes.{default}] path")
    if not default:
        default = next((name for name in KNOWN if name in runtimes and name not in refusals), "")
    return Runtimes(runtimes, default, refusals)


def _runtime(settings: Settings, name: str, path: str, runtime_root: str, timeout: float) -> OciRuntime:
    chosen = settings.runtimes.get(name)
    root = chosen.root if chosen and chosen.root else f"{runtime_root}/{name}"
    return OciRuntime(name, path, root, timeout, chosen)


async def with_abilities(runtimes: Runtimes) -> Runtimes:
    """The same runtimes, each with what it says it can do; one that cannot be executed can do nothing."""
    asked = list(runtimes.by_name.values())
    found = await asyncio.gather(*(probe(runtime.path) for runtime in asked))
    known = {runtime.name: replace(runtime, abilities=each) for runtime, each in zip(asked, found, strict=True)}
    return replace(runtimes, by_name=known)


def refusal(name: str, path: str | None) -> str | None:
    """Why a runtime cannot run here, with what mends it; None where nothing speaks against it."""
    if path is None:
        return f"{name} is not installed (apt-get install {name})"
    if not os.access(path, os.X_OK):
        return f"{path} cannot be executed"
    controllers = _hybrid_controllers()
    if name == "crun" and controllers:
        return (
            f"crun refuses a cgroup v1 host whose v2 tree still has controllers ({controllers}); mount them "
            "as v1 hierarchies: mkdir /sys/fs/cgroup/hugetlb && "
            "mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb"
        )
    return None


def _hybrid_controllers() -> str:
    try:
        with open("/sys/fs/cgroup/unified/cgroup.controllers", encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def _which(name: str) -> str | None:
    for directory in _DIRECTORIES:
        path = f"{directory}/{name}"
        if os.access(path, os.X_OK):
            return path
    return None
