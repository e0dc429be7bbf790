"""The CRI as it was first published, by a client that Google's tools make of its definition."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from rpc import first_version
from rpc.node import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import SimpleNamespace

    from rpc.node import Node


@pytest.fixture(scope="session")
def pb(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The messages."""
    return first_version.messages(tmp_path_factory.mktemp("first"))


class First:
    """A client, and the pods it has made."""

    def __init__(self, node: Node, pb: SimpleNamespace) -> None:
        assert node.channel is not None
        self.node, self.pb = node, pb
        self.runtime: Any = first_version.stub(node.channel, pb.services["RuntimeService"], pb)
        self.images: Any = first_version.stub(node.channel, pb.services["ImageService"], pb)
        self.pods: list[str] = []

    def config(self, name: str, **fields: Any) -> Any:
        metadata = self.pb.PodSandboxMetadata(name=name, namespace="old", uid=f"uid-{name}")
        return self.pb.PodSandboxConfig(metadata=metadata, log_directory=str(self.node.logs / name), **fields)

    def run(self, config: Any) -> str:
        sandbox_id: str = self.runtime.RunPodSandbox(self.pb.RunPodSandboxRequest(config=config)).pod_sandbox_id
        self.pods.append(sandbox_id)
        return sandbox_id

    def start(self, sandbox_id: str, config: Any, name: str, *command: str, **fields: Any) -> str:
        pb = self.pb
        container = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image="busybox"), command=command, **fields
        )
        request = pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=container, sandbox_config=config)
        container_id: str = self.runtime.CreateContainer(request).container_id
        self.runtime.StartContainer(pb.StartContainerRequest(container_id=container_id))
        return container_id

    def output(self, sandbox_id: str, config: Any, name: str, *command: str, **fields: Any) -> str:
        container_id = self.start(sandbox_id, config, name, *command, log_path=f"{name}.log", **fields)
        deadline = time.monotonic() + 10
        while (status := self.status(container_id)).state != 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return "\n".join(line.split(" ", 3)[3] for line in Path(status.log_path).read_text().splitlines())

    def status(self, container_id: str) -> Any:
        return self.runtime.ContainerStatus(self.pb.ContainerStatusRequest(container_id=container_id)).status


@pytest.fixture
def first(node: Node, pb: SimpleNamespace) -> Iterator[First]:
    made = First(node, pb)
    yield made
    for sandbox_id in made.pods:
        made.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))


def test_a_pods_whole_life(first: First) -> None:
    pb, runtime = first.pb, first.runtime
    config = first.config("life", labels={"app": "x"})
    sandbox_id = first.run(config)
    assert first.run(config) == sandbox_id
    status = runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)).status
    assert status.network.ip.startswith(first.node.subnet)
    assert not status.linux.namespaces.options.host_network
    listed = runtime.ListPodSandbox(pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector={"app": "x"})))
    assert [each.id for each in listed.items] == [sandbox_id]
    container_id = first.start(sandbox_id, config, "one", "sleep", "1000", envs=[pb.KeyValue(key="A", value="é")])
    ran = runtime.ExecSync(pb.ExecSyncRequest(container_id=container_id, cmd=["sh", "-c", "echo $A"]))
    assert ran.stdout.decode() == "é\n"
    assert [each.id for each in runtime.ListContainers(pb.ListContainersRequest()).containers] == [container_id]
    runtime.StopContainer(pb.StopContainerRequest(container_id=container_id, timeout=0))
    assert first.status(container_id).exit_code == 137
    runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container_id))
    runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))


def test_the_bools_of_namespaces_are_obeyed_and_told(first: First) -> None:
    pb = first.pb
    options = pb.NamespaceOption(host_network=True, host_pid=True, host_ipc=True)
    linux = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(namespace_options=options))
    config = first.config("hosts", linux=linux)
    sandbox_id = first.run(config)
    status = first.runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)).status
    assert status.linux.namespaces.options == options
    context = pb.LinuxContainerSecurityContext(namespace_options=options)
    inside = first.output(
        sandbox_id,
        config,
        "look",
        *("sh", "-c", "for kind in net pid ipc; do readlink /proc/self/ns/$kind; done"),
        linux=pb.LinuxContainerConfig(security_context=context),
    )
    outside = [Path(f"/proc/self/ns/{kind}").readlink().name for kind in ("net", "pid", "ipc")]
    assert inside.split() == outside


def test_containers_have_processes_of_their_own(first: First) -> None:
    config = first.config("own")
    sandbox_id = first.run(config)
    assert first.output(sandbox_id, config, "look", "sh", "-c", "echo $$") == "1"


def test_profiles_and_sysctls_come_as_annotations(first: First) -> None:
    annotations = {
        "security.alpha.kubernetes.io/sysctls": "kernel.shm_rmid_forced=1",
        "container.seccomp.security.alpha.kubernetes.io/filtered": "runtime/default",
    }
    config = first.config("annotated", annotations=annotations)
    sandbox_id = first.run(config)
    script = "cat /proc/sys/kernel/shm_rmid_forced; grep Seccomp: /proc/self/status"
    assert first.output(sandbox_id, config, "filtered", "sh", "-c", script).split() == ["1", "Seccomp:", "2"]
    assert first.output(sandbox_id, config, "free", "sh", "-c", script).split() == ["1", "Seccomp:", "0"]


def test_the_kernels_secrets_are_hidden(first: First) -> None:
    config = first.config("hidden")
    sandbox_id = first.run(config)
    assert any(Path("/sys/firmware").iterdir())
    assert first.output(sandbox_id, config, "look", "ls", "-A", "/sys/firmware") == ""
    assert "Read-only" in first.output(
        sandbox_id, config, "touch", "sh", "-c", "echo 1 > /proc/sys/vm/swappiness; true"
    )


def test_bad_settings_are_refused_by_name(first: First) -> None:
    pb = first.pb
    config = first.config("bad", annotations={"security.alpha.kubernetes.io/sysctls": "nonsense"})
    code, words = refusal(first.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=config))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert words.startswith("config.annotations[security.alpha.kubernetes.io/sysctls]: 'nonsense'")
    request = pb.ContainerStatusRequest(container_id="none")
    assert refusal(first.runtime.ContainerStatus, request)[0] == grpc.StatusCode.NOT_FOUND


def test_images_and_their_filesystem(first: First) -> None:
    pb = first.pb
    listed = first.images.ListImages(pb.ListImagesRequest()).images
    assert listed
    found = first.images.ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image="busybox"))).image
    assert found.id in {each.id for each in listed}
    (usage,) = first.images.ImageFsInfo(pb.ImageFsInfoRequest()).image_filesystems
    assert uuid.UUID(usage.storage_id.uuid)
    assert usage.used_bytes.value > 0


def test_statistics_name_the_filesystem_by_its_uuid(first: First) -> None:
    pb, runtime = first.pb, first.runtime
    config = first.config("stats")
    sandbox_id = first.run(config)
    container_id = first.start(sandbox_id, config, "one", "sleep", "1000")
    deadline = time.monotonic() + 10
    while True:  # its writable layer is counted soon after its start
        stats = runtime.ContainerStats(pb.ContainerStatsRequest(container_id=container_id)).stats
        if stats.HasField("writable_layer"):
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert stats.memory.working_set_bytes.value > 0
    (listed,) = runtime.ListContainerStats(pb.ListContainerStatsRequest()).stats
    assert listed.attributes == stats.attributes
    (images,) = first.images.ImageFsInfo(pb.ImageFsInfoRequest()).image_filesystems
    assert listed.writable_layer.storage_id == stats.writable_layer.storage_id == images.storage_id


def test_version_and_status(first: First) -> None:
    version = first.runtime.Version(first.pb.VersionRequest(version="0.1.0"))
    assert (version.version, version.runtime_name, version.runtime_api_version) == ("0.1.0", "ocishim", "v1alpha1")
    conditions = first.runtime.Status(first.pb.StatusRequest()).status.conditions
    assert {each.type for each in conditions} >= {"RuntimeReady", "NetworkReady"}
