"""`ocishim check`: what the host lacks, why it matters, and the command that mends it."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ocishim.images import rootfs
from ocishim.linux import host
from ocishim.linux.shipped import shipped
from ocishim.network.cni import Cni
from ocishim.runtime import choice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ocishim.config import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    what: str
    ok: bool
    blocks: bool
    """Whether no pod can run because of it."""
    why: str
    mend: str


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; changes nothing."""
    parts: tuple[Callable[[Settings], Iterable[Finding]], ...] = (
        _privileges,
        _runtimes,
        _programs,
        _network,
        _overlay,
        _cgroups,
        _profile,
    )
    return [finding for part in parts for finding in part(settings)]


def _finding(what: str, problem: str | None, mend: str, *, blocks: bool = True) -> Finding:
    return Finding(
        what, problem is None, problem is not None and blocks, problem or "", "" if problem is None else mend
    )


def _privileges(settings: Settings) -> Iterable[Finding]:  # noqa: ARG001 - all parts are called alike
    held = host.capability_set("CapEff")
    missing = sorted({"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_CHOWN"} - held)
    problem = f"{', '.join(missing)} missing: namespaces, mounts and layers cannot be made" if missing else None
    yield _finding("capabilities", problem, "run as root, in a container with --privileged")
    if "CAP_SYS_RESOURCE" not in held:
        problem = "CAP_SYS_RESOURCE missing: OOM scores below the server's own are raised to it"
        yield _finding("OOM scores", problem, "give the server CAP_SYS_RESOURCE", blocks=False)


def _runtimes(settings: Settings) -> Iterable[Finding]:
    found = choice.find(settings, f"{settings.state}/runtimes")
    for name in sorted({*found.by_name, *found.refusals}):
        yield _finding(f"runtime {name}", found.refusals.get(name), f"apt-get install {name}", blocks=False)
    problem = None if found.default else "none of the OCI runtimes can run here"
    yield _finding("a default runtime", problem, "apt-get install crun")


def _programs(settings: Settings) -> Iterable[Finding]:
    containers = settings.containers
    for path, package, why, blocks in (
        (containers.conmon, "conmon", "containers are monitored by it", True),
        (containers.pause, "catatonit", "pods that share a PID namespace need it", False),
        ("/usr/sbin/iptables", "iptables", "host ports and masquerading need it", False),
    ):
        problem = None if os.access(path, os.X_OK) else f"{path} is not there: {why}"
        yield _finding(os.path.basename(path), problem, f"apt-get install {package}", blocks=blocks)


def _network(settings: Settings) -> Iterable[Finding]:
    ready = Cni(settings.cni).readiness()
    mend = (
        f"put a conflist into {settings.cni.conf_dir} (bundles/10-ocishim.conflist is one) and "
        "apt-get install containernetworking-plugins"
    )
    problem = None if ready.ready else f"{ready.message}; only pods on the host's network can run"
    yield _finding("CNI network", problem, mend, blocks=False)


def _overlay(settings: Settings) -> Iterable[Finding]:
    parent = settings.root
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    what = f"overlayfs on {settings.root}"
    mend = "put `root` on ext4 or xfs, and modprobe overlay"
    try:
        found = asyncio.run(rootfs.choose(parent))
    except OSError as error:
        yield _finding(what, f"{parent}: {error.strerror}", mend)
        return
    problem = f"{found.why}; root filesystems are made by {found.kind}, which is slower" if found.why else None
    if found.kind == "copy":
        mend += ", or apt-get install fuse-overlayfs"
    yield _finding(what, problem, mend, blocks=False)


def _cgroups(settings: Settings) -> Iterable[Finding]:  # noqa: ARG001 - all parts are called alike
    problem = None if os.path.isdir("/sys/fs/cgroup") and os.listdir("/sys/fs/cgroup") else "no cgroups are mounted"
    yield _finding("cgroups", problem, "apt-get install cgroupfs-mount && cgroupfs-mount")


def _profile(settings: Settings) -> Iterable[Finding]:
    path = settings.containers.seccomp_profile or shipped("seccomp.json")
    problem = None if os.path.isfile(path) else f"{path} is not there: seccomp RuntimeDefault is refused"
    yield _finding("seccomp profile", problem, "leave containers.seccomp_profile out: one is shipped", blocks=False)


def as_table(findings: Iterable[Finding]) -> str:
    """For a person."""
    lines = []
    for finding in findings:
        mark = "ok     " if finding.ok else ("MISSING" if finding.blocks else "warning")
        lines.append(f"{mark}  {finding.what}" + (f": {finding.why}" if finding.why else ""))
        if finding.mend:
            lines.append(f"         → {finding.mend}")
    return "\n".join(lines)


def as_json(findings: Iterable[Finding]) -> str:
    """For a program."""
    return json.dumps([asdict(finding) for finding in findings])
