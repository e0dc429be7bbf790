"""Volumes with mapped ids, with user namespaces and without: what is on disk is the pod's, and stays as it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb
from images import making

from ocishim.linux import mount
from rpc.mapped import FIRST, SECOND, ids, mapped, pod, said
from rpc.node import refusal

if TYPE_CHECKING:
    from rpc.node import Node, Pods


def test_a_volume_with_the_pods_ids_is_owned_as_on_disk(node: Node, pods: Pods) -> None:
    volume = node.scratch / "volume"
    (volume / "below").mkdir(parents=True)
    (volume / "file").write_text("mine")
    os.chown(volume / "below", 7, 8)
    container_id = pods.sleeper(
        pod(pods), mounts=[mapped(volume), mapped(volume / "file", "/etc/one"), mapped(volume, "/ro", readonly=True)]
    )
    assert said(pods, container_id, "stat", "-c", "%u:%g", "/vol/file", "/vol/below", "/etc/one").split() == [
        "0:0",
        "7:8",
        "0:0",
    ]
    said(pods, container_id, "sh", "-c", "echo x > /vol/new; chown 5:6 /vol/new; echo y > /etc/one")
    found = (volume / "new").stat()
    assert (found.st_uid, found.st_gid) == (5, 6)
    assert (volume / "file").read_text() == "y\n"
    assert b"Read-only" in pods.exec(container_id, "touch", "/ro/x").stderr


def test_a_volume_without_mappings_belongs_to_nobody(node: Node, pods: Pods) -> None:
    volume = node.scratch / "plain"
    volume.mkdir(exist_ok=True)
    container_id = pods.sleeper(pod(pods), mounts=[pb.Mount(container_path="/vol", host_path=str(volume))])
    assert said(pods, container_id, "stat", "-c", "%u", "/vol") == "65534"
    assert pods.exec(container_id, "touch", "/vol/x").exit_code != 0


def test_ids_of_a_mount_are_mapped_without_a_user_namespace_too(node: Node, pods: Pods) -> None:
    volume = node.scratch / "shifted"
    volume.mkdir(exist_ok=True)
    (volume / "file").touch()
    two = [
        pb.IDMapping(container_id=0, host_id=1000, length=1),
        pb.IDMapping(container_id=1, host_id=SECOND, length=9),
    ]
    mount = pb.Mount(container_path="/vol", host_path=str(volume), uidMappings=two, gidMappings=two)
    container_id = pods.sleeper(pods.run(), mounts=[mount])
    assert said(pods, container_id, "stat", "-c", "%u:%g", "/vol/file") == "1000:1000"
    said(pods, container_id, "chown", f"{SECOND + 3}:1000", "/vol/file")
    assert (volume / "file").stat().st_uid == 4


def test_a_volume_that_cannot_be_mapped_is_refused_by_name(node: Node, pods: Pods) -> None:
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image="busybox"), mounts=[mapped(Path("/proc"))]
    )
    request = pb.CreateContainerRequest(pod_sandbox_id=pod(pods), config=config)
    code, words = refusal(node.runtime.CreateContainer, request)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "config.mounts[0]" in words
    assert "(proc)" in words


def test_mounts_in_a_mapped_volume_stay_on_the_host(node: Node, pods: Pods, shared_volume: Path) -> None:
    sandbox_id = pod(pods)
    container_id = pods.sleeper(
        sandbox_id, mounts=[mapped(shared_volume, propagation=pb.PROPAGATION_HOST_TO_CONTAINER)]
    )
    assert said(pods, container_id, "stat", "-c", "%u", "/vol/inner/file") == "0"
    late = shared_volume / "late"
    late.mkdir()
    mount.mount("tmpfs", str(late), "tmpfs")
    try:
        (late / "file").touch()
        said(pods, container_id, "ls", "/vol/late/file")
    finally:
        mount.unmount(str(late))
    node.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))
    assert os.path.ismount(shared_volume / "inner")


@pytest.fixture
def shared_volume(node: Node) -> Any:
    """A shared mount with another one in it, as kubelet's directories are on a systemd host."""
    volume = node.scratch / "sha red"
    inner = volume / "inner"
    volume.mkdir(exist_ok=True)
    mount.mount("tmpfs", str(volume), "tmpfs")
    mount.make_shared(str(volume))
    inner.mkdir()
    mount.mount("tmpfs", str(inner), "tmpfs")
    (inner / "file").touch()
    yield volume
    mount.unmount(str(inner))
    mount.unmount(str(volume))


def test_a_read_only_mount_is_so_to_its_depths_where_they_say_so(pods: Pods, shared_volume: Path) -> None:
    asked: dict[str, Any] = {"readonly": True, "recursive_read_only": True}
    plain = pb.Mount(container_path="/vol", host_path=str(shared_volume), **asked)
    own = pod(pods)
    for sandbox_id, mounted in ((pods.run(), plain), (own, plain), (own, mapped(shared_volume, **asked))):
        container_id = pods.sleeper(sandbox_id, mounts=[mounted])
        assert b"Read-only" in pods.exec(container_id, "touch", "/vol/inner/x").stderr


def test_an_image_volume_is_the_pods_roots(node: Node, pods: Pods, tmp_path: Path) -> None:
    made = making.image(making.tar(making.member("models/one", data=b"1")), making.tar(making.member("models/two")))
    node.load(making.write_layout(tmp_path / "layout", made, "example.com/mapped:1"))
    volume = pb.Mount(
        container_path="/vol",
        readonly=True,
        image=pb.ImageSpec(image="example.com/mapped:1"),
        uidMappings=ids(FIRST),
        gidMappings=ids(FIRST),
    )
    container_id = pods.sleeper(pod(pods), mounts=[volume])
    assert said(pods, container_id, "stat", "-c", "%u:%g", "/vol", "/vol/models/one").split() == ["0:0"] * 2
    assert said(pods, container_id, "cat", "/vol/models/one") == "1"
