"""Whose OOM kill it was, by the counts of a slice whose cgroups go with their last process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from ocishim.linux import cgroup
from ocishim.translate.oom import Attribution, SliceCounts, attribute, ended_kills

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

A, B, C = (f"/p.slice/ocishim-{name}.scope" for name in "abc")


def test_a_kill_that_no_cgroup_has_any_more_is_the_ended_containers() -> None:
    counts = SliceCounts(1, {B: 0})
    assert attribute(counts, A, ended=(), explained=0, others_gone=False) == Attribution(1, 1)


def test_a_kill_is_attributed_once() -> None:
    counts = SliceCounts(1, {C: 0})
    assert attribute(counts, B, ended=(A,), explained=1, others_gone=False) == Attribution(0, 1)


def test_kills_in_a_container_that_runs_are_its_own() -> None:
    counts = SliceCounts(2, {B: 2})
    assert attribute(counts, A, ended=(), explained=0, others_gone=False) == Attribution(0, 0)


def test_a_count_that_can_still_be_read_is_exact_and_is_not_news_once_it_is_gone() -> None:
    found = attribute(SliceCounts(3, {A: 3, B: 0}), A, ended=(), explained=0, others_gone=False)
    assert found == Attribution(3, 3)
    assert attribute(SliceCounts(3, {B: 0}), B, ended=(A,), explained=3, others_gone=False) == Attribution(0, 3)
    assert attribute(SliceCounts(3, {A: 3, B: 0}), B, ended=(A,), explained=3, others_gone=False) == Attribution(0, 3)


def test_of_two_that_were_killed_at_once_each_has_a_kill() -> None:
    counts = SliceCounts(5, {})
    first = attribute(counts, A, ended=(), explained=0, others_gone=True)
    assert first == Attribution(1, 1)
    assert attribute(counts, B, ended=(A,), explained=first.explained, others_gone=False) == Attribution(4, 5)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=8), st.integers(0, 4))
def test_containers_that_end_one_after_the_other_have_exactly_their_own_kills(
    ends: list[tuple[int, bool]], before: int
) -> None:
    """Each with its kills and whether its cgroup is still there when its end is recorded, and a while after."""
    total = explained = before
    ended: list[str] = []
    there: dict[str, int] = {}
    for number, (kills, stays) in enumerate(ends):
        path = f"/p.slice/{number}.scope"
        total += kills
        if stays:
            there[path] = kills
        found = attribute(SliceCounts(total, there), path, ended=ended, explained=explained, others_gone=False)
        assert found == Attribution(kills, total)
        explained = found.explained
        ended.append(path)
        if number % 2:
            there.clear()
    assert ended_kills(SliceCounts(total, there), ended) == total


def events(directory: Path, kills: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.events").write_text(f"low 0\nhigh 0\nmax 9\noom 9\noom_kill {kills}\noom_group_kill 0\n")


def test_a_slices_counts_are_its_own_and_those_of_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    events(tmp_path / "p.slice", 3)
    events(tmp_path / "p.slice/ocishim-a.scope", 2)
    (tmp_path / "p.slice/uncounted").mkdir()
    assert cgroup.slice_oom_kills("/p.slice", str(tmp_path)) == SliceCounts(3, {A: 2})


def test_a_slice_that_is_not_there_and_cgroup_v1_have_no_counts(tmp_path: Path) -> None:
    events(tmp_path / "p.slice", 3)
    assert cgroup.slice_oom_kills("/p.slice", str(tmp_path)) is None, "nothing says that this is v2"
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    assert cgroup.slice_oom_kills("/q.slice", str(tmp_path)) is None


def test_counts_that_change_while_they_are_read_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    events(tmp_path / "p.slice", 0)
    events(tmp_path / "p.slice/ocishim-a.scope", 0)
    read = cgroup._oom_kills
    calls: list[str] = []

    def reading(directory: str) -> int | None:
        calls.append(directory)
        if len(calls) == 2:
            events(tmp_path / "p.slice", 1)
            events(tmp_path / "p.slice/ocishim-a.scope", 1)
        return read(directory)

    monkeypatch.setattr(cgroup, "_oom_kills", reading)
    assert cgroup.slice_oom_kills("/p.slice", str(tmp_path)) == SliceCounts(1, {A: 1})
