"""A checkpoint's documents: written of a container, and judged against the request that would restore it."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ocishim.api.runtime import v1
from ocishim.errors import FailedPrecondition
from ocishim.spec import checkpoint as spec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocishim.model import ContainerMetadata, SandboxMetadata
    from ocishim.spec.checkpoint import ConfigDump, Dumps
    from ocishim.spec.runtime import Mount, RuntimeSpec

_OURS: Final = frozenset(
    {
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/dev/shm",  # noqa: S108 - a place in containers
        "/sys",
        "/sys/fs/cgroup",
        "/etc/resolv.conf",
        "/etc/hostname",
        "/etc/hosts",
        "/run/secrets",
        "/run/.containerenv",
    }
)
"""Mounts that a container gets anew wherever it is restored."""
_NANOSECONDS: Final = 10**9


def config_dump(metadata: ContainerMetadata, sandbox: SandboxMetadata, image_name: str, now: int) -> ConfigDump:
    """config.dump of a container; times are nanoseconds since the epoch."""
    pod = f"{sandbox.name}_{sandbox.namespace}_{sandbox.uid}"
    return spec.ConfigDump(
        id=metadata.id,
        name=f"k8s_{metadata.name}_{pod}_{metadata.attempt}",
        rootfs_image=metadata.user_specified_image,
        rootfs_image_ref=metadata.image_id,
        rootfs_image_name=image_name,
        runtime=sandbox.runtime_handler or metadata.runtime,
        created=_time(metadata.created_at),
        checkpointed=_time(now),
        restored=metadata.restored,
    )


def _time(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, _NANOSECONDS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def spec_dump(bundle: RuntimeSpec, metadata: ContainerMetadata, config: v1.ContainerConfig) -> RuntimeSpec:
    """spec.dump: config.json with the annotations by which CRI-O and checkpointctl find their way in it."""
    named = {"name": metadata.name, "attempt": metadata.attempt}
    known = {
        # checkpointctl tells the layouts of archives apart by this; this one is CRI-O's.
        "io.container.manager": "cri-o",
        "io.kubernetes.cri-o.Annotations": json.dumps(config.annotations),
        "io.kubernetes.cri-o.Labels": json.dumps(config.labels),
        "io.kubernetes.cri-o.LogPath": metadata.log_path,
        "io.kubernetes.cri-o.Metadata": json.dumps(named),
        "io.kubernetes.cri-o.SandboxID": metadata.sandbox_id,
    }
    return bundle.model_copy(update={"annotations": {**bundle.annotations, **known}})


def foreign_mounts(mounts: Iterable[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Source and destination of the bind mounts among (type, source, destination) that are the request's own."""
    return [(source, target) for kind, source, target in mounts if kind == "bind" and target not in _OURS]


def restored_config(config: v1.ContainerConfig, dumps: Dumps, what: str) -> v1.ContainerConfig:
    """The request with what it left open filled from the checkpoint.

    Raises FailedPrecondition where the two do not fit: the processes expect a terminal as it was.
    """
    process = dumps.spec.process
    if not process.args:
        raise FailedPrecondition(f"{what}: {spec.SPEC} has no process")
    if process.terminal != config.tty:
        has = "has a terminal" if process.terminal else "has no terminal"
        raise FailedPrecondition(f"{what} {has}, and the request's tty is {str(config.tty).lower()}")
    names = {variable.key for variable in config.envs}
    kept = [
        v1.KeyValue(key=name, value=value.encode())
        for name, _, value in (entry.partition("=") for entry in process.env)
        if name and name not in names
    ]
    return dataclasses.replace(
        config,
        command=config.command or list(process.args),
        args=config.args if config.command else [],
        working_dir=config.working_dir or process.cwd,
        envs=[*config.envs, *kept],
    )


def check_mounts(made: Iterable[Mount], dumps: Dumps, what: str) -> None:
    """Raises FailedPrecondition where the new container lacks a mount that the checkpoint's processes expect.

    Those that the request, its devices and the operator bring count. An archive cannot bring mounts of its own,
    which would open the host's files to whoever wrote it.
    """
    given = {mount.destination.rstrip("/") for mount in made}
    expected = foreign_mounts((mount.type, mount.source, mount.destination) for mount in dumps.spec.mounts)
    missing = sorted({target for _, target in expected if target.rstrip("/") not in given})
    if missing:
        raise FailedPrecondition(f"{what} needs mounts that the request does not have: {', '.join(missing)}")
