"""What operations act on: this node's settings, records, network, runtimes and images, wired together once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ocishim.errors import NotFound
from ocishim.lifecycle.data_files import DataFiles
from ocishim.lifecycle.oom import OomKills

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocishim.config import Settings
    from ocishim.images.rootfs import RootFilesystems
    from ocishim.images.store import ImageStore
    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.events import Journal
    from ocishim.lifecycle.jobs import Jobs
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.lifecycle.usage import DiskUsage
    from ocishim.linux.cgroup_driver import CgroupDrivers
    from ocishim.metrics.meter import Meter
    from ocishim.model import ContainerMetadata, ContainerStatus, SandboxMetadata, SandboxStatus
    from ocishim.network.cni import Cni
    from ocishim.runtime.choice import Runtimes
    from ocishim.runtime.features import HandlerFeatures
    from ocishim.runtime.oci import OciRuntime
    from ocishim.store.index import Index
    from ocishim.store.layout import Layout
    from ocishim.store.records import Records
    from ocishim.translate.facts import HostFacts


@dataclass(frozen=True, slots=True)
class Node:
    """Given to every operation; daemon.py makes it."""

    settings: Settings
    layout: Layout
    host: HostFacts
    boot_id: str
    runtimes: Runtimes
    cgroups: CgroupDrivers
    cni: Cni
    images: ImageStore
    rootfs: RootFilesystems
    features: Mapping[str, HandlerFeatures]
    """By handler name."""
    jobs: Jobs
    sandbox_records: Records[SandboxMetadata, SandboxStatus]
    container_records: Records[ContainerMetadata, ContainerStatus]
    sandboxes: Index[Sandbox]
    containers: Index[Container]
    written: DiskUsage
    meter: Meter
    journal: Journal
    data_files: DataFiles = field(default_factory=DataFiles)
    oom_kills: OomKills = field(default_factory=OomKills)

    def sandbox(self, sandbox_id: str) -> Sandbox:
        """The pod of that id or beginning of one. Raises NotFound."""
        found = self.sandboxes.find(sandbox_id)
        if found is None:
            raise NotFound(f"no pod sandbox has the id {sandbox_id!r}")
        return found

    def container(self, container_id: str) -> Container:
        """The container of that id or beginning of one. Raises NotFound."""
        found = self.containers.find(container_id)
        if found is None:
            raise NotFound(f"no container has the id {container_id!r}")
        return found

    def containers_of(self, sandbox_id: str) -> list[Container]:
        """All containers of a pod."""
        return [each for each in self.containers if each.metadata.sandbox_id == sandbox_id]

    def runtime_of(self, container: Container) -> OciRuntime:
        """The runtime that a container was made with."""
        return self.runtimes.choose(container.metadata.runtime)

    def containers_by_state(self) -> dict[str, int]:
        """How many containers there are of each state."""
        counts = {"created": 0, "running": 0, "exited": 0}
        for each in self.containers:
            state = "exited" if each.status.has_exited else "running" if each.status.is_running else "created"
            counts[state] += 1
        return counts

    def sandboxes_by_state(self) -> dict[str, int]:
        """How many pods there are of each state."""
        ready = sum(each.is_ready for each in self.sandboxes)
        return {"ready": ready, "notready": len(self.sandboxes) - ready}
