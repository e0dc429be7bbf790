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

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = "/sys/fs/cgroup"


def hierarchies() -> list[str]:
    """The mount point of each hierarchy: one on cgroup v2, one a controller (and perhaps v2's) on v1."""
    if os.path.exists(f"{ROOT}/cgroup.controllers"):
        return [ROOT]
    with suppress(FileNotFoundError), os.scandir(ROOT) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    return []


def directories(cgroup: str) -> list[str]:
    """The directories that make up one cgroup, over all hierarchies that have it."""
    relative = cgroup.strip("/")
    if not relative or ".." in relative.split("/"):
        raise ValueError(f"{cgroup!r} is not a cgroup below the root")  # killing there kills all
    return [path for base in hierarchies() if os.path.isdir(path := f"{base}/{relative}")]


def exists(cgroup: str) -> bool:
    """Whether any hierarchy has the cgroup."""
    return bool(directories(cgroup))


def processes(cgroup: str) -> set[int]:
    """Ids of all processes in the cgroup and below it."""
    found: set[int] = set()
    for directory in directories(cgroup):
        for below in _walk(directory):
            with suppress(OSError), open(f"{below}/cgroup.procs", encoding="ascii") as file:
                found.update(int(line) for line in file)
    found.discard(0)  # a process of another pid namespace
    return found


@effect
def kill_all(cgroup: str, *, within: float = 10.0) -> bool:
    """SIGKILL every process in the cgroup until none is left; False if some stay past `within` seconds."""
    deadline = time.monotonic() + within
    pause = 0.001
    while remaining := processes(cgroup):
        thaw(cgroup)
        for pid in remaining:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.1)
    return True


def thaw(cgroup: str) -> None:
    """Let a frozen cgroup run: a v1 frozen process does not even take SIGKILL."""
    for directory in directories(cgroup):
        for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with suppress(OSError):
                _write(f"{directory}/{name}", value)


def oom_kills(cgroup: str) -> int:
    """How often the kernel's OOM killer struck in this cgroup; 0 where that cannot be read."""
    for directory in directories(cgroup):
        for name in ("memory.oom_control", "memory.events"):
            with suppress(OSError), open(f"{directory}/{name}", encoding="ascii") as file:
                counters = dict(line.split(maxsplit=1) for line in file)
                if "oom_kill" in counters:
                    return int(counters["oom_kill"])
    return 0


@effect
def remove(cgroup: str) -> bool:
    """Remove the cgroup and those below it where they are empty; False if a process keeps one."""
    gone = True
    for directory in directories(cgroup):
        for below in _walk(directory):
            try:
                os.rmdir(below)
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
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        for path in below:
            yield from _walk(path)
        yield directory


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode("ascii"))
    finally:
        os.close(fd)
