"""RunPodSandbox: a pod's namespaces, network and files, in this order, and nothing left where one fails."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import stat
import time
from typing import TYPE_CHECKING, Final

from ocishim.errors import AlreadyExists, OcishimError
from ocishim.lifecycle.jobs import step
from ocishim.lifecycle.pause import start_pause, watch_pause
from ocishim.lifecycle.sandbox import Sandbox, SandboxName
from ocishim.lifecycle.sandbox_release import release_sandbox
from ocishim.linux import cgroup, files, host, mount, namespace
from ocishim.model import SandboxId, SandboxMetadata, SandboxStatus
from ocishim.network.attachment import PodNetwork, PortMapping
from ocishim.translate import sandbox as settings
from ocishim.translate.validate import validate_sandbox

if TYPE_CHECKING:
    from ocishim.api.runtime import v1
    from ocishim.lifecycle.node import Node
    from ocishim.network.attachment import Attachment

log = logging.getLogger(__name__)

_SHM_OPTIONS: Final = "mode=1777,size=67108864"
_HOST_RESOLV_CONF: Final = "/etc/resolv.conf"


async def run_sandbox(node: Node, config: v1.PodSandboxConfig, handler: str) -> SandboxId:
    """Make a pod, or find the one that this very request has made or is making.

    Raises InvalidArgument before anything is made, AlreadyExists where the name belongs to another request.
    """
    validate_sandbox(config)
    node.runtimes.choose(handler)
    metadata = config.metadata
    name = SandboxName(metadata.namespace, metadata.name, metadata.uid, metadata.attempt)
    made = node.sandboxes.named(name)
    if made is not None:
        if made.is_ready and made.config == config and made.metadata.runtime_handler == handler:
            return made.metadata.id
        state = "is ready and was made by a different request" if made.is_ready else "is stopped"
        raise AlreadyExists(f"pod {name}: pod sandbox {made.id} has that name and {state}")
    return await node.jobs.run(
        ("run-sandbox", name), f"RunPodSandbox {name}", (config, handler), lambda: _run(node, config, handler)
    )


async def _run(node: Node, config: v1.PodSandboxConfig, handler: str) -> SandboxId:
    metadata = await asyncio.to_thread(_metadata, node, config, handler)
    sandbox = Sandbox(metadata, SandboxStatus(), node.sandbox_records)
    with step("write the record"):
        await node.sandbox_records.create(sandbox.id, sandbox.metadata, sandbox.status)
    try:
        status = await _set_up(node, sandbox)
        with step("record that it is ready"):
            await sandbox.update(status)
        node.sandboxes.add(sandbox)
        watch_pause(node, sandbox)
    except BaseException:
        await _undo(node, sandbox)
        raise
    return sandbox.metadata.id


def _metadata(node: Node, config: v1.PodSandboxConfig, handler: str) -> SandboxMetadata:
    sandbox_id = SandboxId(secrets.token_hex(32))
    parent = settings.cgroup_parent(config, f"{node.settings.containers.cgroup_parent}/{sandbox_id}")
    return SandboxMetadata(
        id=sandbox_id,
        name=config.metadata.name,
        namespace=config.metadata.namespace,
        uid=config.metadata.uid,
        attempt=config.metadata.attempt,
        created_at=time.time_ns(),
        boot_id=node.boot_id,
        runtime_handler=handler,
        runtime=node.runtimes.choose(handler).name,
        hostname=settings.hostname(config, host.nodename()),
        cgroup_parent=parent,
        owns_cgroup=not cgroup.exists(parent),
        namespaces=settings.pinned_kinds(config),
        shared_pid=settings.shares_pid(config),
        config=bytes(config),
        in_vm=node.runtimes.choose(handler).is_vm,
    )


async def _set_up(node: Node, sandbox: Sandbox) -> SandboxStatus:
    metadata = sandbox.metadata
    paths = node.layout.sandbox(metadata.id)
    attachment = None
    if "net" in metadata.namespaces:
        # Planned first: a node without a network refuses before anything is made.
        attachment = node.cni.plan(_pod_network(node, sandbox))
    await asyncio.to_thread(os.makedirs, paths.state, 0o700)
    if metadata.namespaces:
        with step("make namespaces"):
            pins = namespace.Pins(
                paths.namespaces,
                metadata.namespaces,
                metadata.hostname,
                settings.sysctls(sandbox.config, node.settings.containers.sysctls),
            )
            await namespace.pin(pins)
    ips: tuple[str, ...] = ()
    made_files = asyncio.create_task(asyncio.to_thread(_make_files, node, sandbox), name="pod files")
    try:
        if attachment is not None:
            ips = await _attach(node, sandbox, attachment)
    finally:
        # A thread cannot be stopped; what it makes must be there before it can be undone.
        await asyncio.wait([made_files])
    made_files.result()
    pause = None
    if metadata.has_pause:
        with step("start the pause process"):
            pause = await start_pause(node, sandbox)
    return SandboxStatus(ready_at=time.time_ns(), ips=ips, pause=pause)


def _pod_network(node: Node, sandbox: Sandbox) -> PodNetwork:
    config, metadata = sandbox.config, sandbox.metadata
    return PodNetwork(
        sandbox_id=metadata.id,
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        netns=f"{node.layout.sandbox(metadata.id).namespaces}/net",
        port_mappings=[
            PortMapping(
                (mapping.protocol.name or "TCP").lower(), mapping.container_port, mapping.host_port, mapping.host_ip
            )
            for mapping in config.port_mappings
        ],
        dns={
            "servers": config.dns_config.servers,
            "searches": config.dns_config.searches,
            "options": config.dns_config.options,
        },
        annotations=config.annotations,
    )


async def _attach(node: Node, sandbox: Sandbox, attachment: Attachment) -> tuple[str, ...]:
    path = node.layout.sandbox(sandbox.metadata.id).attachment
    with step("record the network attachment"):
        await asyncio.to_thread(files.write_atomic, path, attachment.model_dump_json(by_alias=True).encode())
    with step(f"CNI ADD of network {attachment.conflist.name}"):
        attached = await node.cni.add(attachment)
    with step("record the network attachment"):
        await asyncio.to_thread(files.write_atomic, path, attached.model_dump_json(by_alias=True).encode())
    return attached.ips


def _make_files(node: Node, sandbox: Sandbox) -> None:
    """What each container of the pod mounts. Not fsynced: a reboot ends the pod, and these with it."""
    paths = node.layout.sandbox(sandbox.metadata.id)
    files.write_atomic(paths.hostname, f"{sandbox.metadata.hostname}\n".encode(), mode=0o644, durable=False)
    dns = settings.resolv_conf(sandbox.config.dns_config)
    if dns is None:
        dns = _host_resolv_conf()
    files.write_atomic(paths.resolv_conf, dns, mode=0o644, durable=False)
    if "ipc" in sandbox.metadata.namespaces:
        os.mkdir(paths.shm, 0o1777)
        mount.mount("shm", paths.shm, "tmpfs", flags=mount.NO_EXEC, data=_SHM_OPTIONS)


def _host_resolv_conf() -> bytes:
    try:
        with open(_HOST_RESOLV_CONF, "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read(1 << 20)
    except FileNotFoundError:
        pass
    return b""


async def _undo(node: Node, sandbox: Sandbox) -> None:
    """Leave nothing; where that fails keep the pod listed as not ready, so that its client comes back for it."""
    try:
        await release_sandbox(node, sandbox)
        await node.sandbox_records.remove(sandbox.id)
    except (OcishimError, OSError) as error:
        log.error("%s: what RunPodSandbox had made cannot be undone: %s", sandbox.title, error)  # noqa: TRY400 - no bug
        stopped = sandbox.status.model_copy(update={"stopped_at": time.time_ns()})
        sandbox.presume(stopped)
        node.sandboxes.add(sandbox)
