"""What a server holds of the host, so that before and after can be compared."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rpc.node import PATIENCE, hierarchies

if TYPE_CHECKING:
    from rpc.node import Node

WITHIN = 5.0 * PATIENCE
"""Seconds that the last processes get to end: conmon syncs its log when all else is done."""
FEW = 6
"""Descriptors that come and go with connections and threads."""


def held(node: Node) -> dict[str, set[str]]:
    """Everything that bears the run's name, by kind."""
    return {
        "mounts": {line.split()[4] for line in _lines("/proc/self/mountinfo") if node.word in line},
        "processes": set(_processes(node)),
        "cgroups": set(_cgroups(node)),
        "units": set(_units(node)),
        "addresses": set(_names(f"/var/lib/cni/networks/{node.word}")) - {"lock", "last_reserved_ip.0"},
        "interfaces": set(_output("ip", "-o", "link", "show", "master", node.word)),
        "iptables rules": {line for line in _output("iptables-save", "-t", "nat") if node.word in line},
        "files": set(_files(node)),
    }


def compare(node: Node, before: dict[str, set[str]]) -> list[str]:
    """What is there now and was not before; waits a little for what is just ending."""
    deadline = time.monotonic() + WITHIN
    while True:
        now = held(node)
        leaked = [f"{kind}: {item}" for kind, items in now.items() for item in sorted(items - before[kind])]
        if not leaked or time.monotonic() > deadline:
            return leaked
        time.sleep(0.05)


def descriptors(node: Node) -> int:
    """Open descriptors of the server."""
    return len(_names(f"/proc/{node.process.pid}/fd")) if node.process else 0


def _processes(node: Node) -> list[str]:
    found = []
    for pid in _names("/proc"):
        if not pid.isdigit() or (node.process and int(pid) == node.process.pid):
            continue
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            cgroup = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            continue
        if f"/{node.word}" in line or f"/{node.word}" in cgroup:
            found.append(f"{pid} {line}")
    return found


def _cgroups(node: Node) -> list[str]:
    found = []
    for hierarchy in hierarchies():
        for directory, _, _ in os.walk(f"{hierarchy}{node.cgroup}"):
            if not directory.endswith(node.cgroup):
                found.append(directory)
    return found


def _units(node: Node) -> list[str]:
    """systemd's, by the names of containers and of slices."""
    if not Path("/run/systemd/system").is_dir():
        return []
    lines = _output("systemctl", "list-units", "--all", "--plain", "--no-legend", "ocishim-*", f"{node.word}-*")
    return [line.split()[0] for line in lines]


def _files(node: Node) -> list[str]:
    found = []
    for directory in ("sandboxes", "containers", "exits", "attach", "runtimes/crun", "runtimes/runc"):
        for parent in (node.root, node.state):
            found += [f"{parent}/{directory}/{name}" for name in _names(f"{parent}/{directory}")]
    found += [f"incoming/{name}" for name in _names(f"{node.root}/images/incoming")]
    return found


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _output(*command: str) -> list[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.splitlines()
