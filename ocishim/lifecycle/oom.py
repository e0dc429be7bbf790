"""OOM kills of containers: by their own cgroup's count, or by their slice's where systemd has removed the cgroup.

What was attributed is in the containers' records, so that a new server goes on from there. Limits: cgroup v1 counts
no kills of cgroups that are gone, and there the container's own count must be read in time; kills in cgroups that are
not the server's, in a slice that pods share with them, and that go, are laid to the next container that ends; and of
two containers of a slice that go within the same moment, the one recorded first gets the first kill.
"""

from __future__ import annotations

import asyncio
import posixpath
from contextlib import nullcontext
from typing import TYPE_CHECKING

from ocishim.linux import cgroup
from ocishim.translate.oom import Attribution, attribute, ended_kills

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node
    from ocishim.model import ContainerMetadata, ContainerStatus
    from ocishim.store.records import Loaded


class OomKills:
    """What is explained of each slice's OOM kills, and the lock under which more of it is."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        """Held from the look at the counts until what they say of a container is in its record."""
        self.explained: dict[str, int] = {}
        """By slice."""

    async def recover(self, containers: Sequence[Loaded[ContainerMetadata, ContainerStatus]], boot_id: str) -> None:
        """Go on from the records; where none ended unseen, nothing is unexplained."""
        there = [each for each in containers if each.metadata.boot_id == boot_id and _is_scope(each.metadata.cgroup)]
        for parent in {posixpath.dirname(each.metadata.cgroup) for each in there}:
            inside = [each for each in there if posixpath.dirname(each.metadata.cgroup) == parent]
            self.explained[parent] = max(each.status.slice_oom_kills for each in inside)
            counts = await asyncio.to_thread(cgroup.slice_oom_kills, parent)
            running = {each.metadata.cgroup for each in inside if each.status.is_running}
            if counts is not None and running <= counts.below.keys():
                ended = {each.metadata.cgroup for each in inside} - running
                self.explained[parent] = ended_kills(counts, ended)


def counting(node: Node, container: Container) -> AbstractAsyncContextManager[None]:
    """What is held around `of_ended` and the record that has what it says; nothing where a scope is no matter."""
    return node.oom_kills.lock if _is_scope(container.metadata.cgroup) else nullcontext()


async def of_ended(node: Node, container: Container) -> Attribution:
    """The kernel's OOM kills in a container that has ended. The caller is in `counting`."""
    own = container.metadata.cgroup
    parent = posixpath.dirname(own)
    counts = await asyncio.to_thread(cgroup.slice_oom_kills, parent) if _is_scope(own) else None
    if counts is None:
        return Attribution(await asyncio.to_thread(cgroup.oom_kills, own), 0)
    gone = _gone(node, container, counts.below)
    found = attribute(
        counts,
        own,
        ended=_ended(node, parent),
        explained=node.oom_kills.explained.get(parent, 0),
        others_gone=bool(gone),
    )
    node.oom_kills.explained[parent] = found.explained
    return found


async def before_start(node: Node, container: Container) -> int:
    """What its slice's count of kills in ended cgroups is before the container is there: none of it is its own."""
    own = container.metadata.cgroup
    if not _is_scope(own):
        return 0
    parent = posixpath.dirname(own)
    async with counting(node, container):
        counts = await asyncio.to_thread(cgroup.slice_oom_kills, parent)
        explained = node.oom_kills.explained.get(parent, 0)
        if counts is not None and not _gone(node, container, counts.below):
            explained = ended_kills(counts, _ended(node, parent))
        node.oom_kills.explained[parent] = explained
    return explained


def _is_scope(path: str) -> bool:
    return path.endswith(".scope")


def _neighbours(node: Node, parent: str) -> list[Container]:
    return [each for each in node.containers if posixpath.dirname(each.metadata.cgroup) == parent]


def _ended(node: Node, parent: str) -> set[str]:
    return {each.metadata.cgroup for each in _neighbours(node, parent) if each.status.has_exited}


def _gone(node: Node, container: Container, there: Collection[str]) -> list[Container]:
    """Other containers of the slice that ran, are not there, and whose end is not recorded."""
    return [
        each
        for each in _neighbours(node, posixpath.dirname(container.metadata.cgroup))
        if each is not container and each.status.is_running and each.metadata.cgroup not in there
    ]
