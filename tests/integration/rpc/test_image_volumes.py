"""Images as volumes (KEP-4639): read-only, by sub-path, and no way out of them."""

from __future__ import annotations

import secrets
import signal
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb
from images import making

from ocishim.api.runtime import v1
from rpc.node import Node, refusal

if TYPE_CHECKING:
    from pathlib import Path

    from rpc.node import Pods

NAME = "example.com/volume:1"


@pytest.fixture
def volume(node: Node, tmp_path: Path) -> str:
    """An image of two layers with links that would lead out; returns its id."""
    made = making.image(
        making.tar(
            making.member("models/one", data=b"1"),
            making.member("models/gone", data=b"old"),
            making.link("out", "/etc"),
            making.link("models/up", "../../../../../../etc"),
            making.member(f"seed-{secrets.token_hex(4)}"),
        ),
        making.tar(
            making.member("models/.wh.gone"),
            making.member("models/two", data=b"2", mode=0o755),
            making.member(f"seed-{secrets.token_hex(4)}"),
        ),
    )
    node.load(making.write_layout(tmp_path / "layout", made, NAME))
    return made.id


def mount(path: str = "/vol", **fields: object) -> pb.Mount:
    fields = {"readonly": True, "image": pb.ImageSpec(image=NAME), **fields}
    return pb.Mount(container_path=path, **fields)  # type: ignore[arg-type]


def test_an_image_is_seen_whole_and_cannot_be_written(node: Node, pods: Pods, volume: str) -> None:
    container_id = pods.sleeper(pods.run(), mounts=[mount(), mount("/vol2")])
    assert pods.exec(container_id, "ls", "-A", "/vol/models").stdout.split() == [b"one", b"two", b"up"]
    assert pods.exec(container_id, "cat", "/vol2/models/two").stdout == b"2"
    assert b"Read-only" in pods.exec(container_id, "touch", "/vol/models/new").stderr
    # Google's generated classes are of an older schema and keep the new field as it came.
    shown = v1.Mount().parse(pods.status(container_id).mounts[0].SerializeToString())
    assert shown.image.image == NAME
    assert shown.image.image_ref.startswith("example.com/volume@sha256:")
    assert node.images.ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image=NAME))).image.id == volume


@pytest.mark.usefixtures("volume")
def test_a_sub_path_is_mounted_alone(pods: Pods) -> None:
    mounts = [mount(image_sub_path="models"), mount("/file", image_sub_path="/models/two")]
    container_id = pods.sleeper(pods.run(), mounts=mounts)
    assert pods.exec(container_id, "cat", "/vol/one", "/file").stdout == b"12"


@pytest.mark.usefixtures("volume")
@pytest.mark.parametrize("path", ["out", "models/up", "../../../../etc", "out/passwd", "missing"])
def test_a_sub_path_does_not_lead_out(node: Node, pods: Pods, path: str) -> None:
    """/etc is not in the image: what resolves inside of it is missing."""
    sandbox_id = pods.run()
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"),
        image=pb.ImageSpec(image="busybox"),
        command=["sh"],
        mounts=[mount(image_sub_path=path)],
    )
    code, message = refusal(
        node.runtime.CreateContainer, pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config)
    )
    assert code is grpc.StatusCode.NOT_FOUND
    assert "ImageVolumeMountFailed" in message
    assert repr(path) in message


@pytest.mark.usefixtures("volume")
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"readonly": False}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"host_path": "/etc"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"propagation": pb.PROPAGATION_BIDIRECTIONAL}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"image": pb.ImageSpec(image="example.com/nowhere:1")}, grpc.StatusCode.NOT_FOUND),
    ],
)
def test_what_cannot_be_mounted_is_refused(
    node: Node, pods: Pods, wrong: dict[str, Any], code: grpc.StatusCode
) -> None:
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"),
        image=pb.ImageSpec(image="busybox"),
        command=["sh"],
        mounts=[mount(**wrong)],
    )
    request = pb.CreateContainerRequest(pod_sandbox_id=pods.run(), config=config)
    found, message = refusal(node.runtime.CreateContainer, request)
    assert found is code
    assert "ImageVolumeMountFailed" in message


def test_an_image_in_use_as_a_volume_keeps_its_layers(node: Node, pods: Pods, volume: str) -> None:
    layers = node.root / "images/layers"
    before = {path.name for path in layers.iterdir()}
    container_id = pods.sleeper(pods.run(), mounts=[mount()])
    node.images.RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image=volume)))
    assert pods.exec(container_id, "cat", "/vol/models/one").stdout == b"1"
    node.restart(signal.SIGKILL)
    assert {path.name for path in layers.iterdir()} == before
    assert pods.exec(container_id, "cat", "/vol/models/one").stdout == b"1"
    node.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container_id))
    assert len({path.name for path in layers.iterdir()}) == len(before) - 2
