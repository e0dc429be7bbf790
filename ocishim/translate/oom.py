"""Whose OOM kill it was, where systemd removes a container's cgroup, and its count, with its last process.

On cgroup v2 a slice counts the kills of all cgroups below it, also of those that are gone (memory.events, in the
kernel's Documentation/admin-guide/cgroup-v2.rst). What it counts beyond the cgroups that are still there, and beyond
what was attributed already, is news of those that have gone since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class SliceCounts(NamedTuple):
    """OOM kills that a slice counts in all, and those of each cgroup in it, by path."""

    total: int
    below: Mapping[str, int]


class Attribution(NamedTuple):
    """What one container has of a slice's OOM kills, and how many of the ended ones' are explained with it."""

    kills: int
    explained: int


def ended_kills(counts: SliceCounts, ended: Collection[str]) -> int:
    """Kills in cgroups that are gone, or that `ended` says are of ended containers, since the slice was made."""
    return counts.total - sum(kills for path, kills in counts.below.items() if path not in ended)


def attribute(
    counts: SliceCounts, own: str, *, ended: Collection[str], explained: int, others_gone: bool
) -> Attribution:
    """The kills of the container whose cgroup is `own` and which has ended.

    `ended` are the cgroups of containers whose end is recorded, `explained` the kills attributed until now.
    Where other containers have gone too and are not recorded yet, one kill is this one's and the rest theirs.
    """
    known = ended_kills(counts, {*ended, own})
    unexplained = max(0, known - explained)
    kills = counts.below.get(own, 0) or (min(unexplained, 1) if others_gone else unexplained)
    return Attribution(kills, explained + kills if others_gone else known)
