"""Where everything is: the one place that joins paths below root and state."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocishim.model import ContainerId, SandboxId


@dataclass(frozen=True, slots=True)
class SandboxPaths:
    """A pod's directories and files."""

    root: str
    """Records and files that outlive a reboot."""
    state: str
    """What belongs to this boot."""

    @property
    def attachment(self) -> str:
        """The CNI attachment; its presence means that a CNI DEL is due."""
        return f"{self.root}/network.json"

    @property
    def hostname(self) -> str:
        """Mounted at /etc/hostname."""
        return f"{self.root}/hostname"

    @property
    def resolv_conf(self) -> str:
        """Mounted at /etc/resolv.conf."""
        return f"{self.root}/resolv.conf"

    @property
    def namespaces(self) -> str:
        """Where the namespaces are pinned, a file each."""
        return f"{self.state}/ns"

    @property
    def shm(self) -> str:
        """The pod's /dev/shm."""
        return f"{self.state}/shm"

    @property
    def pause(self) -> str:
        """Bundle of the pause process."""
        return f"{self.state}/pause"


@dataclass(frozen=True, slots=True)
class ContainerPaths:
    """A container's directories and files."""

    root: str
    state: str
    exit_file: str
    sockets: str
    """conmon makes its attach socket in a directory of the container's id below this one."""

    @property
    def upper(self) -> str:
        """The writable layer."""
        return f"{self.root}/upper"

    @property
    def work(self) -> str:
        """overlayfs's own directory beside the writable layer."""
        return f"{self.root}/work"

    @property
    def rootfs(self) -> str:
        """Where the root filesystem is mounted."""
        return f"{self.state}/rootfs"

    @property
    def checkpoint(self) -> str:
        """A checkpoint in the making."""
        return f"{self.root}/checkpoint"

    @property
    def restore(self) -> str:
        """The checkpoint that the container is going to be restored from."""
        return f"{self.root}/restore"

    def volume(self, number: int) -> str:
        """Where an image volume is mounted."""
        return f"{self.state}/volumes/{number}"

    def volume_scratch(self, number: int) -> str:
        """An image volume's own directory on the store's filesystem: empty, or its copy without overlayfs."""
        return f"{self.root}/volumes/{number}"

    @property
    def bundle(self) -> str:
        """The OCI bundle: config.json beside rootfs, and conmon's files."""
        return self.state

    @property
    def spec(self) -> str:
        """config.json."""
        return f"{self.state}/config.json"

    @property
    def pidfile(self) -> str:
        """The init process's pid, written by the OCI runtime."""
        return f"{self.state}/pidfile"


@dataclass(frozen=True, slots=True)
class Layout:
    """All paths below the server's two directories."""

    root: str
    state: str

    @property
    def sandboxes(self) -> str:
        """Records of pods, a directory each."""
        return f"{self.root}/sandboxes"

    @property
    def containers(self) -> str:
        """Records and writable layers of containers, a directory each."""
        return f"{self.root}/containers"

    @property
    def images(self) -> str:
        """The image store."""
        return f"{self.root}/images"

    @property
    def set_aside(self) -> str:
        """Records that could not be read, kept for a person to look at."""
        return f"{self.root}/set-aside"

    @property
    def sandbox_states(self) -> str:
        """Pods' namespaces and mounts of this boot."""
        return f"{self.state}/sandboxes"

    @property
    def container_states(self) -> str:
        """Bundles of this boot."""
        return f"{self.state}/containers"

    @property
    def exits(self) -> str:
        """Exit files, one a container that has ended."""
        return f"{self.state}/exits"

    @property
    def sockets(self) -> str:
        """Attach sockets."""
        return f"{self.state}/attach"

    def runtime_root(self, name: str) -> str:
        """Where an OCI runtime keeps its own state (its --root)."""
        return f"{self.state}/runtimes/{name}"

    def sandbox(self, sandbox_id: SandboxId) -> SandboxPaths:
        """Paths of one pod."""
        return SandboxPaths(f"{self.sandboxes}/{sandbox_id}", f"{self.sandbox_states}/{sandbox_id}")

    def container(self, container_id: ContainerId) -> ContainerPaths:
        """Paths of one container."""
        return ContainerPaths(
            f"{self.containers}/{container_id}",
            f"{self.container_states}/{container_id}",
            f"{self.exits}/{container_id}",
            self.sockets,
        )

    def make(self) -> None:
        """Make the directories; open to root only (CVE-2021-41103 was one open to all)."""
        for path in (self.root, self.state):
            os.makedirs(path, mode=0o711, exist_ok=True)
        for path in (
            self.sandboxes,
            self.containers,
            self.images,
            self.set_aside,
            self.sandbox_states,
            self.container_states,
            self.exits,
            self.sockets,
        ):
            os.makedirs(path, mode=0o700, exist_ok=True)
            os.chmod(path, 0o700)
