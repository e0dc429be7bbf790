"""The journal of events: what is told, in which order, and what becomes of subscribers that do not read."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from ocishim.api.runtime import v1
from ocishim.lifecycle import events
from ocishim.lifecycle.container import Container
from ocishim.lifecycle.events import Journal
from ocishim.lifecycle.sandbox import Sandbox
from ocishim.model import ContainerId, ContainerMetadata, ContainerStatus, SandboxId, SandboxMetadata, SandboxStatus
from ocishim.store.index import Index
from ocishim.store.records import Records

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

POD, OTHER, INSIDE = "a" * 64, "b" * 64, "c" * 64
CREATED = v1.ContainerEventType.CONTAINER_CREATED_EVENT
STARTED = v1.ContainerEventType.CONTAINER_STARTED_EVENT
STOPPED = v1.ContainerEventType.CONTAINER_STOPPED_EVENT
DELETED = v1.ContainerEventType.CONTAINER_DELETED_EVENT


@dataclass
class World:
    """Two indexes and the journal over them."""

    directory: Path
    sandboxes: Index[Sandbox] = field(default_factory=lambda: Index("pod sandbox"))
    containers: Index[Container] = field(default_factory=lambda: Index("container"))

    def __post_init__(self) -> None:
        self.journal = Journal(self.sandboxes, self.containers)
        self.overflows = 0

    def overflowed(self) -> None:
        self.overflows += 1

    def sandbox(self, sandbox_id: str = POD, annotations: dict[str, str] | None = None) -> Sandbox:
        metadata = SandboxMetadata(
            id=SandboxId(sandbox_id),
            name=f"pod-{sandbox_id[0]}",
            namespace="ns",
            uid="u",
            attempt=0,
            created_at=1,
            boot_id="b",
            runtime_handler="",
            runtime="crun",
            hostname="h",
            cgroup_parent="/c",
            owns_cgroup=True,
            namespaces=(),
            shared_pid=False,
            config=bytes(v1.PodSandboxConfig(annotations=annotations or {})),
        )
        records = Records(str(self.directory / "pods"), str(self.directory), SandboxMetadata, SandboxStatus)
        (self.directory / "pods" / sandbox_id).mkdir(parents=True, exist_ok=True)
        return Sandbox(metadata, SandboxStatus(ready_at=2), records)

    def container(self, sandbox_id: str = POD, container_id: str = INSIDE) -> Container:
        metadata = ContainerMetadata(
            id=ContainerId(container_id),
            sandbox_id=SandboxId(sandbox_id),
            name="inside",
            attempt=0,
            created_at=3,
            boot_id="b",
            runtime="crun",
            image_id="i",
            diff_ids=(),
            user_specified_image="i",
            image_ref="i",
            log_path="",
            cgroup="/c/i",
            stop_signal=15,
            tty=False,
            stdin=False,
            stdin_once=False,
            config=b"",
        )
        records = Records(str(self.directory / "cs"), str(self.directory), ContainerMetadata, ContainerStatus)
        (self.directory / "cs" / container_id).mkdir(parents=True, exist_ok=True)
        return Container(metadata, ContainerStatus(created_at=3), records)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def collect(
    world: World, action: Callable[[], Awaitable[None]], expected: int
) -> list[v1.ContainerEventResponse]:
    subscription = world.journal.subscribe(world.overflowed)
    await action()
    async with asyncio.timeout(5):
        found = [v1.ContainerEventResponse().parse(await subscription.next()) for _ in range(expected)]
    subscription.close()
    return found


async def live(world: World) -> None:
    """A pod with one container, from the first to the last of both."""
    sandbox, container = world.sandbox(), world.container()
    world.sandboxes.add(sandbox)
    world.containers.add(container)
    started = ContainerStatus(created_at=3, launched_at=4, started_at=5)
    await container.update(started)
    await container.update(started.model_copy(update={"finished_at": 6, "exit_code": 7, "reason": "Error"}))
    world.containers.discard(container)
    await sandbox.update(SandboxStatus(ready_at=2, stopped_at=8))
    world.sandboxes.discard(sandbox)


async def test_a_pods_life_is_told_in_order(world: World) -> None:
    found = await collect(world, lambda: live(world), 8)
    assert [(each.container_id, each.container_event_type) for each in found] == [
        (POD, CREATED),
        (POD, STARTED),
        (INSIDE, CREATED),
        (INSIDE, STARTED),
        (INSIDE, STOPPED),
        (INSIDE, DELETED),
        (POD, STOPPED),
        (POD, DELETED),
    ]
    times = [each.created_at for each in found]
    assert times == sorted(set(times))


async def test_each_event_has_the_pod_and_all_its_containers_as_they_are_then(world: World) -> None:
    found = await collect(world, lambda: live(world), 8)
    assert {each.pod_sandbox_status.metadata.name for each in found} == {"pod-a"}
    assert [[int(status.state) for status in each.containers_statuses] for each in found] == [
        [],
        [],
        [int(v1.ContainerState.CONTAINER_CREATED)],
        [int(v1.ContainerState.CONTAINER_RUNNING)],
        [int(v1.ContainerState.CONTAINER_EXITED)],
        [],
        [],
        [],
    ]
    assert found[4].containers_statuses[0].exit_code == 7
    assert found[7].pod_sandbox_status.state == v1.PodSandboxState.SANDBOX_NOTREADY


async def test_containers_of_other_pods_are_not_in_an_event(world: World) -> None:
    world.sandboxes.add(world.sandbox(OTHER))
    world.containers.add(world.container(OTHER, "d" * 64))

    async def add() -> None:
        world.sandboxes.add(world.sandbox())
        world.containers.add(world.container())

    *_, last = await collect(world, add, 3)
    assert [each.id for each in last.containers_statuses] == [INSIDE]


async def test_a_start_that_failed_is_a_stop_alone(world: World) -> None:
    container = world.container()
    world.containers.add(container)

    async def fail() -> None:
        await container.update(container.status.model_copy(update={"launched_at": 4}))
        await container.update(container.status.model_copy(update={"finished_at": 5, "reason": "StartError"}))

    (only,) = await collect(world, fail, 1)
    assert only.container_event_type == STOPPED


async def test_a_change_that_the_disk_refused_is_told_as_well(world: World) -> None:
    container = world.container()
    world.containers.add(container)

    async def presume() -> None:
        container.presume(container.status.model_copy(update={"started_at": 4, "finished_at": 5}))

    assert [each.container_event_type for each in await collect(world, presume, 2)] == [STARTED, STOPPED]


async def test_every_subscriber_gets_every_event(world: World) -> None:
    subscriptions = [world.journal.subscribe(world.overflowed) for _ in range(3)]
    await live(world)
    told = [[await each.next() for _ in range(8)] for each in subscriptions]
    assert told[0] == told[1] == told[2]


async def test_who_subscribes_later_is_told_nothing_of_before(world: World) -> None:
    world.sandboxes.add(world.sandbox())
    late = world.journal.subscribe(world.overflowed)
    world.containers.add(world.container())
    assert v1.ContainerEventResponse().parse(await late.next()).container_id == INSIDE


async def test_a_subscriber_that_does_not_read_is_ended_and_the_others_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_EVENTS", 3)
    slow, good = world.journal.subscribe(world.overflowed), world.journal.subscribe(lambda: None)
    for _ in range(3):
        sandbox = world.sandbox()
        world.sandboxes.add(sandbox)
        world.sandboxes.discard(sandbox)
        for _ in range(3):
            await good.next()
    assert slow.has_overflowed
    assert not good.has_overflowed
    assert world.overflows == 1


async def test_few_but_large_events_overflow_as_well(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_BYTES", 100_000)
    slow = world.journal.subscribe(world.overflowed)
    world.sandboxes.add(world.sandbox(annotations={"large": "x" * 60_000}))
    assert slow.has_overflowed


async def test_nobody_listens_any_more_after_a_close(world: World) -> None:
    subscription = world.journal.subscribe(world.overflowed)
    subscription.close()
    subscription.close()
    await live(world)
    assert not subscription.has_overflowed
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await subscription.next()
