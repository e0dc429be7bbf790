"""Debian's containerd as a node for tests: what the client must work with too, and did not make itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING, Any

import grpc
from cri_api.v1 import api_pb2 as pb
from rpc.node import READY_WITHIN, Node, Pods

from ocishim.linux.mount import unmount_tree

if TYPE_CHECKING:
    from pathlib import Path

CONTAINERD = "/usr/bin/containerd"
PAUSE = "docker.io/library/pausing:latest"


class ForeignNode(Node):
    """containerd on directories of its own."""

    def prepare(self) -> None:
        super().prepare()
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        self.config.write_text(
            f'version = 2\nroot = "{self.root}"\nstate = "{self.state}"\n[grpc]\naddress = "{self.socket}"\n'
            f'[{cri}]\nsandbox_image = "{PAUSE}"\nstream_server_port = "0"\nrestrict_oom_score_adj = true\n'
            f'disable_apparmor = true\n[{cri}.cni]\nconf_dir = "{self.cni}"\nbin_dir = "/usr/lib/cni"\n'
            f'[{cri}.containerd]\ndefault_runtime_name = "tested"\n'
            f'[{cri}.containerd.runtimes.tested]\nruntime_type = "io.containerd.runc.v2"\n'
            f'[{cri}.containerd.runtimes.tested.options]\nBinaryName = "/usr/bin/{self.runtime_name}"\n'
        )

    def start(self) -> None:
        with (self.scratch / "server.log").open("ab") as log:
            self.process = subprocess.Popen([CONTAINERD, "--config", str(self.config)], stdout=log, stderr=log)
        self.channel = grpc.insecure_channel(f"unix://{self.socket}")
        deadline = time.monotonic() + READY_WITHIN
        while True:
            try:
                self.runtime.Version(pb.VersionRequest(), timeout=1)
            except grpc.RpcError:
                assert time.monotonic() < deadline, f"containerd does not answer:\n{self.log()}"
                time.sleep(0.05)
            else:
                return

    def load_images(self, layout: Path) -> None:
        """Import a layout, by containerd's own client."""
        archive = self.scratch / "layout.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(layout, arcname=".")
        load = ["/usr/bin/ctr", "-a", str(self.socket), "-n", "k8s.io", "images", "import", str(archive)]
        subprocess.run(load, check=True, capture_output=True)

    def clean(self) -> None:
        for path in (self.state, self.root):
            if path.is_dir():
                unmount_tree(str(path))
        super().clean()
        shutil.rmtree(f"/run/containerd/{self.word}", ignore_errors=True)


class ForeignPods(Pods):
    """containerd wants the pod's configuration with each container's."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._configs: dict[str, pb.PodSandboxConfig] = {}

    def run(self, config: pb.PodSandboxConfig | None = None, *, handler: str = "") -> str:
        config = config or self.config()
        os.makedirs(config.log_directory, exist_ok=True)
        sandbox_id = super().run(config, handler=handler)
        self._configs[sandbox_id] = config
        return sandbox_id

    def create(self, sandbox_id: str, *command: str, image: str = "busybox", name: str = "", **fields: Any) -> str:
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name or "c"),
            image=pb.ImageSpec(image=f"docker.io/library/{image}:latest"),
            command=command,
            **fields,
        )
        request = pb.CreateContainerRequest(
            pod_sandbox_id=sandbox_id, config=config, sandbox_config=self._configs[sandbox_id]
        )
        container_id: str = self.node.runtime.CreateContainer(request).container_id
        return container_id

    def remove_all(self) -> None:
        for sandbox_id in self._ids:
            with contextlib.suppress(grpc.RpcError):  # the test has removed it
                self.node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
        super().remove_all()
