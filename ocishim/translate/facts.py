"""Facts that decisions rest on, gathered by others beforehand, so that deciding needs no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ocishim.translate.cdi import CdiEdits
from ocishim.translate.security import DEFAULT_CAPABILITIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocishim.api.runtime import v1
    from ocishim.config import MountSettings
    from ocishim.spec.runtime import Rlimit, Seccomp


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """The defaults that an image's configuration holds (image-spec, config.md)."""

    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The node, and what the server itself may do on it."""

    architecture: str
    cgroup_v2: bool
    has_hugetlb: bool
    has_swap_accounting: bool
    has_apparmor: bool
    has_selinux: bool
    capabilities: frozenset[str]
    """The server's bounding set, with the CAP_ prefix, in kernel order."""
    may_raise_limits: bool
    """CAP_SYS_RESOURCE: a lower OOM score than the server's own, higher hard limits."""
    oom_score_adj: int
    rlimits: Mapping[str, int] = field(default_factory=dict)
    """The server's own hard limits by name (nofile, …)."""


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """A device node of the host."""

    path: str
    type: str
    """c or b."""
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class GrantedDevice:
    """A device node as the container gets it."""

    device: DeviceFacts
    container_path: str
    permissions: str


@dataclass(frozen=True, slots=True)
class MountSource:
    """A mount of the request with its source looked up on the host."""

    request: v1.Mount
    source: str
    """Absolute, symbolic links resolved."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a process runs as."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class SandboxFacts:
    """The pod that a container is made in; a None namespace is the host's."""

    id: str
    name: str
    namespace: str
    uid: str
    hostname: str
    namespaces: Mapping[str, str]
    """Files of the pinned namespaces by kind: net, ipc, uts, pid."""
    resolv_conf: str
    hostname_file: str
    shm: str


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the operator gives every container."""

    env: tuple[str, ...] = ()
    mounts: tuple[MountSettings, ...] = ()
    rlimits: tuple[Rlimit, ...] = ()
    capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES


@dataclass(frozen=True, slots=True)
class ContainerInputs:
    """All that container_spec looks at."""

    id: str
    config: v1.ContainerConfig
    sandbox: SandboxFacts
    image: ImageFacts
    image_name: str
    identity: Identity
    host: HostFacts
    rootfs: str
    cgroup: str
    mounts: tuple[MountSource, ...] = ()
    devices: tuple[GrantedDevice, ...] = ()
    host_devices: tuple[DeviceFacts, ...] = ()
    """All device nodes of the host, for a privileged container."""
    without_host_devices: bool = False
    """Whether even a privileged container gets only the devices that it asks for."""
    target_pid_namespace: str | None = None
    seccomp: Seccomp | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Those that its handler passes on."""
    apparmor: str | None = None
    """The profile that it runs under."""
    defaults: Defaults = Defaults()
    cdi: CdiEdits = field(default_factory=CdiEdits)
    in_vm: bool = False
    """Whether the runtime joins it to a sandbox of its own, which no host namespace's path can name."""
