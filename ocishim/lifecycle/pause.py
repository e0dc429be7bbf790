"""The pause process of a pod whose containers share one PID namespace: the namespace ends with it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

from ocishim.errors import OcishimError
from ocishim.lifecycle import pod_cgroup
from ocishim.lifecycle.container_facts import seccomp_filter
from ocishim.linux import files, proc
from ocishim.model import ProcessRef
from ocishim.runtime import conmon
from ocishim.translate import sandbox as settings
from ocishim.translate import security, userns
from ocishim.translate.annotations import of_sandbox, passed_on

if TYPE_CHECKING:
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.runtime.oci import OciRuntime

log = logging.getLogger(__name__)


async def start_pause(node: Node, sandbox: Sandbox) -> ProcessRef:
    """Start the pod's pause process. Raises OperationFailed in the runtime's words."""
    metadata = sandbox.metadata
    paths = node.layout.sandbox(metadata.id)
    bundle, pidfile = paths.pause, f"{paths.pause}/pidfile"
    runtime = node.runtimes.choose(metadata.runtime)
    kinds = {kind: f"{paths.namespaces}/{kind}" for kind in metadata.namespaces}
    spec = settings.pause_spec(
        rootfs=f"{bundle}/rootfs",
        pause=node.settings.containers.pause,
        cgroup=pod_cgroup.runtime_path(metadata, metadata.id),
        namespaces=kinds,
        settings=await asyncio.to_thread(_settings, node, sandbox, runtime),
        mappings=userns.of_pod(sandbox.config),
    )
    await asyncio.to_thread(_make_pause_bundle, bundle, spec.to_json())
    launch = conmon.Launch(
        container_id=metadata.id,
        name=f"pause-{metadata.name}",
        bundle=bundle,
        pidfile=pidfile,
        log_path="",
        exit_dir=bundle,
        socket_dir=bundle,
        tty=False,
        stdin=False,
        stdin_once=False,
        systemd_cgroup=metadata.cgroup_driver == "systemd",
    )
    place = pod_cgroup.monitor_place(node, metadata, metadata.id)
    pid = await conmon.create(node.settings.containers.conmon, runtime, launch, place)
    await runtime.start(metadata.id)
    found = proc.stat(pid)
    if found is None:
        raise OcishimError(f"{sandbox.title}: the pause process ended as soon as it was started")
    return ProcessRef(pid=pid, start=found.start)


def _settings(node: Node, sandbox: Sandbox, runtime: OciRuntime) -> settings.PauseSettings:
    """The pod's own security context is the pause process's."""
    config = sandbox.config
    context = config.linux.security_context
    uid, gid, groups = settings.pause_user(context, userns.of_pod(config))
    allowed = runtime.settings.allowed_annotations if runtime.settings else ()
    annotations = passed_on(allowed, config.annotations)
    return settings.PauseSettings(
        uid=uid,
        gid=gid,
        additional_gids=groups,
        seccomp=seccomp_filter(node, context, (), "config.linux.security_context"),
        selinux_label=security.selinux_label(context, node.host),
        annotations=annotations | of_sandbox(config, sandbox.id),
        hostname=sandbox.metadata.hostname if runtime.is_vm else None,
        sysctls=settings.sysctls(config, node.settings.containers.sysctls) if runtime.is_vm else None,
    )


def _make_pause_bundle(bundle: str, spec: bytes) -> None:
    # Mount points, since the root itself is read-only.
    os.makedirs(f"{bundle}/rootfs/proc", 0o755)
    os.makedirs(f"{bundle}/rootfs/dev", 0o755)
    os.close(os.open(f"{bundle}/rootfs/pause", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755))
    files.write_atomic(f"{bundle}/config.json", spec, durable=False)


def watch_pause(node: Node, sandbox: Sandbox) -> None:
    """See to it that the pod stops being ready when its pause process ends before its time."""
    pause = sandbox.status.pause
    if pause is not None and sandbox.status.is_ready:
        node.jobs.spawn(_watch(sandbox, pause), f"watch the pause process of {sandbox.title}")


async def _watch(sandbox: Sandbox, pause: ProcessRef) -> None:
    try:
        process = proc.ForeignProcess(pause.pid, pause.start)
    except ProcessLookupError:
        process = None
    if process is not None:
        try:
            await process.gone.wait()
        finally:
            process.close()
    if sandbox.stopping:
        return
    log.error("%s: its pause process %d has ended, and its containers with it: not ready", sandbox.title, pause.pid)
    stopped = sandbox.status.model_copy(update={"stopped_at": time.time_ns()})
    try:
        await sandbox.update(stopped)
    except OSError:
        sandbox.presume(stopped)
