"""Images from OCI image layouts."""

from __future__ import annotations

import io
import json
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from ocishim.errors import InvalidArgument, NotFound
from ocishim.images import hosts
from ocishim.images.layout import load
from ocishim.spec import image as spec

from .making import Image, descriptor, digest, image, index, link, member, tar, tree, write_layout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ocishim.images.store import ImageStore

ONE = tar(member("one", data=b"1"))
TWO = tar(member("two", data=b"2"))


def packed(layout: Path, target: Path) -> Path:
    """A tar of the layout."""
    with tarfile.open(target, "w") as archive:
        archive.add(layout, arcname=".")
    return target


async def test_a_directory_and_a_tar_of_it_give_the_same_image(place: Path, store: ImageStore) -> None:
    made = image(ONE, TWO)
    layout = write_layout(place / "layout", made, "app:v1")
    for path in (layout, packed(layout, place / "layout.tar")):
        [record] = await load(store, str(path), None)
        assert (record.id, record.tags) == (made.id, ("docker.io/library/app:v1",))
        assert record.digests == (f"docker.io/library/app@{made.digest}",)
        assert [tree(root) for root in store.layer_paths(record.diff_ids)] == [{"one": "= 1"}, {"two": "= 2"}]
        await store.remove(record.id)
    assert os.listdir(f"{store.root}/layers") == os.listdir(f"{store.root}/incoming") == []


async def test_a_name_is_needed_from_the_layout_or_from_who_loads_it(place: Path, store: ImageStore) -> None:
    layout = write_layout(place / "layout", image(ONE))
    with pytest.raises(InvalidArgument, match="no name"):
        await load(store, str(layout), None)
    [record] = await load(store, str(layout), "given")
    assert record.tags == ("docker.io/library/given:latest",)


async def test_the_layouts_name_goes_before_that_of_who_loads_it(place: Path, store: ImageStore) -> None:
    layout = write_layout(place / "layout", image(ONE), "app:v1")
    [record] = await load(store, str(layout), "given")
    assert record.tags == ("docker.io/library/app:v1",)


async def test_the_entry_of_a_nested_index_for_this_machine_is_taken(place: Path, store: ImageStore) -> None:
    ours, other = image(ONE), image(TWO)
    content = index((other, "mips", ""), (ours, *hosts.architecture()))
    whole = Image(content, ours.config, [], [], spec.OCI_INDEX, ours.blobs | other.blobs | {digest(content): content})
    [record] = await load(store, str(write_layout(place / "layout", whole, "app")), None)
    assert record.id == ours.id
    assert record.digests == (f"docker.io/library/app@{digest(content)}",)


async def test_indexes_nested_too_deeply_are_refused(place: Path, store: ImageStore) -> None:
    made = image(ONE)
    platform = {"os": "linux", "architecture": hosts.architecture()[0]}
    content, media_type = made.manifest, made.media_type
    for _ in range(6):
        content = json.dumps({"manifests": [descriptor(content, media_type) | {"platform": platform}]}).encode()
        media_type = spec.OCI_INDEX
        made.blobs[digest(content)] = content
    whole = Image(content, made.config, [], [], spec.OCI_INDEX, made.blobs)
    with pytest.raises(InvalidArgument, match="nested"):
        await load(store, str(write_layout(place / "layout", whole, "app")), None)


async def test_what_is_not_there_or_no_layout_is_said(place: Path, store: ImageStore) -> None:
    with pytest.raises(NotFound, match="no such file"):
        await load(store, str(place / "nowhere"), "x")
    (place / "empty").mkdir()
    with pytest.raises(InvalidArgument, match=r"index\.json"):
        await load(store, str(place / "empty"), "x")
    (place / "garbage").write_bytes(b"garbage")
    with pytest.raises(InvalidArgument, match="no tar"):
        await load(store, str(place / "garbage"), "x")
    (place / "empty" / "index.json").write_text('{"manifests": []}')
    with pytest.raises(InvalidArgument, match="names no image"):
        await load(store, str(place / "empty"), "x")
    assert os.listdir(f"{store.root}/incoming") == []


@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
async def test_a_blob_that_was_changed_is_refused(
    place: Path, store: ImageStore, assert_nothing_stays: Callable[[ImageStore], None], which: str
) -> None:
    made = image(ONE)
    changed = {"manifest": made.manifest, "config": made.config, "layer": made.layers[0]}[which]
    made.blobs[digest(changed)] = changed[:-1] + bytes([changed[-1] ^ 1])
    with pytest.raises(InvalidArgument, match=r"digest|stream"):
        await load(store, str(write_layout(place / "layout", made, "app")), None)
    assert_nothing_stays(store)


@pytest.mark.parametrize("gone", ["manifest", "config", "layer"])
async def test_a_blob_that_is_missing_is_named(
    place: Path, store: ImageStore, assert_nothing_stays: Callable[[ImageStore], None], gone: str
) -> None:
    made = image(ONE)
    missing = {"manifest": made.digest, "config": made.id, "layer": digest(made.layers[0])}[gone]
    del made.blobs[missing]
    layout = write_layout(place / "layout", made, "app")
    with pytest.raises(InvalidArgument, match=missing.partition(":")[2]):
        await load(store, str(layout), None)
    assert_nothing_stays(store)


@pytest.mark.parametrize("name", ["../escaped", "/var/tmp/ocishim-escaped", "through/escaped"])
async def test_a_tar_cannot_write_outside(place: Path, store: ImageStore, name: str) -> None:
    layout = write_layout(place / "layout", image(ONE), "app")
    path = packed(layout, place / "layout.tar")
    with tarfile.open(path, "a") as archive:
        for info, data in (link("through", str(place)), member(name, data=b"x")):
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(InvalidArgument):
        await load(store, str(path), None)
    assert not {"escaped", "ocishim-escaped"} & {*os.listdir(place), *os.listdir("/var/tmp")}
    assert os.listdir(f"{store.root}/incoming") == []


async def test_blobs_that_are_links_out_of_the_layout_are_not_followed(place: Path, store: ImageStore) -> None:
    made = image(ONE)
    layout = write_layout(place / "layout", made, "app")
    blob = layout / "blobs" / "sha256" / digest(made.layers[0]).partition(":")[2]
    (place / "outside").write_bytes(made.layers[0])
    blob.unlink()
    blob.symlink_to(place / "outside")
    with pytest.raises(InvalidArgument, match="no blob"):
        await load(store, str(layout), None)
