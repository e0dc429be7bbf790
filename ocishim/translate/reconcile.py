"""What to make of a record found at start, given what can be observed of its object. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ocishim.model import EXIT_CODE_START_ERROR, EXIT_CODE_UNKNOWN, REASON_START_ERROR, REASON_UNKNOWN

if TYPE_CHECKING:
    from ocishim.model import ContainerStatus, ProcessRef, SandboxStatus

Action = Literal["keep", "undo", "watch", "clear", "finish"]
"""keep: nothing to do. undo: it was never finished, remove it. watch: it runs, supervise it. clear: it has ended
for good, take away what it still holds. finish: its end is known from the exit file, record it the usual way."""


@dataclass(frozen=True, slots=True)
class SandboxObserved:
    """What can be seen of a pod."""

    rebooted: bool
    namespaces_pinned: bool
    pause_alive: bool


@dataclass(frozen=True, slots=True)
class ContainerObserved:
    """What can be seen of a container."""

    rebooted: bool
    has_exit_file: bool
    process_alive: bool
    launched: ProcessRef | None
    """The process that a start which the server did not live to see has left running."""


def reconcile_sandbox(status: SandboxStatus, observed: SandboxObserved, now: int) -> tuple[SandboxStatus, Action]:
    """A pod that lost its namespaces or its pause process is not ready; its client will stop and replace it."""
    if status.stopped_at:
        return status, "keep"
    if not status.ready_at:
        return status, "undo"
    lost = observed.rebooted or not observed.namespaces_pinned
    if lost or (status.pause is not None and not observed.pause_alive):
        return status.model_copy(update={"stopped_at": now}), "clear"
    return status, "keep"


def reconcile_container(  # noqa: PLR0911 - a decision table reads best as one
    status: ContainerStatus, observed: ContainerObserved, now: int
) -> tuple[ContainerStatus, Action]:
    """A container keeps its true end where anything tells it; else it ended with 255, Unknown, never with 0."""
    if not status.created_at:
        return status, "undo"
    if status.has_exited:
        return status, "clear"
    if status.is_running:
        if observed.has_exit_file:
            return status, "finish"
        if observed.process_alive and not observed.rebooted:
            return status, "watch"
        return _unknown(status, now), "clear"
    if observed.rebooted:
        return _unknown(status, now), "clear"
    if not status.launched_at:
        return status, "keep"
    if observed.has_exit_file:
        # It ran and ended, and only its start could not be recorded.
        return status.model_copy(update={"started_at": status.launched_at}), "finish"
    if observed.launched is not None:
        started = status.model_copy(update={"started_at": status.launched_at, "process": observed.launched})
        return started, "watch"
    failed = {
        "finished_at": now,
        "exit_code": EXIT_CODE_START_ERROR,
        "reason": REASON_START_ERROR,
        "message": "the server ended while it was starting this container",
    }
    return status.model_copy(update=failed), "clear"


def _unknown(status: ContainerStatus, now: int) -> ContainerStatus:
    return status.model_copy(
        update={
            "finished_at": max(now, status.started_at),
            "exit_code": EXIT_CODE_UNKNOWN,
            "reason": REASON_UNKNOWN,
            "process": None,
        }
    )
