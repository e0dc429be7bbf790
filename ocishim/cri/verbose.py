"""The `info` of verbose statuses: JSON under the names that crictl inspect and people's scripts know."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.network.cni import Cni


def sandbox_info(node: Node, sandbox: Sandbox) -> dict[str, str]:
    """What there is to know of a pod beyond its status."""
    paths = node.layout.sandbox(sandbox.metadata.id)
    pause = sandbox.status.pause
    info = {
        "pid": pause.pid if pause else 0,
        "runtime": sandbox.metadata.runtime,
        "cgroupParent": sandbox.metadata.cgroup_parent,
        "namespaces": {kind: f"{paths.namespaces}/{kind}" for kind in sandbox.metadata.namespaces},
        "config": sandbox.config.to_dict(),
    }
    return {"info": json.dumps(info)}


async def container_info(node: Node, container: Container) -> dict[str, str]:
    """What there is to know of a container beyond its status."""
    process = container.status.process
    info = {
        "sandboxID": container.metadata.sandbox_id,
        "pid": process.pid if process else 0,
        "privileged": container.config.linux.security_context.privileged,
        "runtime": container.metadata.runtime,
        "cgroup": container.metadata.cgroup,
        "runtimeSpec": await asyncio.to_thread(_spec, node.layout.container(container.metadata.id).spec),
        "config": container.config.to_dict(),
    }
    return {"info": json.dumps(info)}


def network_info(cni: Cni) -> dict[str, str]:
    """The network in use, under containerd's names of such, which people's scripts read."""
    readiness = cni.readiness()
    conflist = cni.conflist.model_dump_json(by_alias=True) if cni.conflist is not None else "null"
    return {
        "cniconfig": f'{{"file":{json.dumps(cni.file)},"network":{conflist}}}',
        "lastCNILoadStatus": "OK" if readiness.ready else readiness.message,
    }


def _spec(path: str) -> object:
    try:
        with open(path, "rb") as file:
            document: object = json.loads(file.read())
    except (OSError, ValueError):
        return None  # gone with a reboot
    return document
