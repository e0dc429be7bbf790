"""Images over the RPCs: names, identity, removal. Pulling itself is tested in tests/integration/images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc.node import refusal

if TYPE_CHECKING:
    from rpc.node import Node, Pods


def find(node: Node, name: str) -> pb.Image:
    found: pb.Image = node.images.ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image=name))).image
    return found


def test_an_image_answers_alike_to_all_its_names(node: Node) -> None:
    image = find(node, "busybox")
    assert image.id.startswith("sha256:")
    assert list(image.repo_tags) == ["docker.io/library/busybox:latest"]
    assert image.repo_digests[0].startswith("docker.io/library/busybox@sha256:")
    bare = image.id.removeprefix("sha256:")
    for name in ("busybox:latest", "docker.io/library/busybox", image.id, bare, bare[:12], image.repo_digests[0]):
        assert find(node, name) == image


def test_an_image_that_is_not_here_is_an_empty_answer(node: Node) -> None:
    answer = node.images.ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image="absent")))
    assert not answer.HasField("image")


def test_a_named_user_is_a_username_and_no_uid(node: Node) -> None:
    assert find(node, "user").username == "alice"
    assert not find(node, "user").HasField("uid")
    assert (find(node, "busybox").username, find(node, "busybox").HasField("uid")) == ("", False)


def test_lists_show_all_or_the_one_asked_for(node: Node) -> None:
    names = {tag for image in node.images.ListImages(pb.ListImagesRequest()).images for tag in image.repo_tags}
    assert {"docker.io/library/busybox:latest", "docker.io/library/entry:latest"} <= names
    request = pb.ListImagesRequest(filter=pb.ImageFilter(image=pb.ImageSpec(image="entry")))
    assert [image.id for image in node.images.ListImages(request).images] == [find(node, "entry").id]


def test_the_identifier_is_one_everywhere(node: Node, pods: Pods) -> None:
    container_id = pods.create(pods.run(), "true", image="entry")
    status = pods.status(container_id)
    listed = node.runtime.ListContainers(pb.ListContainersRequest()).containers[0]
    assert {status.image_id, status.image_ref, listed.image_id, listed.image_ref} == {find(node, "entry").id}


def test_a_removed_image_is_gone_at_once_and_its_containers_go_on(node: Node, pods: Pods, layout: Path) -> None:
    container_id = pods.sleeper(pods.run(), image="stopper")
    for _ in range(2):
        node.images.RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image="stopper")))
    try:
        assert not find(node, "stopper").id
        assert pods.exec(container_id, "echo", "alive").stdout == b"alive\n"
        status = pods.status(container_id)
        assert status.image.image == "stopper"
        assert status.image_ref
    finally:
        node.load(layout)
    assert find(node, "stopper").id


def test_the_filesystems_have_a_size_and_a_mount_point(node: Node) -> None:
    answer = node.images.ImageFsInfo(pb.ImageFsInfoRequest())
    images, containers = answer.image_filesystems[0], answer.container_filesystems[0]
    assert images.used_bytes.value > 1 << 20
    assert images.inodes_used.value > 100
    for usage in (images, containers):
        assert usage.timestamp
        assert Path(usage.fs_id.mountpoint).is_dir()
        assert usage.fs_id.mountpoint.startswith(str(node.root))


def test_what_containers_write_is_counted(node: Node, pods: Pods) -> None:
    container_id = pods.start(pods.run(), "sh", "-c", "head -c 3000000 /dev/zero > /written; sleep 1000")
    pods.exec(container_id, "sh", "-c", "while [ $(stat -c %s /written) -lt 3000000 ]; do sleep 0.01; done")
    deadline = time.monotonic() + 30
    while True:
        usage = node.images.ImageFsInfo(pb.ImageFsInfoRequest()).container_filesystems[0]
        if usage.used_bytes.value >= 3_000_000:
            return
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_an_unreachable_registry_is_unavailable_in_kubelets_words(node: Node) -> None:
    request = pb.PullImageRequest(image=pb.ImageSpec(image="127.0.0.1:1/no/where:1"))
    code, words = refusal(node.images.PullImage, request)
    assert code == grpc.StatusCode.UNAVAILABLE
    assert words.startswith("RegistryUnavailable")


@pytest.mark.parametrize("name", ["", "UPPER//case", "a b", "x@sha256:short"])
def test_a_name_that_is_none_is_refused(node: Node, name: str) -> None:
    request = pb.PullImageRequest(image=pb.ImageSpec(image=name))
    assert refusal(node.images.PullImage, request)[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_a_path_that_is_no_layout_is_refused(node: Node, tmp_path: Path) -> None:
    for path, code in ((tmp_path, grpc.StatusCode.INVALID_ARGUMENT), (tmp_path / "gone", grpc.StatusCode.NOT_FOUND)):
        with pytest.raises(grpc.RpcError) as raised:
            node.load(path)
        assert raised.value.code() == code
