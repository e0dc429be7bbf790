"""Pods with a user namespace of their own: root inside is nobody on the host, and still owns what is the pod's."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc.node import refusal

if TYPE_CHECKING:
    from rpc.node import Node, Pods

FIRST, SECOND, LENGTH = 200_000, 400_000, 65_536


def ids(host: int, length: int = LENGTH) -> list[pb.IDMapping]:
    return [pb.IDMapping(host_id=host, container_id=0, length=length)]


def options(host: int = FIRST, length: int = LENGTH, **modes: Any) -> pb.NamespaceOption:
    users = pb.UserNamespace(mode=pb.POD, uids=ids(host, length), gids=ids(host, length))
    modes.setdefault("pid", pb.CONTAINER)
    return pb.NamespaceOption(userns_options=users, **modes)


def pod(
    pods: Pods, host: int = FIRST, *, length: int = LENGTH, sysctls: dict[str, str] | None = None, **modes: Any
) -> str:
    context = pb.LinuxSandboxSecurityContext(namespace_options=options(host, length, **modes))
    return pods.run(pods.config(linux=pb.LinuxPodSandboxConfig(security_context=context, sysctls=sysctls or {})))


def said(pods: Pods, container_id: str, *command: str) -> str:
    """What a command says in a container; it must succeed."""
    answer = pods.exec(container_id, *command)
    assert answer.exit_code == 0, answer.stderr
    return answer.stdout.decode().strip()


def container_pid(node: Node, container_id: str) -> int:
    return int((node.state / "containers" / container_id / "pidfile").read_text())


def mapped(host_path: Path, container_path: str = "/vol", host: int = FIRST, **fields: Any) -> pb.Mount:
    return pb.Mount(
        container_path=container_path, host_path=str(host_path), uidMappings=ids(host), gidMappings=ids(host), **fields
    )


def test_root_in_the_pod_is_a_user_of_the_range_on_the_host(node: Node, pods: Pods) -> None:
    container_id = pods.sleeper(pod(pods))
    assert said(pods, container_id, "cat", "/proc/self/uid_map").split() == ["0", str(FIRST), str(LENGTH)]
    assert said(pods, container_id, "cat", "/proc/self/gid_map").split() == ["0", str(FIRST), str(LENGTH)]
    assert said(pods, container_id, "id", "-u") == "0"
    assert os.stat(f"/proc/{container_pid(node, container_id)}").st_uid == FIRST
