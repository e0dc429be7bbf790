"""Control groups seen from outside: find them, kill what is in them, read OOM kills, take them away.

The OCI runtime makes a container's cgroup and moves processes into it; what happens before and after is here.
All functions read and write cgroup files only (no disk), and block shortly: call them in a thread.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ocishim.effects import effect
from ocishim.translate.oom import SliceCounts

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = "/sys/fs/cgroup"
_LOOKS = 8
"""At counts of kills, until two agree."""


def is_v2(root: str = ROOT) -> bool:
    """Whether the host has cgroup v2 alone; on a hybrid host v1 has the controllers."""
    return os.path.exists(f"{root}/cgroup.controllers")


def hierarchies(root: str = ROOT) -> list[str]:
    """The mount point of each hierarchy: one on cgroup v2, one a controller (and perhaps v2's) on v1."""
    if is_v2(root):
        return [root]
    with suppress(FileNotFoundError), os.scandir(root) as entries:
        found = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        return [path for path in found if os.path.exists(f"{path}/cgroup.procs")]  # others are nothing mounted
    return []


def hierarchy_of(controller: str, root: str = ROOT) -> str | None:
    """Where a controller's hierarchy is mounted; None where the host has none. v1's may hold several: `cpu,cpuacct`."""
    if is_v2(root):
        return root if controller in words(f"{root}/cgroup.controllers") else None
    return next((path for path in hierarchies(root) if controller in os.path.basename(path).split(",")), None)


def words(path: str) -> list[str]:
    """A file of words, such as controllers; empty where it cannot be read."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().split()
    except OSError:
        return []


def below(base: str, cgroup: str) -> str:
    """A cgroup's directory in a hierarchy. Raises ValueError for the root itself and for a path that climbs."""
    relative = cgroup.strip("/")
    if not relative or ".." in relative.split("/"):
        raise ValueError(f"{cgroup!r} is not a cgroup below the root")  # killing there kills all
    return f"{base}/{relative}"


def directories(cgroup: str, root: str = ROOT) -> list[str]:
    """The directories that make up one cgroup, over all hierarchies that have it."""
    return [path for base in hierarchies(root) if os.path.isdir(path := below(base, cgroup))]


def exists(cgroup: str, root: str = ROOT) -> bool:
    """Whether any hierarchy has the cgroup."""
    return bool(directories(cgroup, root))


def processes(cgroup: str, root: str = ROOT) -> set[int]:
    """Ids of all processes in the cgroup and below it."""
    found: set[int] = set()
    for directory in directories(cgroup, root):
        for each in _walk(directory):
            with suppress(OSError), open(f"{each}/cgroup.procs", encoding="ascii") as file:
                found.update(int(line) for line in file)
    found.discard(0)  # a process of another pid namespace
    return found


@effect
def kill_all(cgroup: str, *, within: float = 10.0, root: str = ROOT) -> bool:
    """SIGKILL every process in the cgroup until none is left; False if some stay past `within` seconds."""
    deadline = time.monotonic() + within
    pause = 0.001
    while remaining := processes(cgroup, root):
        thaw(cgroup, root)
        for pid in remaining:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.1)
    return True


def wait_empty(cgroup: str, *, within: float, root: str = ROOT) -> bool:
    """Wait until no process is left in the cgroup and below it; False if some stay past `within` seconds."""
    deadline = time.monotonic() + within
    pause = 0.001
    while processes(cgroup, root):
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.1)
    return True


def thaw(cgroup: str, root: str = ROOT) -> None:
    """Let a frozen cgroup run: a v1 frozen process does not even take SIGKILL."""
    for directory in directories(cgroup, root):
        for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with suppress(OSError):
                write(f"{directory}/{name}", value)


def oom_kills(cgroup: str) -> int:
    """How often the kernel's OOM killer struck in this cgroup; 0 where that cannot be read."""
    return next((kills for each in directories(cgroup) if (kills := _oom_kills(each)) is not None), 0)


def slice_oom_kills(cgroup: str, root: str = ROOT) -> SliceCounts | None:
    """OOM kills in all that is or was below a cgroup, and in what is there; None where v2 does not count them."""
    if not is_v2(root):
        return None
    directory = below(root, cgroup)
    there = _oom_kills_below(directory, cgroup)
    for _ in range(_LOOKS):
        total, before = _oom_kills(directory), there
        there = _oom_kills_below(directory, cgroup)
        if total is None:
            return None
        if before == there:
            return SliceCounts(total, there)
    return None  # kill upon kill: none can be told from another


def _oom_kills_below(directory: str, cgroup: str) -> dict[str, int]:
    found: dict[str, int] = {}
    with suppress(OSError), os.scandir(directory) as entries:
        for name in [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]:
            kills = _oom_kills(f"{directory}/{name}")
            if kills is not None:
                found[f"{cgroup}/{name}"] = kills
    return found


def _oom_kills(directory: str) -> int | None:
    for name in ("memory.oom_control", "memory.events"):
        with suppress(OSError), open(f"{directory}/{name}", encoding="ascii") as file:
            counters = dict(line.split(maxsplit=1) for line in file)
            if "oom_kill" in counters:
                return int(counters["oom_kill"])
    return None


@effect
def remove(cgroup: str, root: str = ROOT) -> bool:
    """Remove the cgroup and those below it where they are empty; False if a process keeps one."""
    gone = True
    for directory in directories(cgroup, root):
        for each in _walk(directory):
            try:
                os.rmdir(each)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    raise
                gone = False
    return gone


def _walk(directory: str) -> Iterator[str]:
    """Deepest first."""
    with suppress(FileNotFoundError):
        with os.scandir(directory) as entries:
            inner = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        for path in inner:
            yield from _walk(path)
        yield directory


def write(path: str, value: str) -> None:
    """Write a value to a cgroup file in one call, as the kernel wants it. Raises OSError with the kernel's answer."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode("ascii", "replace"))
    except OSError as error:
        error.filename = path  # write(2) knows no name
        raise
    finally:
        os.close(fd)
