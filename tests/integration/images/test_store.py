"""Which images and layers are there, who keeps them, and what a restart finds."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from ocishim.images.layout import load
from ocishim.images.store import ImageStore
from ocishim.linux import mount

from .making import Image, image, member, tar, write_layout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from ocishim.images.store import ImageRecord

    Loads = Callable[[Image, str], Awaitable[ImageRecord]]

ONE = tar(member("one", data=b"1"))
TWO = tar(member("two", data=b"2"))


@pytest.fixture
def take(place: Path, store: ImageStore) -> Loads:
    """Takes an image in under a name."""

    async def load_one(made: Image, name: str) -> ImageRecord:
        [record] = await load(store, str(write_layout(place / f"layout-{len(os.listdir(place))}", made)), name)
        return record

    return load_one


async def again(store: ImageStore) -> ImageStore:
    """The store as a restarted server sees it."""
    opened = ImageStore(store.root)
    await opened.open()
    return opened


async def test_an_image_is_found_by_every_name_it_has(store: ImageStore, take: Loads) -> None:
    made = image(ONE)
    record = await take(made, "app:v1")
    for name in (made.id, made.id[7:], made.id[7:20], "app:v1", "docker.io/library/app:v1", f"app@{made.digest}"):
        assert store.find(name) == record
    for name in ("app", "app:v2", "f00", "", "sha256:", "sha256:zz", f"other@{made.digest}"):
        assert store.find(name) is None


async def test_a_restarted_server_finds_the_same(store: ImageStore, take: Loads) -> None:
    await take(image(ONE), "a")
    await take(image(ONE, TWO), "b")
    restarted = await again(store)
    assert sorted(restarted.records(), key=str) == sorted(store.records(), key=str)
    assert restarted.usage() == store.usage() == (8192, 2)
    assert restarted.set_aside == []


async def test_a_tag_that_moves_leaves_the_old_image_without_it(store: ImageStore, take: Loads) -> None:
    old = await take(image(ONE), "app")
    new = await take(image(TWO), "app")
    for each in (store, await again(store)):
        assert each.find("app") == new
        left = each.find(old.id)
        assert left is not None
        assert left.tags == ()


async def test_removing_by_one_tag_removes_all_and_its_own_layers_only(store: ImageStore, take: Loads) -> None:
    both = image(ONE, TWO)
    await take(both, "a:1")
    await take(both, "a:2")
    kept = await take(image(ONE), "b")
    await store.remove("a:2")
    assert store.records() == [kept]
    assert [f"sha256:{name}" for name in os.listdir(f"{store.root}/layers")] == list(kept.diff_ids)
    await store.remove("a:2")


async def test_layers_of_a_removed_image_stay_while_they_are_held(store: ImageStore, take: Loads) -> None:
    record = await take(image(ONE), "a")
    for holder in ("x", "y"):
        store.hold(holder, record.diff_ids)
    await store.remove("a")
    await store.release("x")
    assert os.listdir(store.layer_paths(record.diff_ids)[0]) == ["one"]
    await store.release("y")
    assert os.listdir(f"{store.root}/layers") == []


async def test_a_layer_that_cannot_be_removed_hinders_no_other_and_is_tried_again(
    store: ImageStore, take: Loads
) -> None:
    stuck, other = await take(image(ONE), "a:1"), await take(image(TWO), "b:1")
    directory = store.layer_directory(stuck.diff_ids[0])
    mount.bind(directory, directory)  # rename(2) refuses a mount point
    with pytest.raises(OSError, match="busy"):
        await store.remove("a:1")
    assert store.find("a:1") is None
    assert store.has_layer(stuck.diff_ids[0])
    await store.remove("b:1")
    assert not store.has_layer(other.diff_ids[0])
    mount.unmount_tree(directory)
    await store.remove("a:1")
    assert os.listdir(f"{store.root}/layers") == []


async def test_a_removal_in_the_middle_of_a_load_drops_nothing_of_it(
    place: Path, store: ImageStore, take: Loads
) -> None:
    await take(image(ONE), "old")
    layout = write_layout(place / "layout-new", image(ONE, TWO))
    loading = asyncio.create_task(load(store, str(layout), "new"))
    while not loading.done():
        await store.remove("old")
        await asyncio.sleep(0)
    [record] = await loading
    assert [os.listdir(root) for root in store.layer_paths(record.diff_ids)] == [["one"], ["two"]]


async def test_what_cannot_be_read_is_set_aside_and_named(store: ImageStore, take: Loads) -> None:
    broken, kept = await take(image(ONE), "a"), await take(image(TWO), "b")
    with open(f"{store.root}/records/{broken.id[7:]}.json", "w", encoding="utf-8") as file:  # noqa: ASYNC230 - a test
        file.write("{")
    restarted = await again(store)
    assert restarted.records() == [kept]
    assert len(restarted.set_aside) == 1
    assert restarted.set_aside == [f"{store.root}/set-aside/{name}" for name in os.listdir(f"{store.root}/set-aside")]


async def test_an_image_whose_layer_is_gone_is_set_aside(store: ImageStore, take: Loads) -> None:
    record = await take(image(ONE), "a")
    os.rename(f"{store.root}/layers/{record.diff_ids[0][7:]}", f"{store.root}/elsewhere")
    restarted = await again(store)
    assert restarted.records() == []
    assert len(restarted.set_aside) == 1


async def test_half_a_layer_of_a_crash_is_gone_after_the_restart(store: ImageStore) -> None:
    os.makedirs(f"{store.incoming('half')}/fs/deep")
    await again(store)
    assert os.listdir(f"{store.root}/incoming") == []


async def test_layers_that_nobody_has_go_in_the_sweep(store: ImageStore, take: Loads) -> None:
    record = await take(image(ONE), "a")
    os.unlink(f"{store.root}/records/{record.id[7:]}.json")
    restarted = await again(store)
    assert len(os.listdir(f"{store.root}/layers")) == 1
    await restarted.sweep()
    assert os.listdir(f"{store.root}/layers") == []


async def test_who_waits_for_a_layer_gets_it_one_at_a_time(store: ImageStore) -> None:
    inside = 0

    async def unpack() -> None:
        nonlocal inside
        async with store.unpacking("sha256:x"):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(unpack())
            await asyncio.sleep(0)


async def test_a_cancelled_load_leaves_nothing_whenever_it_is_told(
    place: Path, store: ImageStore, assert_nothing_stays: Callable[[ImageStore], None]
) -> None:
    layout = write_layout(place / "layout", image(ONE, TWO))
    for steps in range(0, 60, 2):
        loading = asyncio.create_task(load(store, str(layout), "x"))
        for _ in range(steps):
            await asyncio.sleep(0.0003)
        loading.cancel()
        await asyncio.wait([loading])
        await store.remove("x")
        assert_nothing_stays(store)
