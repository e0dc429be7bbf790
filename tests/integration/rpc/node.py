"""A server of the test run's own, and Google's gRPC client of it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
from cri_api.v1 import api_pb2 as pb
from cri_api.v1 import api_pb2_grpc

from ocishim.api.ocishim import v1 as own
from ocishim.linux.cgroup import kill_all, remove
from ocishim.linux.mount import unmount_tree

PATIENCE = float(os.environ.get("OCISHIM_TEST_PATIENCE", "1"))
"""How many times longer than usual things may take: `./dev test-vm` runs the tests on an emulated processor."""
CGROUP_DRIVER = os.environ.get("OCISHIM_TEST_CGROUP_DRIVER", "cgroupfs")
READY_WITHIN = 20.0 * PATIENCE
LARGEST_ANSWER = 16 << 20
"""What kubelet's client takes."""
POD = pb.NamespaceOption(pid=pb.CONTAINER)


class Node:
    """Directories, a network, a server, a client; everything is named after one random word."""

    def __init__(self, runtime: str, cgroup_driver: str = CGROUP_DRIVER) -> None:
        self.runtime_name = runtime
        self.cgroup_driver = cgroup_driver
        self.word = f"oct{secrets.token_hex(3)}"
        self.root = Path(f"/var/lib/{self.word}")
        self.state = Path(f"/run/{self.word}")
        self.scratch = Path(f"/var/tmp/{self.word}")
        self.cni = self.scratch / "cni"
        self.logs = self.scratch / "logs"
        self.socket = self.state / "s.sock"
        self.config = self.scratch / "config.toml"
        self.cgroup = f"/{self.word}.slice" if cgroup_driver == "systemd" else f"/{self.word}"
        self.subnet = f"10.{secrets.randbelow(40) + 180}.{secrets.randbelow(250)}"
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: grpc.Channel | None = None

    def prepare(self) -> None:
        """Make directories and configuration."""
        self.cni.mkdir(parents=True)
        self.logs.mkdir()
        self.network()
        self.config.write_text(
            f'root = "{self.root}"\nstate = "{self.state}"\nlisten = "unix://{self.socket}"\n'
            f'default_runtime = "{self.runtime_name}"\n'
            f'[cni]\nconf_dir = "{self.cni}"\nbin_dirs = ["{self.scratch}/plugins", "/usr/lib/cni"]\n'
            f"timeout = {20.0 * PATIENCE}\n"
            f'[containers]\ncgroup_driver = "{self.cgroup_driver}"\ncgroup_parent = "{self.cgroup_parent()}"\n'
            f'[log]\nlevel = "debug"\nformat = "text"\n'
        )

    def cgroup_parent(self, pod: str = "") -> str:
        """The cgroup below which everything goes, or a pod's in it, in the driver's notation."""
        if self.cgroup_driver == "systemd":
            return f"{self.word}-{pod}.slice" if pod else f"{self.word}.slice"
        return f"/{self.word}/{pod}".rstrip("/")

    def network(self, plugins: list[dict[str, object]] | None = None) -> None:
        """(Re)write the CNI configuration; by default a bridge with host ports."""
        bridge: dict[str, object] = {
            "type": "bridge",
            "bridge": self.word,
            "isGateway": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": f"{self.subnet}.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        ports: dict[str, object] = {"type": "portmap", "capabilities": {"portMappings": True}}
        content = {"cniVersion": "1.0.0", "name": self.word, "plugins": plugins or [bridge, ports]}
        (self.cni / "10.conflist").write_text(json.dumps(content))

    def command(self) -> list[str]:
        """What starts the server."""
        return [sys.executable, "-m", "ocishim", "serve", "--config", str(self.config)]

    def environment(self) -> dict[str, str]:
        """What it starts with."""
        return dict(os.environ)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with (self.scratch / "server.log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), env=self.environment(), stdout=log, stderr=log)
        options = [
            ("grpc.max_receive_message_length", LARGEST_ANSWER),
            # Of a server that is just starting; by default the pauses between two tries grow to minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        self.channel = grpc.insecure_channel(f"unix://{self.socket}", options=options)
        deadline = time.monotonic() + READY_WITHIN
        while True:
            assert self.process.poll() is None, f"the server ended at its start:\n{self.log()}"
            try:
                self.runtime.Version(pb.VersionRequest(), timeout=PATIENCE)
            except grpc.RpcError:
                assert time.monotonic() < deadline, f"the server does not answer:\n{self.log()}"
                time.sleep(0.05)
            else:
                return

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the server by a signal; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=30 * PATIENCE)
        if self.channel is not None:
            self.channel.close()
        return code

    def restart(self, number: int = signal.SIGTERM) -> None:
        """End the server and start another one on the same directories."""
        self.stop(number)
        self.start()

    def clean(self) -> None:
        """Remove every trace of the run from the host."""
        with contextlib.suppress(Exception):
            self.stop(signal.SIGKILL)
        # What a failed test has left running, and mounted.
        kill_all(self.cgroup)
        unmount_tree(str(self.state))
        for path in (self.state, self.root, self.scratch):
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(f"/var/lib/cni/networks/{self.word}", ignore_errors=True)
        subprocess.run(["ip", "link", "delete", self.word], check=False, capture_output=True)
        if self.cgroup_driver == "systemd":
            subprocess.run(["systemctl", "stop", self.cgroup_parent()], check=False, capture_output=True)
        remove(self.cgroup)

    def log(self) -> str:
        """The end of the server's log."""
        return (self.scratch / "server.log").read_text()[-6000:]

    @property
    def runtime(self) -> Any:
        """RuntimeService's client; generated without types."""
        return api_pb2_grpc.RuntimeServiceStub(self.channel)  # type: ignore[no-untyped-call]

    @property
    def images(self) -> Any:
        """ImageService's client; generated without types."""
        return api_pb2_grpc.ImageServiceStub(self.channel)  # type: ignore[no-untyped-call]

    def load(self, layout: Path) -> own.Progress:
        """ocishim's own RPC, by the same client; its last word."""
        assert self.channel is not None
        call = self.channel.unary_stream("/ocishim.v1.Images/Load")
        *_, last = call(bytes(own.LoadRequest(path=str(layout))))
        return own.Progress().parse(last)

    def configure(self, text: str) -> None:
        """Add to the configuration; for the next start."""
        with self.config.open("a") as file:
            file.write(text)


class Pods:
    """Makes pods and containers for one test, and takes them away after it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._ids: list[str] = []

    def config(self, name: str = "", **fields: Any) -> pb.PodSandboxConfig:
        """A pod's configuration with a fresh name; its own PID namespaces unless told otherwise."""
        name = name or f"p{secrets.token_hex(4)}"
        fields.setdefault(
            "linux",
            pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(namespace_options=POD)),
        )
        return pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=name, namespace="test", uid=f"uid-{name}"),
            log_directory=str(self.node.logs / name),
            **fields,
        )

    def run(self, config: pb.PodSandboxConfig | None = None, *, handler: str = "") -> str:
        """RunPodSandbox."""
        request = pb.RunPodSandboxRequest(config=config or self.config(), runtime_handler=handler)
        sandbox_id: str = self.node.runtime.RunPodSandbox(request).pod_sandbox_id
        self._ids.append(sandbox_id)
        return sandbox_id

    def create(self, sandbox_id: str, *command: str, image: str = "busybox", name: str = "", **fields: Any) -> str:
        """CreateContainer of a command (none: the image's)."""
        name = name or f"c{secrets.token_hex(4)}"
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image=image), command=command, **fields
        )
        request = pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config)
        container_id: str = self.node.runtime.CreateContainer(request).container_id
        return container_id

    def start(self, sandbox_id: str, *command: str, **fields: Any) -> str:
        """CreateContainer and StartContainer."""
        container_id = self.create(sandbox_id, *command, **fields)
        self.node.runtime.StartContainer(pb.StartContainerRequest(container_id=container_id))
        return container_id

    def sleeper(self, sandbox_id: str, **fields: Any) -> str:
        """A container that runs until it is stopped, and ends at once on SIGTERM."""
        script = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
        return self.start(sandbox_id, "sh", "-c", script, **fields)

    def status(self, container_id: str) -> pb.ContainerStatus:
        """ContainerStatus."""
        request = pb.ContainerStatusRequest(container_id=container_id)
        found: pb.ContainerStatus = self.node.runtime.ContainerStatus(request).status
        return found

    def wait(self, container_id: str, *, within: float = 10.0) -> pb.ContainerStatus:
        """The status once the container has exited."""
        deadline = time.monotonic() + within * PATIENCE
        while (status := self.status(container_id)).state != pb.CONTAINER_EXITED:
            assert time.monotonic() < deadline, f"container {container_id} still runs"
            time.sleep(0.01)
        return status

    def exec(self, container_id: str, *command: str, timeout: int = 0) -> pb.ExecSyncResponse:
        """ExecSync."""
        request = pb.ExecSyncRequest(container_id=container_id, cmd=command, timeout=timeout)
        answer: pb.ExecSyncResponse = self.node.runtime.ExecSync(request)
        return answer

    def output(self, sandbox_id: str, *command: str, **fields: Any) -> str:
        """What a container's command writes to stdout, by its log."""
        name = f"o{secrets.token_hex(4)}"
        container_id = self.start(sandbox_id, *command, name=name, log_path=f"{name}.log", **fields)
        status = self.wait(container_id)
        lines = Path(status.log_path).read_text().splitlines()
        return "\n".join(line.split(" ", 3)[3] for line in lines if line.split(" ", 3)[1] == "stdout")

    def remove_all(self) -> None:
        """Take away whatever the test has made."""
        for sandbox_id in self._ids:
            self.node.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))


def is_cgroup_v2() -> bool:
    """Whether the host has cgroup v2 alone."""
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """Where cgroups are: one place on cgroup v2, one for each of v1's hierarchies."""
    root = Path("/sys/fs/cgroup")
    return [root] if is_cgroup_v2() else sorted(root.iterdir())


def refusal(call: Any, request: Any, **options: Any) -> tuple[grpc.StatusCode, str]:
    """The code and message of an RPC that must fail."""
    try:
        call(request, **options)
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("the call succeeded")
