"""A stack of layers, mounted, shows what the image specification says of its tars."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocishim.images import overlay, rootfs
from ocishim.images.layout import load
from ocishim.images.store import ImageStore
from ocishim.linux import mount, namespace, userns
from ocishim.translate.userns import IdMappings, IdRange

from .making import Member, directory, image, member, tar, tree, write_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAMES = ("a", "b", "c")


@dataclass
class Hidden:
    """A whiteout."""


@dataclass
class File:
    content: str
    hides: bool


@dataclass
class Directory:
    children: dict[str, Hidden | File | Directory]
    hides: bool
    opaque: bool
    explicit: bool


Node = Hidden | File | Directory
Seen = dict[str, "Seen | str"]

files = st.builds(File, st.sampled_from("xyz"), st.booleans())
nodes: st.SearchStrategy[Node] = st.recursive(
    st.builds(Hidden) | files,
    lambda below: st.builds(
        Directory,
        st.dictionaries(st.sampled_from(NAMES), below, max_size=3),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    max_leaves=6,
)
layers = st.dictionaries(st.sampled_from(NAMES), nodes, max_size=3)


def members(children: dict[str, Node], prefix: str = "") -> list[Member]:
    """A layer's tar entries, in some order."""
    found: list[Member] = []
    for name, node in children.items():
        path = f"{prefix}{name}"
        if isinstance(node, Hidden) or node.hides:
            found.append(member(f"{prefix}.wh.{name}"))
        if isinstance(node, File):
            found.append(member(path, data=node.content.encode()))
        if isinstance(node, Directory):
            below = members(node.children, f"{path}/")
            if node.opaque:
                below.append(member(f"{path}/.wh..wh..opq"))
            if node.explicit or not below:
                found.append(directory(path))
            found += below
    return found


def applied(below: Seen, children: dict[str, Node]) -> Seen:
    """What is seen after one more layer: the specification in a few lines."""
    seen = dict(below)
    for name, node in children.items():
        lower = seen.pop(name, None)
        if isinstance(node, File):
            seen[name] = node.content
        elif isinstance(node, Directory):
            merged = lower if isinstance(lower, dict) and not node.hides and not node.opaque else {}
            seen[name] = applied(merged, node.children)
    return seen


def flat(seen: Seen, prefix: str = "") -> dict[str, str]:
    """As `tree` says it."""
    found = {}
    for name, node in seen.items():
        found[f"{prefix}{name}"] = f"= {node}" if isinstance(node, str) else "/"
        if isinstance(node, dict):
            found |= flat(node, f"{prefix}{name}/")
    return found


async def shown(home: str, tars: list[bytes]) -> dict[str, str]:
    """Take the layers in, mount them, look, and take them away."""
    store = ImageStore(f"{home}/images")
    await store.open()
    [record] = await load(store, str(await asyncio.to_thread(_layout, home, tars)), "x")
    for name in ("upper", "work", "target"):
        os.mkdir(f"{home}/{name}")
    overlay.mount_overlay(
        store.layer_paths(record.diff_ids), upper=f"{home}/upper", work=f"{home}/work", target=f"{home}/target"
    )
    try:
        return tree(f"{home}/target")
    finally:
        mount.unmount(f"{home}/target")


def _layout(home: str, tars: list[bytes]) -> Path:
    return write_layout(Path(home) / "layout", image(*tars, compression="none"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stack=st.lists(layers, min_size=1, max_size=4), seed=st.integers(0, 1 << 16))
def test_any_stack_shows_what_the_specification_says(place: Path, stack: list[dict[str, Node]], seed: int) -> None:
    expected: Seen = {}
    tars = []
    shuffle = random.Random(seed)
    for layer in stack:
        expected = applied(expected, layer)
        entries = members(layer)
        shuffle.shuffle(entries)
        tars.append(tar(*entries))
    home = tempfile.mkdtemp(dir=place)
    try:
        assert asyncio.run(shown(home, tars)) == flat(expected)
    finally:
        shutil.rmtree(home)


async def test_a_layer_that_an_image_has_twice_is_mounted(
    place: Path, store: ImageStore, mounted: Callable[[Sequence[str]], str]
) -> None:
    first, second = tar(member("a", data=b"1")), tar(member("a", data=b"2"), member("b"))
    [record] = await load(store, str(write_layout(place / "layout", image(first, second, first))), "x")
    assert tree(mounted(store.layer_paths(record.diff_ids))) == {"a": "= 1", "b": "= "}


async def test_more_layers_than_fit_a_page_are_mounted(
    place: Path, store: ImageStore, mounted: Callable[[Sequence[str]], str]
) -> None:
    tars = [tar(member(f"f{number}")) for number in range(130)]
    [record] = await load(store, str(write_layout(place / "layout", image(*tars))), "x")
    assert len(tree(mounted(store.layer_paths(record.diff_ids)))) == 130


async def test_an_image_without_layers_is_an_empty_root(
    place: Path, store: ImageStore, mounted: Callable[[Sequence[str]], str]
) -> None:
    [record] = await load(store, str(write_layout(place / "layout", image())), "x")
    assert tree(mounted(store.layer_paths(record.diff_ids))) == {}


@pytest.mark.parametrize("by_parts", [True, False], ids=["lowerdir+", "one page of options"])
@pytest.mark.parametrize("writable", [True, False])
def test_owners_of_layers_are_those_of_a_user_namespace(
    place: Path, monkeypatch: pytest.MonkeyPatch, *, writable: bool, by_parts: bool
) -> None:
    if not by_parts:
        monkeypatch.setattr(overlay, "_kernel", lambda: (6, 1))
    for name in ("layers/1/fs", "layers/2/fs", "upper", "work", "empty", "target"):
        (place / name).mkdir(parents=True)
    for number, name in ((1, "a"), (1, "both"), (2, "both"), (2, "b")):
        (place / f"layers/{number}/fs/{name}").write_text(str(number))
        os.chown(place / f"layers/{number}/fs/{name}", number, number)
    ids = (IdRange(0, 300_000, 1000),)
    target = place / "target"
    more = {"upper": str(place / "upper"), "work": str(place / "work")} if writable else {"below": str(place / "empty")}
    paths = [str(place / f"layers/{number}/fs") for number in ((1, 2) if writable else (2,))]
    userns.inside(
        IdMappings(ids, ids),
        0,
        lambda pid: overlay.mount_overlay(paths, target=str(target), userns=f"/proc/{pid}/ns/user", **more),
    )
    try:
        owners = {path.name: path.stat().st_uid for path in target.iterdir()}
        assert owners == ({"a": 300_001} if writable else {}) | {"both": 300_002, "b": 300_002}
        if writable:
            with (target / "a").open("a") as file:
                file.write("more")
            assert (place / "upper/a").stat().st_uid == 300_001
            assert (place / "layers/1/fs/a").read_text() == "1"
    finally:
        mount.unmount(str(target))
    assert not list(mount.mountpoints_below(str(place)))


@pytest.mark.parametrize("why", ["", "id-mapped layers: Invalid argument"], ids=["mapped", "copied"])
async def test_a_user_namespace_sees_the_same_whether_layers_are_mapped_or_copied(place: Path, why: str) -> None:
    for name in ("layers/1/fs", "layers/2/fs", "upper", "work", "target"):
        (place / name).mkdir(parents=True)
    (place / "layers/1/fs/tool").write_text("1")
    os.chown(place / "layers/1/fs/tool", 7, 8)
    os.chmod(place / "layers/1/fs/tool", 0o4755)  # noqa: S103 - it is to be kept
    stack = rootfs.LayerStack(tuple(str(place / f"layers/{number}/fs") for number in (1, 2)), frozenset())
    ids = IdMappings((IdRange(0, 300_000, 100),), (IdRange(0, 400_000, 100),))
    pins = namespace.Pins(str(place / "ns"), ("user",), "", mappings=ids)
    await namespace.pin(pins)
    target = str(place / "target")
    try:
        await rootfs.RootFilesystems("overlay", shifts_by_copy=why).mount(
            stack,
            upper=str(place / "upper"),
            work=str(place / "work"),
            target=target,
            shift=rootfs.Shift(ids, pins.path("user")),
        )
        found = (place / "target/tool").stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (300_007, 400_008, 0o4755)
        assert ((place / "upper/tool").exists()) == bool(why)
    finally:
        mount.unmount(target)
        namespace.unpin(pins.directory)
