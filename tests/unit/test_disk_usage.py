"""What containers have written, counted in the background."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

import pytest

from ocishim.lifecycle import usage
from ocishim.lifecycle.jobs import Jobs
from ocishim.lifecycle.usage import DiskUsage, Sample
from ocishim.linux import files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BLOCK = 4096
MEBIBYTE = 1 << 20


@pytest.fixture
async def jobs() -> AsyncIterator[Jobs]:
    made = Jobs()
    yield made
    await made.close(5)


def container(directory: Path, name: str, size: int = 0) -> Path:
    """A container's directory with a writable layer of one file; gives the layer."""
    layer = directory / name / "upper"
    layer.mkdir(parents=True)
    (directory / name / "metadata.json").write_bytes(b"x" * BLOCK)
    if size:
        (layer / "file").write_bytes(b"x" * size)
    return layer


async def test_each_layer_and_all_together_are_counted(tmp_path: Path, jobs: Jobs) -> None:
    container(tmp_path, "a", MEBIBYTE)
    container(tmp_path, "b")
    counted = DiskUsage(str(tmp_path), jobs)
    assert counted.layer("a") is None
    total = await counted.sample()
    one, other = counted.layer("a"), counted.layer("b")
    assert one
    assert MEBIBYTE <= one.used < MEBIBYTE + 2 * BLOCK
    assert one.inodes == 1
    assert other
    assert (other.used, other.inodes) == (0, 0)
    assert total.used >= one.used + 2 * BLOCK, "records take room too"
    assert total.inodes == 1 + 2 * 3
    assert counted.layer("c") is None


async def test_a_fresh_count_serves_and_an_old_one_is_renewed_meanwhile(tmp_path: Path, jobs: Jobs) -> None:
    layer = container(tmp_path, "a")
    counted = DiskUsage(str(tmp_path), jobs, fresh=0.2)
    first = await counted.sample()
    (layer / "more").write_bytes(b"x" * MEBIBYTE)
    assert await counted.sample() == first
    await asyncio.sleep(0.3)
    assert await counted.sample() == first, "nobody waits for the next count"
    await asyncio.gather(*jobs._tasks)
    assert (await counted.sample()).used >= MEBIBYTE


async def test_a_container_that_starts_while_all_are_counted_is_not_forgotten(
    tmp_path: Path, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    container(tmp_path, "old")
    counting, go_on = threading.Event(), threading.Event()

    def slow(_: str) -> tuple[dict[str, Sample], Sample]:
        counting.set()
        go_on.wait(5)
        return {"old": Sample(1, 1, 1)}, Sample(1, 1, 1)

    monkeypatch.setattr(usage, "_count", slow)
    counted = DiskUsage(str(tmp_path), jobs)
    counted.refresh()
    await asyncio.to_thread(counting.wait, 5)
    container(tmp_path, "new", MEBIBYTE)
    counted.begin("new")
    await asyncio.gather(*(each for each in jobs._tasks if "layer" in each.get_name()))
    assert counted.layer("new")
    go_on.set()
    await counted.sample()
    new = counted.layer("new")
    assert new
    assert new.used >= MEBIBYTE
    assert counted.layer("old") == Sample(1, 1, 1)


async def test_what_vanishes_while_it_is_counted_is_nothing(tmp_path: Path, jobs: Jobs) -> None:
    counted = DiskUsage(str(tmp_path / "absent"), jobs)
    assert (await counted.sample()).used == 0
    counted.begin("absent")
    (tmp_path / "file").write_bytes(b"x")
    assert files.tree_usage(str(tmp_path / "file")) == (0, 0)
    assert files.own_usage(str(tmp_path / "file" / "below")) == (0, 0)


def test_hard_links_take_room_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * MEBIBYTE)
    os.link(tmp_path / "one", tmp_path / "two")
    os.symlink("one", tmp_path / "three")
    used, inodes = files.tree_usage(str(tmp_path))
    assert MEBIBYTE <= used < 2 * MEBIBYTE
    assert inodes == 2
