"""The pause process of a pod whose containers share one PID namespace: the namespace ends with it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

from ocishim.errors import OcishimError
from ocishim.linux import files, proc
from ocishim.model import ProcessRef
from ocishim.runtime import conmon
from ocishim.translate import sandbox as settings
from ocishim.translate import userns

if TYPE_CHECKING:
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox

log = logging.getLogger(__name__)


async def start_pause(node: Node, sandbox: Sandbox) -> ProcessRef:
    """Start the pod's pause process. Raises OperationFailed in the runtime's words."""
    metadata = sandbox.metadata
    paths = node.layout.sandbox(metadata.id)
    bundle, pidfile = paths.pause, f"{paths.pause}/pidfile"
    kinds = {kind: f"{paths.namespaces}/{kind}" for kind in metadata.namespaces}
    spec = settings.pause_spec(
        rootfs=f"{bundle}/rootfs",
        pause=node.settings.containers.pause,
        cgroup=f"{metadata.cgroup_parent}/{metadata.id}",
        namespaces=kinds,
        mappings=userns.of_pod(sandbox.config),
    )
    await asyncio.to_thread(_make_pause_bundle, bundle, spec.to_json())
    runtime = node.runtimes.choose(metadata.runtime)
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
    )
    pid = await conmon.create(node.settings.containers.conmon, runtime, launch)
    await runtime.start(metadata.id)
    found = proc.stat(pid)
    if found is None:
        raise OcishimError(f"{sandbox.title}: the pause process ended as soon as it was started")
    return ProcessRef(pid=pid, start=found.start)


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
