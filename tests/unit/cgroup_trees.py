"""Trees of cgroup files as they were read off hosts, and a stand-in for the kernel behind them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CONTAINER = "/kubepods/pod1/c1"
SCOPE = "/kubepods.slice/kubepods-pod1.slice/ocishim-c1.scope"

UNLIMITED = str(2**63 - 4096)
"""What v1's memory files show for -1."""

_V1_MEMORY = {"memory.limit_in_bytes": "104857600", "memory.memsw.limit_in_bytes": "104857600"}
_V1 = {
    "cpu,cpuacct": {"cpu.shares": "1024", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "-1"},
    "cpuset": {"cpuset.cpus": "0-3", "cpuset.mems": "0", "cpuset.sched_load_balance": "1"},
    "memory": {**_V1_MEMORY, "memory.usage_in_bytes": "1048576"},
    "pids": {"pids.max": "max"},
    "hugetlb": {"hugetlb.2MB.limit_in_bytes": "9223372036852678656"},
    "freezer": {"freezer.state": "THAWED"},
    "systemd": {},
}
_V2 = {
    "cpu.weight": "39",
    "cpu.max": "max 100000",
    "cpuset.cpus": "",
    "cpuset.mems": "",
    "memory.max": "104857600",
    "memory.swap.max": "0",
    "memory.high": "max",
    "memory.current": "1048576",
    "pids.max": "max",
    "hugetlb.2MB.max": "max",
}
_V2_ROOT = {
    "cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc",
    "cgroup.subtree_control": "cpuset cpu io memory pids",
}


def _write(directory: Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in {"cgroup.procs": "", **files}.items():
        (directory / name).write_text(f"{content}\n" if content else "")


def v1(root: Path) -> Path:
    """Debian 10 and cgroupfs-mount: controllers mounted together, the single names linked to them."""
    for name, files in _V1.items():
        cpuset = {key: "0-3" if key.endswith("cpus") else value for key, value in files.items()}
        _write(root / name, cpuset)
        _write(root / name / CONTAINER[1:], files)
    (root / "cpu").symlink_to("cpu,cpuacct")
    (root / "cpuacct").symlink_to("cpu,cpuacct")
    return root


def hybrid(root: Path) -> Path:
    """The same with a bare v2 tree beside it, as systemd's hybrid mode mounts it."""
    v1(root)
    _write(root / "unified", {"cgroup.controllers": "", "cgroup.subtree_control": ""})
    _write(root / "unified" / CONTAINER[1:], {})
    return root


def v2(root: Path) -> Path:
    """Debian 12 under systemd."""
    _write(root, _V2_ROOT)
    for container in (CONTAINER, SCOPE):
        _write(root / container[1:], _V2)
    return root


class Kernel:
    """Takes the place of cgroup.write: keeps what was written, and refuses as the kernel does."""

    def __init__(self) -> None:
        self.written: list[tuple[str, str]] = []
        self.cache = 0
        """Bytes that can be reclaimed."""
        self.rules: list[Callable[[str, str], int]] = [_memory_within_memsw, _memory_in_use]
        """Each answers an errno, or 0."""

    def refuse(self, file: str, value: str, number: int) -> None:
        """Refuse one value of one file."""
        self.rules.append(lambda path, given: number if path.endswith(f"/{file}") and given == value else 0)

    def write(self, path: str, value: str) -> None:
        """The stand-in."""
        if path.endswith("/memory.reclaim"):
            self._reclaim(Path(path).with_name("memory.current"), int(value))
            return
        for rule in self.rules:
            if number := rule(path, value):
                raise OSError(number, os.strerror(number), path)
        if not path.endswith(("cgroup.procs", "cgroup.subtree_control")):
            shown = UNLIMITED if value == "-1" and "memory" in os.path.basename(path) else value
            Path(path).write_text(f"{shown}\n")
        self.written.append((path, value))

    def _reclaim(self, usage: Path, wanted: int) -> None:
        freed = min(wanted, self.cache)
        if freed:
            usage.write_text(f"{_number(usage) - freed}\n")
        if freed < wanted:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _number(path: Path) -> int:
    return int(path.read_text())


def _memory_within_memsw(path: str, value: str) -> int:
    """memory.limit_in_bytes may at no time be above memory.memsw.limit_in_bytes (memcg_test.rst)."""
    file, amount = Path(path), int(value) if value.lstrip("-").isdecimal() else 0
    amount = int(UNLIMITED) if amount == -1 else amount
    if file.name == "memory.limit_in_bytes" and amount > _number(file.with_name("memory.memsw.limit_in_bytes")):
        return errno.EINVAL
    if file.name == "memory.memsw.limit_in_bytes" and amount < _number(file.with_name("memory.limit_in_bytes")):
        return errno.EINVAL
    return 0


def _memory_in_use(path: str, value: str) -> int:
    file = Path(path)
    if file.name == "memory.limit_in_bytes" and 0 < int(value) < _number(file.with_name("memory.usage_in_bytes")):
        return errno.EBUSY
    return 0
