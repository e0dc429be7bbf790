"""What kubelet tells the runtime of the node, and what the runtime tells of its network."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc.node import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpc.node import Node, Pods


TEMPLATE = """{"cniVersion": "1.0.0", "name": "WORD", "plugins": [{"type": "bridge", "bridge": "WORD",
  "isGateway": true, "ipam": {"type": "host-local", "ranges": [
    {{range $i, $each := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$each}}"}]{{end}}]}}]}
"""


def told(cidr: str) -> pb.UpdateRuntimeConfigRequest:
    network = pb.NetworkConfig(pod_cidr=cidr)
    return pb.UpdateRuntimeConfigRequest(runtime_config=pb.RuntimeConfig(network_config=network))


def network_ready(node: Node) -> bool:
    found = node.runtime.Status(pb.StatusRequest()).status.conditions
    return any(each.type == "NetworkReady" and each.status for each in found)


@pytest.fixture
def template(node: Node) -> Iterator[Path]:
    """A server whose network is only a template."""
    drop_ins = Path(f"{node.config}.d")
    path = node.scratch / "template"
    drop_ins.mkdir()
    (drop_ins / "template.toml").write_text(f'[cni]\nconf_template = "{path}"\n')
    path.write_text(TEMPLATE.replace("WORD", node.word))
    (node.cni / "10.conflist").unlink()
    node.restart()
    yield path
    for left in node.cni.iterdir():
        left.unlink()
    node.network()
    (drop_ins / "template.toml").unlink()
    drop_ins.rmdir()
    node.restart()


def test_the_pod_cidr_makes_the_network_of_the_template(node: Node, pods: Pods, template: Path) -> None:
    assert not network_ready(node)
    node.runtime.UpdateRuntimeConfig(told(f"{node.subnet}.0/24"))
    assert network_ready(node)
    sandbox_id = pods.run()
    status = node.runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)).status
    assert status.network.ip.startswith(node.subnet)
    code, words = refusal(node.runtime.UpdateRuntimeConfig, told("10.0.0.0/99"))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "10.0.0.0/99" in words
    template.write_text("{{.Nonsense}}")
    code, words = refusal(node.runtime.UpdateRuntimeConfig, told("10.0.0.0/24"))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "{{.Nonsense}}" in words


def test_without_a_template_the_pod_cidr_changes_nothing(node: Node) -> None:
    before = sorted(path.name for path in node.cni.iterdir())
    node.runtime.UpdateRuntimeConfig(told("10.0.0.0/24"))
    assert sorted(path.name for path in node.cni.iterdir()) == before


def test_the_verbose_status_tells_the_network_in_use(node: Node) -> None:
    info = node.runtime.Status(pb.StatusRequest(verbose=True)).info
    used = json.loads(info["cniconfig"])
    assert used["file"] == str(node.cni / "10.conflist")
    assert used["network"]["name"] == node.word
    assert info["lastCNILoadStatus"] == "OK"
    (node.cni / "10.conflist").write_text("{")
    try:
        deadline = time.monotonic() + 5
        while (
            "10.conflist" not in (said := node.runtime.Status(pb.StatusRequest(verbose=True)).info)["lastCNILoadStatus"]
        ):
            assert time.monotonic() < deadline
        assert json.loads(said["cniconfig"])["network"] is None
    finally:
        node.network()
