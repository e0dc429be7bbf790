"""Version, Status, RuntimeConfig, and what is not built yet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cri_api.v1 import api_pb2 as pb
from cri_api.v1alpha2 import api_pb2 as old
from cri_api.v1alpha2 import api_pb2_grpc as old_grpc

if TYPE_CHECKING:
    from rpc.node import Node, Pods


def test_the_version_is_what_kubelet_needs(node: Node) -> None:
    version = node.runtime.Version(pb.VersionRequest())
    assert version.runtime_name == "ocishim"
    assert version.version
    assert version.runtime_version
    assert version.runtime_api_version == "v1"


def test_runtime_and_network_are_ready_and_handlers_are_listed(node: Node) -> None:
    answer = node.runtime.Status(pb.StatusRequest())
    conditions = {each.type: each.status for each in answer.status.conditions}
    assert conditions == {"RuntimeReady": True, "NetworkReady": True, "OverlayReady": True}
    assert [each.name for each in answer.runtime_handlers] == ["", "crun", "runc"]
    assert not answer.info


def test_the_verbose_status_has_the_configuration(node: Node) -> None:
    info = node.runtime.Status(pb.StatusRequest(verbose=True)).info
    assert json.loads(info["config"])["default_runtime"] == node.runtime_name


def test_the_cgroup_driver_is_told(node: Node) -> None:
    assert node.runtime.RuntimeConfig(pb.RuntimeConfigRequest()).linux.cgroup_driver == pb.CGROUPFS


def test_v1alpha2_is_served_by_the_same_pods(node: Node, pods: Pods) -> None:
    runtime: Any = old_grpc.RuntimeServiceStub(node.channel)  # type: ignore[no-untyped-call]
    images: Any = old_grpc.ImageServiceStub(node.channel)  # type: ignore[no-untyped-call]
    sandbox_id = pods.run()
    container_id = pods.sleeper(sandbox_id)
    assert runtime.Version(old.VersionRequest()).runtime_name == "ocishim"
    assert [each.id for each in runtime.ListPodSandbox(old.ListPodSandboxRequest()).items] == [sandbox_id]
    status = runtime.ContainerStatus(old.ContainerStatusRequest(container_id=container_id)).status
    assert status.state == old.CONTAINER_RUNNING
    assert runtime.ExecSync(old.ExecSyncRequest(container_id=container_id, cmd=["echo", "hi"])).stdout == b"hi\n"
    assert images.ListImages(old.ListImagesRequest()).images
    assert runtime.Exec(old.ExecRequest(container_id=container_id, cmd=["true"], stdout=True)).url
