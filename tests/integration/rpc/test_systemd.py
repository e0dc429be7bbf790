"""Pods on a host that systemd runs and changes, with the systemd cgroup driver: one server for all tests."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cri_api.v1 import api_pb2 as pb

from ocishim.runtime.choice import refusal
from rpc import cgroup_files as files
from rpc.node import PATIENCE, Node, is_cgroup_v2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpc.node import Pods

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        not Path("/run/systemd/system").is_dir(), reason="systemd is not this host's init; ./dev test-vm has one"
    ),
]
MIB = 1 << 20


@pytest.fixture(scope="module", params=["crun", "runc"])
def node(request: pytest.FixtureRequest, layout: Path) -> Iterator[Node]:
    """A server with the systemd driver."""
    why = refusal(request.param, f"/usr/bin/{request.param}")
    assert why is None, f"{request.param} cannot run here: {why}"
    made = Node(request.param, "systemd")
    try:
        made.prepare()
        made.start()
        made.load(layout)
        yield made
        assert made.stop() == 0
    finally:
        made.clean()


def limits(memory: int, cpu_quota: int = 0) -> pb.LinuxContainerConfig:
    resources = pb.LinuxContainerResources(
        memory_limit_in_bytes=memory, cpu_quota=cpu_quota, cpu_period=100_000 if cpu_quota else 0
    )
    return pb.LinuxContainerConfig(resources=resources)


def kill(node: Node, container_id: str) -> None:
    """As an administrator does, with SIGKILL from the host."""
    for pid in files.members("memory", files.of_container(node, container_id)):
        os.kill(pid, signal.SIGKILL)


def systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], check=False, capture_output=True, text=True, timeout=60 * PATIENCE)
    return done.stdout.strip()


def test_limits_hold_when_systemd_sets_its_units_anew(node: Node, pods: Pods) -> None:
    container_id = pods.sleeper(pods.run(), linux=limits(64 * MIB, 20_000))
    cgroup = files.of_container(node, container_id)
    systemctl("daemon-reload")
    systemctl("set-property", "--runtime", os.path.basename(cgroup), "TasksMax=1000")
    assert files.processes(cgroup) == "1000"
    assert files.memory(cgroup) == 64 * MIB
    assert files.cpu(cgroup) == (20_000, 100_000)


@pytest.mark.skipif(not is_cgroup_v2(), reason="cgroup v1's slices count no OOM kills of cgroups that are gone")
def test_of_a_pods_containers_that_are_killed_the_one_that_outgrew_its_memory_is_oom_killed(
    node: Node, pods: Pods
) -> None:
    sandbox_id = pods.run()
    others = [pods.sleeper(sandbox_id) for _ in range(3)]
    kill(node, others[0])
    assert pods.wait(others[0]).reason == "Error"
    grow = ("sh", "-c", "x=a; while :; do x=$x$x; done")
    greedy = pods.start(sandbox_id, *grow, linux=limits(24 * MIB))
    ended = pods.wait(greedy, within=60)
    assert (ended.exit_code, ended.reason) == (137, "OOMKilled")
    kill(node, others[1])
    assert pods.wait(others[1]).reason == "Error"
    for ended_id in (others[0], greedy, others[1]):
        node.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=ended_id))
    node.restart(signal.SIGTERM)
    kill(node, others[2])
    assert pods.wait(others[2]).reason == "Error"
    assert pods.wait(pods.start(sandbox_id, *grow, linux=limits(24 * MIB)), within=60).reason == "OOMKilled"


def test_a_command_runs_in_the_containers_scope(node: Node, pods: Pods) -> None:
    container_id = pods.start(pods.run(), "sleep", "1000")
    cgroup = files.of_container(node, container_id)
    before = files.members("memory", cgroup)
    pods.exec(container_id, "sh", "-c", "sleep 1000 >/dev/null 2>&1 &")
    assert files.members("memory", cgroup) > before


def test_a_scope_stopped_by_the_administrator_is_an_exit(node: Node, pods: Pods) -> None:
    container_id = pods.start(pods.run(), "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done")
    pods.exec(container_id, "true")
    systemctl("stop", os.path.basename(files.of_container(node, container_id)))
    assert pods.wait(container_id).exit_code == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_next_server_takes_slices_and_scopes_over(node: Node, pods: Pods, number: int) -> None:
    sandbox_id = pods.run()
    container_id = pods.sleeper(sandbox_id)
    units = [os.path.basename(of) for of in (files.of_container(node, container_id), files.of_pod(node, sandbox_id))]
    node.restart(number)
    assert pods.status(container_id).state == pb.CONTAINER_RUNNING
    assert [systemctl("is-active", unit) for unit in units] == ["active", "active"]
    pods.remove_all()
    assert [systemctl("is-active", unit) for unit in units] == ["inactive", "inactive"]
