"""Pods with user namespaces and a server that is killed: whatever the moment, a retry mends it and nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc import leaks
from rpc.mapped import mapped, options, said
from rpc.node import Node, Pods

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DELAYS = (0.002, 0.007, 0.02)
"""Seconds into a call, of which most take 20 to 60 ms."""


@pytest.fixture
def own(node: Node, layout: Path) -> Iterator[Node]:
    """A server of this test's own, with a leak check of its own."""
    made = Node(node.runtime_name)
    try:
        made.prepare()
        made.start()
        made.load(layout)
        before = leaks.held(made)
        yield made
        leaked = leaks.compare(made, before)
        assert not leaked, "left on the host:\n" + "\n".join(leaked) + f"\nserver:\n{made.log()}"
    finally:
        made.clean()


@pytest.fixture
def pods(own: Node) -> Iterator[Pods]:
    made = Pods(own)
    try:
        yield made
    finally:
        made.remove_all()


def config(pods: Pods) -> pb.PodSandboxConfig:
    context = pb.LinuxSandboxSecurityContext(namespace_options=options(pid=pb.POD))
    return pods.config(linux=pb.LinuxPodSandboxConfig(security_context=context))


def ignoring(operation: Callable[[], object]) -> None:
    """The answer is lost with the server."""
    try:
        operation()
    except (grpc.RpcError, ValueError, AssertionError):
        pass


def killed_after(node: Node, delay: float, operation: Callable[[], object]) -> None:
    threading.Thread(target=ignoring, args=(operation,), daemon=True).start()
    time.sleep(delay)
    node.restart(signal.SIGKILL)


def test_a_kill_while_the_pod_is_made_is_mended_by_the_retry(own: Node, pods: Pods) -> None:
    wanted = config(pods)
    for delay in DELAYS:
        killed_after(own, delay, lambda: pods.run(wanted))
    sandbox_id = pods.run(wanted)
    assert [each.id for each in own.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items] == [sandbox_id]
    assert [path.name for path in (own.state / "sandboxes").iterdir()] == [sandbox_id]
    assert said(pods, pods.sleeper(sandbox_id), "id", "-u") == "0"


def test_a_kill_while_a_container_is_made_or_removed_harms_no_volume(own: Node, pods: Pods) -> None:
    volume = own.scratch / "volume"
    volume.mkdir()
    (volume / "precious").write_text("kept")
    layers = sorted(path.name for path in (own.root / "images/layers").rglob("*"))
    sandbox_id = pods.run(config(pods))
    mounts = [mapped(volume), mapped(volume / "precious", "/etc/one")]

    def create() -> pb.RemoveContainerRequest:
        return pb.RemoveContainerRequest(container_id=pods.create(sandbox_id, "sleep", "1000", name="c", mounts=mounts))

    for delay in DELAYS:
        killed_after(own, delay, create)
        request = create()
        killed_after(own, delay, partial(own.runtime.RemoveContainer, request))
        own.runtime.RemoveContainer(request)
        assert list((own.state / "containers").iterdir()) == []
    assert (volume / "precious").read_text() == "kept"
    assert sorted(path.name for path in (own.root / "images/layers").rglob("*")) == layers


PROGRAM = """
import os, signal, sys
from ocishim.linux import userns
from ocishim.translate.userns import IdMappings, IdRange
held = open("/etc/hostname")
ids = (IdRange(0, 100000, 1),)
def work(pid):
    with open(sys.argv[1], "w") as file:
        file.write(str(pid))
    os.kill(os.getpid(), signal.SIGKILL)
userns.inside(IdMappings(ids, ids), 0, work)
"""


def test_what_a_kill_leaves_of_making_a_namespace_holds_nothing(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(told)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    pid = int(told.read_text())
    try:
        assert os.listdir(f"/proc/{pid}/fd") == []
    finally:
        os.kill(pid, signal.SIGKILL)
