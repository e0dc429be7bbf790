"""Pods with a user namespace of their own, and volumes with the ids of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cri_api.v1 import api_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

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


def user(uid: int, gid: int, **fields: Any) -> pb.LinuxContainerConfig:
    context = pb.LinuxContainerSecurityContext(
        run_as_user=pb.Int64Value(value=uid), run_as_group=pb.Int64Value(value=gid), **fields
    )
    return pb.LinuxContainerConfig(security_context=context)
