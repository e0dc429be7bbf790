"""Which events of the CRI a change of a record is, and what an event says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim.api.runtime import v1
from ocishim.translate import statuses

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocishim.model import ContainerMetadata, ContainerStatus, SandboxMetadata, SandboxStatus

    ContainerFacts = tuple[ContainerMetadata, ContainerStatus, v1.ContainerConfig]
    SandboxFacts = tuple[SandboxMetadata, SandboxStatus, v1.PodSandboxConfig]

CREATED = v1.ContainerEventType(v1.ContainerEventType.CONTAINER_CREATED_EVENT)
STARTED = v1.ContainerEventType(v1.ContainerEventType.CONTAINER_STARTED_EVENT)
STOPPED = v1.ContainerEventType(v1.ContainerEventType.CONTAINER_STOPPED_EVENT)
DELETED = v1.ContainerEventType(v1.ContainerEventType.CONTAINER_DELETED_EVENT)


def container_changes(before: ContainerStatus, after: ContainerStatus) -> list[v1.ContainerEventType]:
    """The events between two statuses, in order; an end whose start was never recorded is a stop alone."""
    found = []
    if after.started_at and not before.started_at:
        found.append(STARTED)
    if after.finished_at and not before.finished_at:
        found.append(STOPPED)
    return found


def sandbox_changes(before: SandboxStatus, after: SandboxStatus) -> list[v1.ContainerEventType]:
    """The same for a pod, whose start is that it becomes ready."""
    found = []
    if after.ready_at and not before.ready_at:
        found.append(STARTED)
    if after.stopped_at and not before.stopped_at:
        found.append(STOPPED)
    return found


def event(
    kind: v1.ContainerEventType,
    subject: str,
    at: int,
    sandbox: SandboxFacts | None,
    containers: Iterable[ContainerFacts],
) -> v1.ContainerEventResponse:
    """An event of the container or pod `subject`, `at` nanoseconds since the epoch, with the pod as it is then."""
    answer = v1.ContainerEventResponse(
        container_id=subject,
        container_event_type=kind,
        created_at=at,
        containers_statuses=[statuses.container_status(*each) for each in containers],
    )
    if sandbox is not None:
        answer.pod_sandbox_status = statuses.sandbox_status(*sandbox)
    return answer
