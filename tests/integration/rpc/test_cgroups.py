"""Whose cgroups are which: pods' parents, monitors and pause processes, limits by configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cri_api.v1 import api_pb2 as pb

from rpc import cgroup_files as files
from rpc.node import POD, hierarchies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpc.node import Node, Pods

SHARED_PID = pb.NamespaceOption(pid=pb.POD)


def linux(parent: str = "", options: pb.NamespaceOption = POD) -> pb.LinuxPodSandboxConfig:
    return pb.LinuxPodSandboxConfig(
        cgroup_parent=parent, security_context=pb.LinuxSandboxSecurityContext(namespace_options=options)
    )


def directories(cgroup: str) -> list[Path]:
    return [path for each in hierarchies() if (path := Path(f"{each}{cgroup}")).is_dir()]


@pytest.fixture
def configured(node: Node) -> Iterator[Node]:
    """The node, whose drop-in configuration goes after the test."""
    drop_ins = Path(f"{node.config}.d")
    drop_ins.mkdir()
    try:
        yield node
    finally:
        for file in drop_ins.iterdir():
            file.unlink()
        drop_ins.rmdir()
        node.restart()


def configure(node: Node, text: str) -> None:
    Path(f"{node.config}.d/test.toml").write_text(text)
    node.restart()


def test_monitors_are_accounted_to_the_pod_and_apart_from_its_containers(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = pods.sleeper(sandbox_id)
    pid = files.monitor(node, container_id)
    for controller in ("memory", "cpu", "pids"):
        cgroup = files.of_process(pid, controller)
        assert cgroup.startswith(f"{files.of_pod(node, sandbox_id)}/")
        assert not cgroup.startswith(files.of_container(node, container_id))
    assert pid not in files.members("memory", files.of_container(node, container_id))


def test_a_pause_process_and_its_monitor_are_the_pods_too(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run(pods.config(linux=linux(options=SHARED_PID)))
    cgroup = files.of_pod(node, sandbox_id)
    pause = files.pod_info(node, sandbox_id)["pid"]
    assert isinstance(pause, int)
    assert files.of_process(pause).startswith(f"{cgroup}/")
    assert files.of_process(files.monitor(node, sandbox_id, "sandboxes")).startswith(f"{cgroup}/")


def test_killing_all_of_a_container_leaves_its_monitor_to_tell(node: Node, pods: Pods) -> None:
    script = "for i in 1 2 3; do sleep 1000 & done; trap '' TERM; while :; do sleep 0.1; done"
    container_id = pods.start(pods.run(), "sh", "-c", script, log_path="killed.log")
    node.runtime.StopContainer(pb.StopContainerRequest(container_id=container_id, timeout=0))
    assert pods.status(container_id).exit_code == 137
    assert pods.status(container_id).reason == "Error"


def test_a_missing_parent_is_made_for_the_pod_and_goes_with_it(node: Node, pods: Pods) -> None:
    parent = f"{node.cgroup}/deep/er"
    sandbox_id = pods.run(pods.config(linux=linux(parent)))
    assert directories(parent)
    pods.sleeper(sandbox_id)
    pods.remove_all()
    assert not directories(parent)
    for path in directories(f"{node.cgroup}/deep"):
        path.rmdir()


def test_pods_that_share_a_parent_do_not_take_it_from_each_other(node: Node, pods: Pods) -> None:
    parent = f"{node.cgroup}/shared"
    first, second = (pods.run(pods.config(linux=linux(parent))) for _ in range(2))
    pods.sleeper(first)
    container_id = pods.sleeper(second)
    node.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=first))
    assert pods.status(container_id).state == pb.CONTAINER_RUNNING
    assert files.of_process(files.monitor(node, container_id)).startswith(parent)
    pods.remove_all()
    assert not directories(parent), "the last one takes it away"


def test_monitors_may_have_a_cgroup_of_their_own(configured: Node, pods: Pods) -> None:
    own = f"{configured.cgroup}-monitors"
    configure(configured, f'[containers]\nmonitor_cgroup = "{own}"\n')
    try:
        container_id = pods.sleeper(pods.run())
        assert files.of_process(files.monitor(configured, container_id)) == own
        pods.remove_all()
    finally:
        for path in directories(own):
            path.rmdir()


def test_a_runtime_may_have_a_monitor_cgroup_of_its_own(configured: Node, pods: Pods) -> None:
    own = f"{configured.cgroup}-special"
    configure(configured, f'[runtimes.special]\npath = "/usr/bin/crun"\nmonitor_cgroup = "{own}"\n')
    try:
        ordinary = pods.sleeper(pods.run())
        special = pods.sleeper(pods.run(handler="special"))
        assert files.of_process(files.monitor(configured, special)) == own
        assert files.of_process(files.monitor(configured, ordinary)) != own
        pods.remove_all()
    finally:
        for path in directories(own):
            path.rmdir()


def test_processes_are_limited_by_configuration(configured: Node, pods: Pods) -> None:
    configure(configured, "[containers]\npids_limit = 37\n")
    container_id = pods.sleeper(pods.run())
    cgroup = files.of_container(configured, container_id)
    assert files.processes(cgroup) == "37"
    resources = pb.LinuxContainerResources(cpu_shares=5)
    configured.runtime.UpdateContainerResources(
        pb.UpdateContainerResourcesRequest(container_id=container_id, linux=resources)
    )
    assert files.processes(cgroup) == "37", "an update leaves it"


def test_a_pod_is_unharmed_by_a_change_of_the_monitors_place(configured: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    first = pods.sleeper(sandbox_id)
    configure(configured, f'[containers]\nmonitor_cgroup = "{configured.cgroup}-later"\n')
    second = pods.sleeper(sandbox_id)
    assert files.of_process(files.monitor(configured, second)) == files.of_process(files.monitor(configured, first))
    pods.remove_all()


def test_huge_pages_are_limited_where_the_kernel_can(node: Node, pods: Pods) -> None:
    pages = [pb.HugepageLimit(page_size="2MB", limit=4 << 20)]
    linux_config = pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(hugepage_limits=pages))
    container_id = pods.sleeper(pods.run(), linux=linux_config)
    found = [
        path for each in directories(files.of_container(node, container_id)) for path in each.glob("hugetlb.2MB.*")
    ]
    limits = [
        path.read_text().strip() for path in found if path.name in ("hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes")
    ]
    assert limits in ([], [str(4 << 20)]), "ignored only where the controller is missing"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[containers]\ncgroup_driver = "systemd"\ncgroup_parent = "x.slice"\n', "systemd is not the init system"),
        ('[containers]\ncgroup_parent = "x.slice"\n', "not in the notation of cgroupfs"),
        ('[containers]\nmonitor_cgroup = "x.slice"\n', "cgroupfs's notation"),
        ('[containers]\nmonitor_cgroup = "conmon"\n', "containers.monitor_cgroup"),
    ],
)
def test_a_configuration_that_cannot_work_is_told_at_the_start(node: Node, text: str, words: str) -> None:
    if Path("/run/systemd/system").is_dir() and "init system" in words:
        pytest.skip("systemd is the init system of this host")
    file = node.scratch / "wrong.toml"
    file.write_text(
        f'root = "{node.scratch}/r"\nstate = "{node.scratch}/s"\nlisten = "unix://{node.scratch}/l"\n{text}'
    )
    command = [sys.executable, "-m", "ocishim", "serve", "--config", str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
