"""A layer's tar becomes exactly the tree that it describes, and nothing outside its directory."""

from __future__ import annotations

import os
import resource
import stat
import struct
import tarfile
from typing import TYPE_CHECKING

import pytest

from ocishim.errors import InvalidArgument, ResourceExhausted
from ocishim.images.layout import load
from ocishim.images.store import ImageStore
from ocishim.linux import mount

from .making import content, directory, image, link, member, tar, tree, write_layout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Unpack = Callable[..., Awaitable[str]]

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


@pytest.fixture
def unpack(place: Path, store: ImageStore) -> Unpack:
    """Takes one layer in and returns its directory."""

    async def take(layer: bytes, compression: str = "gzip") -> str:
        layout = write_layout(place / f"layout-{len(os.listdir(place))}", image(layer, compression=compression))
        [record] = await load(store, str(layout), "test")
        return store.layer_paths(record.diff_ids)[0]

    return take


async def test_owners_modes_and_times_are_the_tars(unpack: Unpack) -> None:
    root = await unpack(
        tar(
            directory("./", mode=0o711, mtime=5),
            directory("d/", mode=0o1777, uid=7, gid=8, mtime=123),
            member("d/su", data=b"x", mode=0o4755, uid=1000, gid=1001, mtime=456),
            member("d/sg", data=b"x", mode=0o2755, uid=1, gid=2),
            member("none", mode=0),
            link("l", "d"),
        )
    )
    assert stat.S_IMODE(os.stat(root).st_mode) == 0o711
    found = os.stat(f"{root}/d")
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime) == (0o1777, 7, 8, 123)
    found = os.stat(f"{root}/d/su")
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime) == (0o4755, 1000, 1001, 456)
    assert stat.S_IMODE(os.stat(f"{root}/d/sg").st_mode) == 0o2755
    assert stat.S_IMODE(os.stat(f"{root}/none").st_mode) == 0
    assert os.readlink(f"{root}/l") == "d"


async def test_hard_links_share_an_inode(unpack: Unpack) -> None:
    root = await unpack(
        tar(directory("a"), member("a/one", data=b"1"), link("two", "a/one", tarfile.LNKTYPE), link("s", "nowhere"))
    )
    assert os.stat(f"{root}/a/one").st_ino == os.stat(f"{root}/two").st_ino


async def test_devices_and_fifos_are_made(unpack: Unpack) -> None:
    root = await unpack(
        tar(
            member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            member("loop", tarfile.BLKTYPE, devmajor=7, devminor=0),
            member("fifo", tarfile.FIFOTYPE),
        )
    )
    found = os.stat(f"{root}/null")
    assert stat.S_ISCHR(found.st_mode)
    assert (found.st_rdev, stat.S_IMODE(found.st_mode)) == (os.makedev(1, 3), 0o666)
    assert stat.S_ISBLK(os.stat(f"{root}/loop").st_mode)
    assert stat.S_ISFIFO(os.stat(f"{root}/fifo").st_mode)


async def test_file_capabilities_and_user_xattrs_are_kept_and_overlays_own_are_not(
    unpack: Unpack,
) -> None:
    headers = {
        "SCHILY.xattr.security.capability": CAPABILITY.decode("utf-8", "surrogateescape"),
        "SCHILY.xattr.user.note": "hello",
        "SCHILY.xattr.trusted.overlay.redirect": "/elsewhere",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
    }
    root = await unpack(tar(member("ping", data=b"p", uid=5, pax_headers=headers), directory("d", pax_headers=headers)))
    assert os.getxattr(f"{root}/ping", "security.capability") == CAPABILITY
    assert os.getxattr(f"{root}/ping", "user.note") == b"hello"
    assert not [name for name in os.listxattr(f"{root}/d") if name.startswith("trusted.")]


async def test_large_files_long_names_and_odd_names_arrive_whole(unpack: Unpack) -> None:
    big = os.urandom(1 << 20) * 24
    long_name = "/".join(["n" * 100] * 5)
    for layout in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        root = await unpack(
            tar(
                member("big", data=big),
                member(long_name, data=b"long"),
                member("weiß-☃", data=b"snow"),
                member(b"raw-\xff".decode("utf-8", "surrogateescape"), data=b"raw"),
                format=layout,
            )
        )
        assert content(f"{root}/big") == big
        assert content(f"{root}/{long_name}") == b"long"
        assert sorted(os.listdir(os.fsencode(root)))[-2:] == [b"raw-\xff", "weiß-☃".encode()]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_every_compression_is_read(unpack: Unpack, compression: str) -> None:
    root = await unpack(tar(member("f", data=b"content")), compression)
    assert tree(root) == {"f": "= content"}


async def test_a_layer_without_entries_is_a_layer(unpack: Unpack) -> None:
    assert tree(await unpack(tar())) == {}


async def test_a_file_takes_the_place_of_a_full_directory(unpack: Unpack) -> None:
    root = await unpack(tar(directory("a"), member("a/b", data=b"1"), member("a", data=b"file")))
    assert tree(root) == {"a": "= file"}


async def test_a_whiteout_becomes_overlays_own(unpack: Unpack) -> None:
    root = await unpack(tar(directory("d"), member("d/.wh.gone"), member("d/.wh..wh.plnk")))
    found = os.lstat(f"{root}/d/gone")
    assert stat.S_ISCHR(found.st_mode)
    assert found.st_rdev == 0
    assert os.listdir(f"{root}/d") == ["gone"]


async def test_what_a_layer_brings_back_below_its_own_whiteout_is_opaque(unpack: Unpack) -> None:
    for members in (
        [member(".wh.d"), directory("d"), member("d/new", data=b"n")],
        [member(".wh.d"), member("d/new", data=b"n")],
        [directory("d"), member("d/new", data=b"n"), member(".wh.d")],
        [directory("d"), member("d/.wh..wh..opq"), member("d/new", data=b"n")],
        [member("d/.wh.old"), member("d/.wh..wh..opq"), member("d/new", data=b"n")],
    ):
        root = await unpack(tar(*members))
        assert tree(root) == {"d": "/", "d/new": "= n"}
        assert os.getxattr(f"{root}/d", "trusted.overlay.opaque") == b"y"


@pytest.mark.parametrize(
    "members",
    [
        [member("../escape", data=b"x")],
        [member("a/../../escape", data=b"x")],
        [member(".wh...")],
        [member(".wh..")],
        [member(".wh.")],
        [member("../.wh.passwd")],
        [link("escape", "../../../../etc/passwd", tarfile.LNKTYPE)],
        [link("missing", "not-there", tarfile.LNKTYPE)],
        [member("", data=b"root as a file")],
        [member("./", data=b"root as a file")],
        [member("x" * 300, data=b"too long")],
    ],
)
async def test_a_hostile_tar_is_refused_and_leaves_nothing(
    place: Path,
    store: ImageStore,
    unpack: Unpack,
    assert_nothing_stays: Callable[[ImageStore], None],
    members: list[tuple[tarfile.TarInfo, bytes]],
) -> None:
    before = {name for name in tree(str(place)) if not name.startswith("layout")}
    with pytest.raises(InvalidArgument):
        await unpack(tar(member("good", data=b"1"), *members))
    assert_nothing_stays(store)
    assert {name for name in tree(str(place)) if not name.startswith("layout")} == before


async def test_absolute_names_and_links_resolve_inside_the_layer(place: Path, unpack: Unpack) -> None:
    victim = place / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    root = await unpack(
        tar(
            member("/absolute", data=b"1"),
            link("out", str(victim)),
            directory(f"{str(victim)[1:]}"),
            member("out/file", data=b"overwritten"),
            link("up", "../../../../../.."),
            member("up/top", data=b"2"),
            member("up/.wh.gone"),
        )
    )
    assert (victim / "file").read_text() == "precious"
    assert os.listdir(victim) == ["file"]
    assert sorted(os.listdir(root)) == ["absolute", "gone", "out", "top", "up", "var"]
    assert tree(f"{root}{victim}") == {"file": "= overwritten"}


async def test_replacing_what_a_link_points_to_does_not_follow_it(place: Path, unpack: Unpack) -> None:
    outside = place / "outside"
    outside.write_text("precious")
    root = await unpack(tar(link("f", str(outside)), member("f", data=b"new")))
    assert outside.read_text() == "precious"
    assert tree(root) == {"f": "= new"}


@pytest.mark.parametrize("cut", [10, 600, -9, -1])
async def test_a_cut_gzip_stream_is_refused(
    place: Path, store: ImageStore, assert_nothing_stays: Callable[[ImageStore], None], cut: int
) -> None:
    whole = image(tar(member("f", data=os.urandom(100_000))))
    layer = whole.layers[0][:cut]
    await _refused(place, store, assert_nothing_stays, layer, whole.diff_ids)


async def test_a_corrupt_gzip_stream_is_refused(
    place: Path, store: ImageStore, assert_nothing_stays: Callable[[ImageStore], None]
) -> None:
    whole = image(tar(member("f", data=b"text" * 100_000)))
    layer = bytearray(whole.layers[0])
    layer[len(layer) // 2] ^= 0xFF
    await _refused(place, store, assert_nothing_stays, bytes(layer), whole.diff_ids)


async def test_a_layer_of_another_diff_id_is_refused(
    place: Path, store: ImageStore, assert_nothing_stays: Callable[[ImageStore], None]
) -> None:
    made = image(tar(member("f")), diff_ids=["sha256:" + "0" * 64])
    with pytest.raises(InvalidArgument, match="diff id"):
        await load(store, str(write_layout(place / "layout", made)), "test")
    assert_nothing_stays(store)


async def test_a_garbage_layer_is_refused(
    place: Path, store: ImageStore, assert_nothing_stays: Callable[[ImageStore], None]
) -> None:
    for compression in ("none", "gzip", "zstd"):
        made = image(b"this is not a tar " * 100, compression=compression)
        with pytest.raises(InvalidArgument, match="tar"):
            await load(store, str(write_layout(place / f"layout-{compression}", made)), "test")
        assert_nothing_stays(store)


async def _refused(
    place: Path,
    store: ImageStore,
    assert_nothing_stays: Callable[[ImageStore], None],
    layer: bytes,
    diff_ids: list[str],
) -> None:
    made = image(layer, compression="none", diff_ids=diff_ids)
    made.manifest = made.manifest.replace(b"layer.v1.tar", b"layer.v1.tar+gzip")
    made.blobs |= {made.digest: made.manifest}
    with pytest.raises(InvalidArgument):
        await load(store, str(write_layout(place / "layout", made)), "test")
    assert_nothing_stays(store)


async def test_a_full_disk_is_said_and_leaves_nothing(
    place: Path, assert_nothing_stays: Callable[[ImageStore], None]
) -> None:
    small = place / "small"
    small.mkdir()
    mount.mount("tmpfs", str(small), "tmpfs", data="size=2m")
    store = ImageStore(str(small))
    await store.open()
    made = image(tar(member("big", data=bytes(4 << 20)), member("more", data=bytes(4 << 20))))
    with pytest.raises(ResourceExhausted, match="disk is full"):
        await load(store, str(write_layout(place / "layout", made)), "test")
    assert_nothing_stays(store)
    await store.open()


async def test_a_bomb_of_zeros_after_the_tar_is_not_kept_in_memory_or_on_disk(place: Path, store: ImageStore) -> None:
    made = image(tar(member("f", data=b"x")) + bytes(256 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    [record] = await load(store, str(write_layout(place / "layout", made)), "test")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert record.size == 4096
