"""StartContainer: conmon has the runtime create the container, then it is started and supervised."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ocishim.errors import FailedPrecondition, NotFound, OcishimError, OperationFailed
from ocishim.lifecycle import oom, pod_cgroup
from ocishim.lifecycle.container_exit import supervise
from ocishim.lifecycle.container_update import tell_systemd, write_limits
from ocishim.lifecycle.jobs import step
from ocishim.lifecycle.restore import forget_checkpoint
from ocishim.linux import cgroup, files, mount, proc
from ocishim.model import EXIT_CODE_START_ERROR, REASON_START_ERROR, ProcessRef
from ocishim.protocol import runtime_error
from ocishim.runtime import conmon
from ocishim.spec.checkpoint import IMAGES

if TYPE_CHECKING:
    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox

log = logging.getLogger(__name__)


async def start_container(node: Node, container: Container) -> None:
    """Start a created container.

    Raises FailedPrecondition in any other state, OperationFailed with the runtime's words where its command
    cannot be executed; the container has then exited, with the reason StartError.
    """
    await node.jobs.run(
        ("start-container", container.id),
        f"StartContainer of {container.title}",
        None,
        lambda: _start(node, container),
    )


async def _start(node: Node, container: Container) -> None:
    async with container.lock:
        sandbox = _must_be_startable(node, container)
        with step("record the intent"):
            kills = await oom.before_start(node, container)
            launched = {"launched_at": time.time_ns(), "slice_oom_kills": kills}
            await container.update(container.status.model_copy(update=launched))
        container.exit_report = asyncio.get_running_loop().create_future()
        try:
            process, started_at = await _launch(node, container, sandbox)
        except (OcishimError, OSError) as error:
            await _fail(node, container, error)
            if container.metadata.restored:
                raise FailedPrecondition(f"{container.title} cannot be restored: {error}") from error
            raise OperationFailed(f"{container.title}: {error}") from error
        except BaseException:
            await _clear(node, container)
            raise
        status = container.status.model_copy(update={"started_at": started_at, "process": process})
        try:
            with step("record the start"):
                await container.update(status)
        except OSError as error:
            # It runs, and must not be lost: a restart finds it by the intent that is on disk.
            log.error("%s: that it runs cannot be recorded: %s", container.title, error)  # noqa: TRY400 - no bug
            container.presume(status)
        watch(node, container, process)
        node.written.begin(container.id)


def _must_be_startable(node: Node, container: Container) -> Sandbox:
    if node.containers.find(container.id) is not container:
        raise NotFound(f"{container.title} has been removed meanwhile")
    if not container.status.is_created or container.status.launched_at:
        state = "running" if container.status.is_running else "exited"
        raise FailedPrecondition(f"{container.title} is {state}: only a created container can be started")
    sandbox = node.sandboxes.find(container.metadata.sandbox_id)
    if sandbox is None or not sandbox.is_ready:
        raise FailedPrecondition(f"{container.title}: its pod is not ready")
    return sandbox


async def _launch(node: Node, container: Container, sandbox: Sandbox) -> tuple[ProcessRef, int]:
    metadata = container.metadata
    paths = node.layout.container(metadata.id)
    runtime = node.runtime_of(container)
    files.unlink(paths.exit_file)
    launch = conmon.Launch(
        container_id=metadata.id,
        name=metadata.name,
        bundle=paths.bundle,
        pidfile=paths.pidfile,
        log_path=metadata.log_path,
        exit_dir=node.layout.exits,
        socket_dir=paths.sockets,
        tty=metadata.tty,
        stdin=metadata.stdin,
        stdin_once=metadata.stdin_once,
        restore=f"{paths.restore}/{IMAGES}" if metadata.restored else "",
        systemd_cgroup=sandbox.metadata.cgroup_driver == "systemd",
    )
    place = pod_cgroup.monitor_place(node, sandbox.metadata, metadata.id)
    if container.status.resources is not None:
        await asyncio.to_thread(write_limits, node, container)
    with step(f"{'restore' if metadata.restored else 'create'} by {runtime.name}"):
        pid = await conmon.create(node.settings.containers.conmon, runtime, launch, place)
    if launch.systemd_cgroup:
        with step("tell systemd of its limits"):
            await tell_systemd(node, container)
    found = proc.stat(pid)
    if found is None:
        raise OperationFailed(f"its process {pid} is gone before it was started")
    # Taken before the start, so that even a process of one millisecond has not ended before it began.
    started_at = time.time_ns()
    if metadata.restored:
        await forget_checkpoint(node, container)
    else:
        with step(f"start by {runtime.name}"):
            await runtime.start(metadata.id)
    return ProcessRef(pid=pid, start=found.start), started_at


def watch(node: Node, container: Container, process: ProcessRef | None) -> None:
    """Hold on to the container's process (None: it has ended) and record its end when it comes."""
    if container.exit_report is None:
        container.exit_report = asyncio.get_running_loop().create_future()
    container.process = None
    if process is not None:
        with suppress(ProcessLookupError):  # it has ended meanwhile; its exit file tells how
            container.process = proc.ForeignProcess(process.pid, process.start)
    node.jobs.spawn(supervise(node, container), f"supervise {container.title}")


async def _fail(node: Node, container: Container, error: OcishimError | OSError) -> None:
    await _clear(node, container)
    async with oom.counting(node, container):
        kills = await oom.of_ended(node, container)
    now = time.time_ns()
    status = container.status.model_copy(
        update={
            "finished_at": now,
            "exit_code": runtime_error.command_exit_code(str(error)) or EXIT_CODE_START_ERROR,
            "reason": REASON_START_ERROR,
            "message": str(error),
            "slice_oom_kills": kills.explained,
        }
    )
    try:
        await container.update(status)
    except OSError as second:
        log.error("%s: that it failed to start cannot be recorded: %s", container.title, second)  # noqa: TRY400
        container.presume(status)


async def _clear(node: Node, container: Container) -> None:
    """Nothing of a failed start stays. The exit file that conmon may write of it means nothing."""
    try:
        await node.runtime_of(container).delete(container.id)
        await asyncio.to_thread(cgroup.kill_all, container.metadata.cgroup)
        await asyncio.to_thread(cgroup.remove, container.metadata.cgroup)
        await asyncio.to_thread(mount.unmount_all, node.layout.container(container.metadata.id).rootfs)
    except (OcishimError, OSError) as error:
        log.warning("%s: what its failed start left cannot be cleared yet: %s", container.title, error)
    container.exit_report = None
