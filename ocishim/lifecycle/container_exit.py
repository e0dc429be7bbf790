"""The end of a container's process: awaited, explained, recorded, and cleared up after."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from ocishim.errors import OcishimError
from ocishim.lifecycle import oom
from ocishim.linux import cgroup, mount
from ocishim.model import (
    EXIT_CODE_UNKNOWN,
    REASON_COMPLETED,
    REASON_ERROR,
    REASON_OOM_KILLED,
    REASON_UNKNOWN,
)
from ocishim.runtime import exits

if TYPE_CHECKING:
    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node
    from ocishim.runtime.exits import Exit

log = logging.getLogger(__name__)

_CONMON_GRACE: Final = 5.0
"""Seconds that conmon gets to write the exit file once the process is gone; it drains the log first."""


async def supervise(node: Node, container: Container) -> None:
    """Wait for the end of a running container and record it."""
    exit_ = await _end(node, container)
    async with container.lock:
        if container.status.has_exited:
            return
        async with oom.counting(node, container):
            await _record(node, container, exit_)
        await _clear_up(node, container)


async def _end(node: Node, container: Container) -> Exit | None:
    """How it ended; None where nobody knows, because conmon died before it could tell."""
    report = container.exit_report
    if report is None:
        return None
    known = exits.read(node.layout.exits, container.id)
    if known is not None:
        return known
    if container.process is not None:
        gone = asyncio.ensure_future(container.process.gone.wait())
        try:
            await asyncio.wait((report, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
    try:
        async with asyncio.timeout(_CONMON_GRACE):
            return await asyncio.shield(report)
    except TimeoutError:
        return exits.read(node.layout.exits, container.id)


async def _record(node: Node, container: Container, exit_: Exit | None) -> None:
    ooms = await oom.of_ended(node, container)
    code = EXIT_CODE_UNKNOWN if exit_ is None else exit_.code
    finished_at = time.time_ns() if exit_ is None else exit_.at
    status = container.status.model_copy(
        update={
            "finished_at": max(finished_at, container.status.started_at),
            "exit_code": code,
            "reason": reason(code, known=exit_ is not None, ooms=ooms.kills),
            "process": None,
            "slice_oom_kills": ooms.explained,
        }
    )
    try:
        await container.update(status)
    except OSError as error:
        # The exit file stays until the container is removed: a restart finds the end again.
        log.error("%s: its end cannot be recorded: %s", container.title, error)  # noqa: TRY400
        container.presume(status)


def reason(code: int, *, known: bool, ooms: int) -> str:
    """Why it ended, in the words kubelet shows."""
    if not known:
        return REASON_UNKNOWN
    if ooms and code != 0:
        return REASON_OOM_KILLED
    return REASON_ERROR if code else REASON_COMPLETED


async def _clear_up(node: Node, container: Container) -> None:
    """What an exited container need not hold: the runtime's state, its cgroup, its mounted root."""
    container.forget_process()
    try:
        await asyncio.to_thread(cgroup.kill_all, container.metadata.cgroup)
        await node.runtime_of(container).delete(container.id)
        await asyncio.to_thread(mount.unmount_all, node.layout.container(container.metadata.id).rootfs)
        await asyncio.to_thread(cgroup.remove, container.metadata.cgroup)
    except (OcishimError, OSError) as error:
        log.warning("%s has exited but not all it held is gone; its removal tries again: %s", container.title, error)
