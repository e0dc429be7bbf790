"""Reads the files that tell of usage: cgroups, /proc, network namespaces. It blocks shortly: call it in a thread.

A file is opened for each read. Keeping it open would save nine tenths of some 15 µs, and cost ten descriptors a
container for as long as it runs.
"""

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from ocishim.linux import cgroup, namespace
from ocishim.metrics import cgroup_v1, cgroup_v2
from ocishim.metrics.kernel import interfaces, open_files_limit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocishim.metrics.kernel import Interface, Source
    from ocishim.metrics.usage import Details, Usage

_PART: Final = 1 << 16
_WITHOUT_SUBDIRECTORIES: Final = 2
"""Links of a directory that has none, as cgroup filesystems count them."""
_HUGE_PAGES: Final = "/sys/kernel/mm/hugepages"
_HUGE_PAGE: Final = re.compile(r"hugepages-([0-9]+)kB")


class Processes(NamedTuple):
    """What the processes of a container hold."""

    number: int
    descriptors: int
    sockets: int


class Filesystem(NamedTuple):
    """A filesystem's size; inodes are 0 where it has no fixed number of them."""

    size: int
    inodes: int
    inodes_free: int


class Cgroups:
    """This host's cgroup files, of whichever version."""

    def __init__(self, root: str = cgroup.ROOT) -> None:
        self._root = root
        self.is_v2 = os.path.exists(f"{root}/cgroup.controllers")
        self._page_sizes = tuple(_page_sizes())

    def usage(self, path: str) -> Usage:
        """What the statistics show of a cgroup."""
        read = self._source(path)
        return cgroup_v2.usage(read) if self.is_v2 else cgroup_v1.usage(read)

    def all(self, path: str) -> tuple[Usage, Details]:
        """That, and what only the metrics show; no file is read twice."""
        version = cgroup_v2 if self.is_v2 else cgroup_v1
        read = functools.cache(self._source(path))
        return version.usage(read), version.details(read, self._page_sizes)

    def cpu_usage(self, path: str) -> int | None:
        """Nanoseconds of one core since it was made."""
        read = self._source(path)
        return cgroup_v2.cpu_usage(read) if self.is_v2 else cgroup_v1.cpu_usage(read)

    def processes(self, path: str) -> list[int] | None:
        """Ids of the processes in a cgroup and below it; None where it is gone."""
        own = self._own_processes(path)
        if own is None:
            return None
        below = (self._own_processes(each) or [] for each in self._below(path))
        return [*own, *(pid for pids in below for pid in pids)]

    def _own_processes(self, path: str) -> list[int] | None:
        read = self._source(path)
        data = cgroup_v2.processes(read) if self.is_v2 else cgroup_v1.processes(read)
        if data is None:
            return None
        # 0 is a process of a PID namespace that the server's does not contain.
        return [int(each) for each in data.split() if each.isdigit() and each != b"0"]

    def _below(self, path: str) -> Iterator[str]:
        directory = self._directory("pids", path)
        try:
            if os.stat(directory).st_nlink <= _WITHOUT_SUBDIRECTORIES:
                return
            with os.scandir(directory) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return
        for name in names:
            yield f"{path}/{name}"
            yield from self._below(f"{path}/{name}")

    def _source(self, path: str) -> Source:
        return lambda controller, name: read_file(f"{self._directory(controller, path)}/{name}")

    def _directory(self, controller: str, path: str) -> str:
        return f"{self._root}/{path.strip('/')}" if self.is_v2 else f"{self._root}/{controller}/{path.strip('/')}"


def read_file(path: str) -> bytes | None:
    """All of a file; None where it cannot be read, for whatever reason."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(fd, _PART)
        # seq_file gives a page at a time.
        while more := os.read(fd, _PART) if data else b"":
            data += more
    except OSError:
        return None  # ENODEV: removed meanwhile; EOPNOTSUPP: pressure is switched off
    finally:
        os.close(fd)
    return data


def network_of(netns: str) -> tuple[Interface, ...] | None:
    """The interfaces of a pinned network namespace, None where it is gone.

    Leaves the thread in that namespace: only for a thread that is made for such reading and ends after it.
    """
    try:
        namespace.enter(netns, "net")
    except OSError:
        return None
    data = read_file("/proc/thread-self/net/dev")
    return None if data is None else interfaces(data)


def held_by(pids: list[int]) -> Processes:
    """Descriptors and sockets of processes; one that has ended holds nothing."""
    descriptors, sockets = 0, 0
    for pid in pids:
        directory = f"/proc/{pid}/fd"
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        descriptors += len(names)
        for name in names:
            try:
                sockets += os.readlink(f"{directory}/{name}").startswith("socket:")
            except OSError:
                continue
    return Processes(len(pids), descriptors, sockets)


def open_files_limit_of(pid: int) -> int | None:
    """A process's soft limit of open files; None where there is none."""
    return open_files_limit(read_file(f"/proc/{pid}/limits"))


def filesystem(path: str) -> Filesystem | None:
    """Size of the filesystem that holds a path."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return Filesystem(found.f_blocks * found.f_frsize, found.f_files, found.f_ffree)


def device_name(major: int, minor: int) -> str:
    """A block device's path as people know it, such as /dev/sda; its numbers where it has none."""
    try:
        return "/dev/" + os.path.basename(os.readlink(f"/sys/dev/block/{major}:{minor}")).replace("!", "/")
    except OSError:
        return f"{major}:{minor}"


def device_of(path: str) -> str:
    """The device of the filesystem that holds a path; empty where there is no such path."""
    try:
        number = os.stat(path).st_dev
    except OSError:
        return ""
    return device_name(os.major(number), os.minor(number))


def _page_sizes() -> Iterator[str]:
    """Sizes of huge pages as cgroup files spell them: 2MB, 1GB."""
    try:
        names = os.listdir(_HUGE_PAGES)
    except OSError:
        return
    for name in sorted(names):
        found = _HUGE_PAGE.fullmatch(name)
        if found:
            yield page_size(int(found[1]))


def page_size(kilobytes: int) -> str:
    """Such as 2MB for 2048."""
    for unit in ("KB", "MB"):
        if kilobytes % 1024:
            return f"{kilobytes}{unit}"
        kilobytes //= 1024
    return f"{kilobytes}GB"
