"""Bad input: an error that says what is wrong, and nothing left behind (the leak check sees to that)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc.node import POD, refusal

if TYPE_CHECKING:
    from rpc.node import Node, Pods

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
UNKNOWN_ID = "f" * 64


@pytest.mark.parametrize(
    "rpc",
    [
        "RunPodSandbox",
        "StopPodSandbox",
        "RemovePodSandbox",
        "PodSandboxStatus",
        "CreateContainer",
        "StartContainer",
        "StopContainer",
        "RemoveContainer",
        "ContainerStatus",
        "ReopenContainerLog",
        "ExecSync",
    ],
)
def test_empty_requests(node: Node, rpc: str) -> None:
    code, words = refusal(getattr(node.runtime, rpc), getattr(pb, f"{rpc}Request")())
    assert code == INVALID
    assert "required" in words


def test_empty_image_requests(node: Node) -> None:
    for rpc in ("ImageStatus", "PullImage", "RemoveImage"):
        assert refusal(getattr(node.images, rpc), getattr(pb, f"{rpc}Request")())[0] == INVALID


@pytest.mark.parametrize("missing", ["name", "namespace", "uid"])
def test_missing_metadata_is_named(node: Node, pods: Pods, missing: str) -> None:
    config = pods.config()
    config.metadata.ClearField(missing)  # type: ignore[arg-type] # one of its fields
    code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=config))
    assert code == INVALID
    assert f"config.metadata.{missing}" in words


@pytest.mark.parametrize("identifier", [UNKNOWN_ID, "../../etc", "a\0b", "x" * 5000])
def test_unknown_and_climbing_ids(node: Node, identifier: str) -> None:
    runtime = node.runtime
    for call, request in (
        (runtime.PodSandboxStatus, pb.PodSandboxStatusRequest(pod_sandbox_id=identifier)),
        (runtime.CreateContainer, pb.CreateContainerRequest(pod_sandbox_id=identifier)),
        (runtime.StartContainer, pb.StartContainerRequest(container_id=identifier)),
        (runtime.ContainerStatus, pb.ContainerStatusRequest(container_id=identifier)),
        (runtime.ExecSync, pb.ExecSyncRequest(container_id=identifier, cmd=["true"])),
    ):
        assert refusal(call, request)[0] == NOT_FOUND
    runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=identifier))
    runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=identifier))
    runtime.StopContainer(pb.StopContainerRequest(container_id=identifier))
    runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=identifier))


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "a\nb"])
def test_names_that_climb(node: Node, pods: Pods, name: str) -> None:
    config = pods.config()
    config.metadata.name = name
    assert refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=config))[0] == INVALID


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("config.log_path", {"log_path": "../out.log"}),
        ("config.log_path", {"log_path": "/etc/out.log"}),
        ("config.working_dir", {"working_dir": "/a/../../b"}),
        ("config.mounts[0].container_path", {"mounts": [pb.Mount(container_path="../x", host_path="/tmp")]}),
        ("config.mounts[0].host_path", {"mounts": [pb.Mount(container_path="/x", host_path="tmp")]}),
        ("config.envs", {"envs": [pb.KeyValue(key="", value="x")]}),
        ("config.devices", {"devices": [pb.Device(container_path="/dev/x", host_path="/etc/passwd")]}),
        ("config.metadata.name", {"metadata": pb.ContainerMetadata(name="a/b")}),
    ],
)
def test_container_fields_are_named(node: Node, pods: Pods, path: str, fields: dict[str, object]) -> None:
    sandbox_id = pods.run()
    given: dict[str, object] = {"metadata": pb.ContainerMetadata(name="c"), "image": pb.ImageSpec(image="busybox")}
    config = pb.ContainerConfig(**(given | fields))  # type: ignore[arg-type] # each of its own type
    request = pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config)
    code, words = refusal(node.runtime.CreateContainer, request)
    assert code == INVALID
    assert words.startswith(path)
    assert not node.runtime.ListContainers(pb.ListContainersRequest()).containers


def test_host_network_with_net_sysctls(node: Node, pods: Pods) -> None:
    options = pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER)
    linux = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(namespace_options=options))
    linux.sysctls["net.ipv4.ip_forward"] = "1"
    request = pb.RunPodSandboxRequest(config=pods.config(linux=linux))
    assert refusal(node.runtime.RunPodSandbox, request)[0] == INVALID


def test_a_sysctl_value_that_the_kernel_refuses_leaves_nothing(node: Node, pods: Pods) -> None:
    linux = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(namespace_options=POD))
    linux.sysctls["net.ipv4.ip_forward"] = "many"
    code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=pods.config(linux=linux)))
    assert code == INVALID
    assert "net.ipv4.ip_forward" in words


def test_a_cgroup_in_the_other_drivers_notation_is_refused(node: Node, pods: Pods) -> None:
    linux = pb.LinuxPodSandboxConfig(
        cgroup_parent="kubepods.slice" if node.cgroup_driver == "cgroupfs" else "/kubepods"
    )
    code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=pods.config(linux=linux)))
    assert code == INVALID
    assert "cgroupDriver" in words


def test_bytes_that_are_no_message(node: Node) -> None:
    assert node.channel is not None
    call = node.channel.unary_unary("/runtime.v1.RuntimeService/RunPodSandbox")
    assert refusal(call, b"\x0a\xff\xff\xff\xff\x0f garbage")[0] == INVALID


def test_an_unknown_method(node: Node) -> None:
    assert node.channel is not None
    call = node.channel.unary_unary("/runtime.v1.RuntimeService/NoSuchThing")
    assert refusal(call, b"")[0] == grpc.StatusCode.UNIMPLEMENTED


def test_an_oversized_request(node: Node, pods: Pods) -> None:
    config = pods.config(annotations={"big": "x" * (17 << 20)})
    code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=config))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "bytes" in words


def test_a_large_request_is_taken(node: Node, pods: Pods) -> None:
    annotations = {"big": "x" * (15 << 20)}
    sandbox_id = pods.run(pods.config(annotations=annotations))
    status = node.runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)).status
    assert dict(status.annotations) == annotations


def test_a_compressed_request_is_refused(node: Node) -> None:
    options = [("grpc.default_compression_algorithm", int(grpc.Compression.Gzip))]
    with grpc.insecure_channel(f"unix://{node.socket}", options=options) as channel:
        call = channel.unary_unary("/runtime.v1.RuntimeService/Version")
        code, words = refusal(call, b"\x0a\x80\x02" + b"v" * 256)
        assert code == INVALID
        assert "compressed" in words


@pytest.mark.parametrize(
    "garbage", [b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64]
)
def test_garbage_on_the_socket_hurts_nobody_else(node: Node, garbage: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        connection.connect(str(node.socket))
        connection.sendall(garbage)
        try:
            while connection.recv(4096):
                pass
        except (ConnectionResetError, TimeoutError):
            pass
    assert node.runtime.Version(pb.VersionRequest()).runtime_name
