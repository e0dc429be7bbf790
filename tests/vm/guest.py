"""Runs the tests inside the guest, as its service; tells the host on a virtio port. Standard library only.

guest.py JOB     # a JSON object: token, arguments (pytest's), environment
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

PORT = Path("/dev/virtio-ports/ocishim.tests")
CONSOLE = Path("/dev/console")
CHECKOUT = "/srv/ocishim"
V2_MAGIC = "cgroup2fs"


def main() -> int:
    """Say hello, run the tests, say how they ended; on failure leave the journal's end on the console."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with _port() as port:
        _say(port, job["token"], "started", _host())
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *job["arguments"]],
            check=False,
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=port,
            stderr=port,
            env=os.environ | job["environment"],
        )
        if done.returncode != 0:
            with CONSOLE.open("ab") as console:
                subprocess.run(["journalctl", "--boot", "--no-pager", "--lines", "300"], check=False, stdout=console)
        code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        _say(port, job["token"], "exit", str(code))
        time.sleep(1)  # the machine is off the moment this ends
    return code


def _port() -> BinaryIO:
    """The port, which udev names a little after the device is there."""
    deadline = time.monotonic() + 60
    while not PORT.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return PORT.open("wb", buffering=0)


def _say(port: BinaryIO, token: str, name: str, detail: str) -> None:
    port.write(f"::{token} {name} {detail}\n".encode())


def _host() -> str:
    """What kind of host this is, in a line."""
    up = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    kind = subprocess.run(["stat", "-fc", "%T", "/sys/fs/cgroup"], check=False, capture_output=True, text=True).stdout
    hybrid = Path("/sys/fs/cgroup/unified").is_dir()
    cgroup = "v2" if kind.strip() == V2_MAGIC else "hybrid" if hybrid else "v1"
    apparmor = "AppArmor" if Path("/sys/kernel/security/apparmor").is_dir() else "no AppArmor"
    init = Path("/proc/1/comm").read_text(encoding="ascii").strip()
    return f"Linux {platform.release()}, {init} as PID 1, cgroup {cgroup}, {apparmor}, up for {up:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
