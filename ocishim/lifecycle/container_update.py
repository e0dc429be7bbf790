"""UpdateContainerResources: limits of a running container changed in place, of a created one for its start.

The record is written first and the cgroup after it, so that a crash between the two is mended by recovery, which
sets running containers to what their records say. What the kernel refuses leaves both as they were.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ocishim.errors import FailedPrecondition, InvalidArgument, OcishimError, OperationFailed
from ocishim.lifecycle import pod_cgroup
from ocishim.lifecycle.jobs import step
from ocishim.linux import cgroup, cgroup_limits, files, proc
from ocishim.spec.runtime import RuntimeSpec
from ocishim.translate import limits, resource_checks, resources, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocishim.api.runtime import v1
    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node
    from ocishim.linux.cgroup_driver import CgroupDriver

log = logging.getLogger(__name__)


async def update_container(node: Node, container: Container, asked: v1.LinuxContainerResources) -> None:
    """Change what the request has values for, all or nothing.

    Raises InvalidArgument for a value that is none, FailedPrecondition where the container has exited or its
    processes use more than a new limit, both in the kernel's words where the kernel decides.
    """
    resource_checks.check("linux", asked)
    resource_checks.check_on_host("linux", asked, node.host)
    await node.jobs.run(
        ("update-container", container.id, bytes(asked)),
        f"UpdateContainerResources of {container.title}",
        None,
        lambda: _update(node, container, asked),
    )


async def _update(node: Node, container: Container, asked: v1.LinuxContainerResources) -> None:
    async with container.lock:
        before = container.status
        if before.has_exited:
            raise FailedPrecondition(f"{container.title} has exited: it has no limits to change")
        result = resources.merged(statuses.container_resources(before, container.config), asked)
        resource_checks.check_whole("linux", result)
        status = before.model_copy(update={"resources": bytes(result)})
        with step("record the limits"):
            await node.container_records.update(container.id, status)
        try:
            if before.is_running:
                with step("change the cgroup"):
                    await _apply(node, container, result, resources.change(result, asked))
        except Exception:
            # Cancelled, at shutdown, is not refused: the record stays, and the next start sees it through.
            await _forget(node, container)
            raise
        container.presume(status)
        await _renew_bundle(node, container)


async def _forget(node: Node, container: Container) -> None:
    """Let the record say again what holds."""
    try:
        await node.container_records.update(container.id, container.status)
    except OSError as error:
        log.error("%s: its record has limits that are not in force: %s", container.title, error)  # noqa: TRY400


async def reapply(node: Node, container: Container) -> None:
    """Set a running container to what its record says, after a start of the server; a refusal is logged."""
    if container.status.resources is None or not container.status.is_running:
        return
    recorded = statuses.container_resources(container.status, container.config)
    try:
        await _apply(node, container, recorded, recorded)
    except OcishimError as error:
        log.warning("its recorded limits are not all in force: %s", error)


async def tell_systemd(node: Node, container: Container) -> None:
    """Give a container's limits to its scope too, before it starts: crun puts them into the cgroup's files alone.

    A refusal is logged: the limits hold all the same, until systemd sets its units anew.
    """
    sandbox = node.sandbox(container.metadata.sandbox_id)
    path = container.metadata.cgroup
    if not await asyncio.to_thread(cgroup.exists, path):
        return  # a VM's runtime may have it elsewhere
    try:
        spec = await asyncio.to_thread(_read_spec, node, container)
        rule = await asyncio.to_thread(_weight_rule, node, container)
        await pod_cgroup.driver_of(node, sandbox.metadata).limit(path, spec.linux.resources, rule)
    except (OcishimError, OSError, ValueError) as error:
        log.warning("%s: systemd is not told of its limits, which a daemon-reload undoes: %s", container.title, error)


async def _apply(
    node: Node, container: Container, result: v1.LinuxContainerResources, part: v1.LinuxContainerResources
) -> None:
    sandbox = node.sandbox(container.metadata.sandbox_id)
    driver: CgroupDriver = pod_cgroup.driver_of(node, sandbox.metadata)
    path = container.metadata.cgroup
    rule = await asyncio.to_thread(_weight_rule, node, container)
    try:
        undo = await driver.limit(path, resources.resources(part, node.host), rule)
        if part.oom_score_adj and container.status.process is not None:
            score = resources.clamped_oom_score(result.oom_score_adj, node.host)
            await asyncio.to_thread(_set_oom_scores, path, container.status.process.pid, score, undo)
    except (FailedPrecondition, InvalidArgument, OperationFailed) as error:
        raise type(error)(f"{container.title}: {error}") from error


def _weight_rule(node: Node, container: Container) -> Callable[[int], int]:
    """How the container's runtime turns shares into v2's weight: two rules are about, and one must go on."""
    current = statuses.container_resources(container.status, container.config).cpu_shares
    if not node.host.cgroup_v2 or not current:
        return limits.linear_weight
    weight = cgroup_limits.read(container.metadata.cgroup, "cpu", "cpu.weight")
    return limits.weight_rule(current, int(weight) if weight.isdecimal() else 0)


def _set_oom_scores(path: str, init: int, score: int, undo: Callable[[], None]) -> None:
    """Change the score of the container's processes, but of those that have chosen one for themselves."""
    former = proc.oom_score_adj(init)
    if former is None or former == score:
        return
    changed: list[int] = []
    try:
        for pid in cgroup.processes(path):
            if proc.oom_score_adj(pid) == former:
                proc.set_oom_score_adj(pid, score)
                changed.append(pid)
    except OSError as error:
        undo()
        for pid in changed:
            proc.set_oom_score_adj(pid, former)
        raise OperationFailed(f"oom_score_adj cannot become {score}: {error.strerror}") from error


async def _renew_bundle(node: Node, container: Container) -> None:
    """For commands executed from now on, and for whoever looks at the spec; a start writes it again."""
    container.exec_template = None
    try:
        await asyncio.to_thread(write_limits, node, container)
    except (OSError, ValueError) as error:
        log.warning("%s: its config.json still has the former limits: %s", container.title, error)


def write_limits(node: Node, container: Container) -> None:
    """Put the container's limits, as they are recorded, into its config.json. Blocks."""
    spec = _read_spec(node, container)
    recorded = statuses.container_resources(container.status, container.config)
    former, fresh = spec.linux.resources, resources.new_container(recorded, node.host)
    fresh.devices, fresh.pids = former.devices, former.pids
    spec.linux.resources = fresh
    spec.process.oom_score_adj = resources.oom_score_adj(recorded.oom_score_adj, node.host)
    files.write_atomic(node.layout.container(container.metadata.id).spec, spec.to_json(), durable=False)


def _read_spec(node: Node, container: Container) -> RuntimeSpec:
    with open(node.layout.container(container.metadata.id).spec, "rb") as file:
        return RuntimeSpec.model_validate_json(file.read())
