"""Records: what the server knows of a sandbox or a container, as it stands on disk.

Metadata never changes once written; a Status does, and its state follows from its timestamps. Both hold
all that is needed to undo what was done. Times are nanoseconds since the epoch, 0 for 'not yet'.
"""

from __future__ import annotations

from typing import Literal, NewType

from pydantic import BaseModel, ConfigDict

from ocishim.config import CgroupDriverName  # noqa: TC001 - pydantic reads it at run time

SandboxId = NewType("SandboxId", str)
ContainerId = NewType("ContainerId", str)

REASON_COMPLETED = "Completed"
REASON_ERROR = "Error"
REASON_OOM_KILLED = "OOMKilled"
REASON_START_ERROR = "StartError"
REASON_UNKNOWN = "Unknown"
EXIT_CODE_UNKNOWN = 255
EXIT_CODE_START_ERROR = 128


class Record(BaseModel):
    """A file of state: unknown keys and wrong types mean that something else wrote it."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    version: Literal[1] = 1


class ProcessRef(BaseModel):
    """A process that is known beyond its pid: the start time tells it from a later bearer of that pid."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    start: int
    """Clock ticks since boot, from /proc/PID/stat."""


class SandboxMetadata(Record):
    """What a pod was asked to be. `config` is the request's PodSandboxConfig in wire format."""

    id: SandboxId
    name: str
    namespace: str
    uid: str
    attempt: int
    created_at: int
    boot_id: str
    runtime_handler: str
    runtime: str
    hostname: str
    cgroup_parent: str
    """Path of the cgroup that the pod's containers are below."""
    owns_cgroup: bool
    """Whether the cgroup was missing before, so that it goes with the pod."""
    cgroup_driver: CgroupDriverName = "cgroupfs"
    monitor_cgroup: str = "pod"
    """Where conmon is accounted to: `pod`, or the cgroup of all monitors."""
    namespaces: tuple[str, ...]
    """Which are pinned for the pod: of net, ipc, uts."""
    shared_pid: bool
    config: bytes
    in_vm: bool = False
    """Whether the runtime makes a sandbox of its own for the pod, with the pod's first container."""

    @property
    def has_pause(self) -> bool:
        """Whether a container of the server's own stands for the pod."""
        return self.shared_pid or self.in_vm


class SandboxStatus(Record):
    """Where a pod is in its life."""

    ready_at: int = 0
    stopped_at: int = 0
    ips: tuple[str, ...] = ()
    pause: ProcessRef | None = None
    resources: bytes | None = None
    """LinuxContainerResources in wire format, of the last update; None: as the request had them."""
    overhead: bytes | None = None
    inherits_cgroup: bool = False
    """Whether the pod that had made the cgroup is gone, and this one, which shares it, must remove it."""

    @property
    def is_ready(self) -> bool:
        """SANDBOX_READY, in the CRI's words."""
        return bool(self.ready_at) and not self.stopped_at


class ImageVolume(BaseModel):
    """An image mounted into a container."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    container_path: str
    image_id: str
    image_ref: str
    """Its name by digest, or its id."""
    diff_ids: tuple[str, ...]


class ContainerMetadata(Record):
    """What a container was asked to be. `config` is the request's ContainerConfig in wire format."""

    id: ContainerId
    sandbox_id: SandboxId
    name: str
    attempt: int
    created_at: int
    boot_id: str
    runtime: str
    image_id: str
    diff_ids: tuple[str, ...]
    user_specified_image: str
    image_ref: str
    log_path: str
    """Absolute; empty: no log."""
    cgroup: str
    stop_signal: int
    tty: bool
    stdin: bool
    stdin_once: bool
    config: bytes
    restored: bool = False
    """Whether its processes come from a checkpoint."""
    volumes: tuple[ImageVolume, ...] = ()
    """Its image volumes, in the order of the request's mounts."""

    @property
    def image_ids(self) -> frozenset[str]:
        """All images that it needs."""
        return frozenset((self.image_id, *(volume.image_id for volume in self.volumes)))

    @property
    def layers(self) -> frozenset[str]:
        """Diff ids of all layers that it needs."""
        return frozenset((*self.diff_ids, *(diff_id for volume in self.volumes for diff_id in volume.diff_ids)))


class ResolvedUser(BaseModel):
    """Whom the container's process runs as, by the image's passwd and group files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uid: int
    gid: int
    additional_gids: tuple[int, ...]


class ContainerStatus(Record):
    """Where a container is in its life."""

    created_at: int = 0
    """0 while CreateContainer is at work: found so at start, it is undone."""
    launched_at: int = 0
    """When StartContainer began; without started_at and finished_at, the server died in it."""
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    user: ResolvedUser | None = None
    process: ProcessRef | None = None
    resources: bytes | None = None
    """LinuxContainerResources in wire format, of the last update; None: as the request had them."""
    slice_oom_kills: int = 0
    """OOM kills of its systemd slice that were explained when it was launched, and with its end when it ended."""

    @property
    def is_running(self) -> bool:
        """CONTAINER_RUNNING, in the CRI's words."""
        return bool(self.started_at) and not self.finished_at

    @property
    def is_created(self) -> bool:
        """CONTAINER_CREATED: made, and neither running nor ended."""
        return bool(self.created_at) and not self.started_at and not self.finished_at

    @property
    def has_exited(self) -> bool:
        """CONTAINER_EXITED."""
        return bool(self.finished_at)
