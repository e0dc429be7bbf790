"""Processes of others, known by pid and start time: a pid alone may have been given to someone else."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from ocishim.effects import effect

_STATE, _PARENT, _SESSION, _START = 0, 1, 3, 19  # fields of /proc/PID/stat after the name (proc(5))


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat tells."""

    pid: int
    state: str
    parent: int
    session: int
    start: int
    """Start time in clock ticks since boot."""


def stat(pid: int) -> Stat | None:
    """The process's stat, None where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = line[line.rindex(b")") + 2 :].split()
    return Stat(
        pid,
        fields[_STATE].decode(),
        int(fields[_PARENT]),
        int(fields[_SESSION]),
        int(fields[_START]),
    )


def is_alive(pid: int, start: int) -> bool:
    """Whether that very process still runs (a zombie does not)."""
    found = stat(pid)
    return found is not None and found.start == start and found.state not in ("Z", "X")


def started_at(start: int) -> int:
    """Wall-clock nanoseconds of a start time in ticks, as well as the clock's 10 ms allow."""
    with open("/proc/stat", encoding="ascii") as file:
        boot = next(int(line.split()[1]) for line in file if line.startswith("btime "))
    return boot * 10**9 + start * 10**9 // os.sysconf("SC_CLK_TCK")


def boot_id() -> str:
    """A name of this boot of the kernel (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


@effect
def kill_session(leader: int, candidates: set[int]) -> None:
    """SIGKILL those of the candidates that descend from the process `leader` or are in its session."""
    stats = {found.pid: found for pid in candidates | {leader} if (found := stat(pid)) is not None}
    doomed = {pid for pid, found in stats.items() if leader in (found.session, pid)}
    grown = True
    while grown:
        more = {pid for pid, found in stats.items() if found.parent in doomed} - doomed
        doomed |= more
        grown = bool(more)
    for pid in doomed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class ForeignProcess:
    """A pidfd of a process that is not our child (a container's init): signal it, await its end."""

    def __init__(self, pid: int, start: int) -> None:
        """Raises ProcessLookupError where that very process is gone."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        found = stat(pid)
        if found is None or found.start != start:
            os.close(self._pidfd)
            raise ProcessLookupError(f"process {pid} is another one now")
        self._loop = asyncio.get_running_loop()
        self.gone = asyncio.Event()
        self._loop.add_reader(self._pidfd, self._ended)

    def _ended(self) -> None:
        self.gone.set()
        self._loop.remove_reader(self._pidfd)

    def signal(self, signum: int) -> bool:
        """Send a signal to exactly this process; False where it is gone."""
        try:
            signal.pidfd_send_signal(self._pidfd, signum)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Let the descriptor go."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
