"""A flattened stack of layers is what overlayfs shows of it, entry by entry."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
import struct
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocishim.errors import OperationFailed, ResourceExhausted
from ocishim.images import flatten as flattening
from ocishim.images import overlay, whiteouts
from ocishim.images.flatten import flatten
from ocishim.images.layout import load
from ocishim.images.store import ImageStore
from ocishim.linux import mount, userns
from ocishim.translate.userns import IdMappings, IdRange

from .making import content, directory, image, link, member, tar, tree, write_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
NAMES = ("a", "b", "c", "raw-\udcff", ".wh", "weiß")


@dataclass
class Looks:
    """What chown, chmod, setxattr and utime set."""

    mode: int
    owner: int
    mtime: int
    xattrs: dict[str, bytes]


@dataclass
class Hidden:
    """A whiteout."""


@dataclass
class Linked:
    """One more name of a file made before in the same layer, where there is one."""

    which: int


@dataclass
class Leaf:
    kind: str
    content: bytes
    looks: Looks


@dataclass
class Directory:
    children: dict[str, Node]
    opaque: bool
    looks: Looks


Node = Hidden | Linked | Leaf | Directory

looks = st.builds(
    Looks,
    st.sampled_from([0o755, 0o4711, 0o2755, 0o1777, 0o640, 0]),
    st.sampled_from([0, 7, 1000, 65534]),
    st.integers(0, 1 << 61),
    st.dictionaries(st.sampled_from(["user.a", "user.b", "security.capability"]), st.just(CAPABILITY), max_size=2),
)
leaves: st.SearchStrategy[Node] = (
    st.builds(Hidden)
    | st.builds(Linked, st.integers(0, 9))
    | st.builds(
        Leaf,
        st.sampled_from(["file", "symlink", "fifo", "device", "socket"]),
        st.sampled_from([b"", b"one", b"two" * 5000]),
        looks,
    )
)
nodes = st.recursive(
    leaves,
    lambda below: st.builds(
        Directory, st.dictionaries(st.sampled_from(NAMES), below, max_size=4), st.booleans(), looks
    ),
    max_leaves=8,
)
layers = st.builds(Directory, st.dictionaries(st.sampled_from(NAMES), nodes, max_size=4), st.just(False), looks)


@dataclass
class Writing:
    """A layer being written in one of the two forms."""

    form: whiteouts.Form
    made: list[str] = field(default_factory=list)

    def fill(self, path: str, node: Directory) -> None:
        for name, child in node.children.items():
            self.write(f"{path}/{name}", child)
        if node.opaque:
            whiteouts.make_opaque(path, self.form)
        set_looks(path, node.looks)

    def write(self, path: str, node: Node) -> None:
        if isinstance(node, Hidden):
            whiteouts.hide(path, self.form)
        elif isinstance(node, Linked):
            if self.made:
                os.link(self.made[node.which % len(self.made)], path, follow_symlinks=False)
        elif isinstance(node, Directory):
            os.mkdir(path)
            self.fill(path, node)
        else:
            make_leaf(path, node)
            self.made.append(path)


def make_leaf(path: str, leaf: Leaf) -> None:
    if leaf.kind == "file":
        with open(path, "wb") as file:
            file.write(leaf.content)
    elif leaf.kind == "symlink":
        os.symlink(leaf.content[:9] or b"/nowhere", os.fsencode(path))
    elif leaf.kind == "device":
        os.mknod(path, stat.S_IFCHR, os.makedev(1, 3))
    else:
        os.mknod(path, stat.S_IFIFO if leaf.kind == "fifo" else stat.S_IFSOCK)
    set_looks(path, leaf.looks)


def set_looks(path: str, looks: Looks) -> None:
    found = os.lstat(path)
    os.chown(path, looks.owner, looks.owner + 1, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(path, looks.mode)
    for key, value in looks.xattrs.items():
        # Only files and directories have user.* (xattr(7)).
        if key.startswith("security.") or stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            os.setxattr(path, key, value, follow_symlinks=False)
    os.utime(path, ns=(0, looks.mtime), follow_symlinks=False)


class Seen(NamedTuple):
    """All that a process in the root filesystem can see of an entry."""

    mode: str
    owner: tuple[int, int]
    mtime: int
    device: int
    content: bytes
    xattrs: dict[str, bytes]
    links: list[str]
    """Names that are the same file."""


def seen(root: str) -> dict[str, Seen]:
    """Every entry of a tree, with its root, which is "."."""
    found: dict[str, os.stat_result] = {root: os.stat(root)}
    inodes: dict[tuple[int, int], list[str]] = {(found[root].st_dev, found[root].st_ino): ["."]}
    for parent, directories, names in os.walk(root):
        for each in (*directories, *names):
            path = f"{parent}/{each}"
            if os.path.lexists(path):  # overlayfs lists a whiteout where no layer below has the directory
                found[path] = os.lstat(path)
                inodes.setdefault((found[path].st_dev, found[path].st_ino), []).append(os.path.relpath(path, root))
    return {
        os.path.relpath(path, root): entry(path, about, sorted(inodes[about.st_dev, about.st_ino]))
        for path, about in found.items()
    }


def entry(path: str, about: os.stat_result, links: list[str]) -> Seen:
    what = b""
    if stat.S_ISREG(about.st_mode):
        what = content(path)
    elif stat.S_ISLNK(about.st_mode):
        what = os.fsencode(os.readlink(path))
    names = os.listxattr(path, follow_symlinks=False)
    xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    device = about.st_rdev if stat.S_ISCHR(about.st_mode) or stat.S_ISBLK(about.st_mode) else 0
    owner = about.st_uid, about.st_gid
    return Seen(stat.filemode(about.st_mode), owner, about.st_mtime_ns, device, what, xattrs, links)


def flattened(home: str | Path, stack: Sequence[str]) -> str:
    target = tempfile.mkdtemp(prefix="flat-", dir=home)
    flatten(stack, target)
    return target


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stack=st.lists(layers, min_size=1, max_size=4), repeated=st.integers(0, 9))
def test_any_stack_is_what_overlayfs_shows_of_it(place: Path, stack: list[Directory], repeated: int) -> None:
    home = tempfile.mkdtemp(dir=place)
    try:
        paths: dict[whiteouts.Form, list[str]] = {"overlay": [], "files": []}
        for form, made in paths.items():
            for number, layer in enumerate(stack):
                os.mkdir(f"{home}/{form}-{number}")
                Writing(form).fill(f"{home}/{form}-{number}", layer)
                made.append(f"{home}/{form}-{number}")
            made.insert(repeated % len(stack), made[-1])
        with overlaid(home, paths["overlay"]) as mounted:
            # The root itself is the writable layer's there.
            expected = seen(mounted) | {".": seen(paths["overlay"][-1])["."]}
        before = {path: seen(path) for path in (*paths["overlay"], *paths["files"])}
        for made in paths.values():
            target = flattened(home, made)
            assert seen(target) == expected
            for name, each in expected.items():
                if each.mode[0] != "d":
                    assert os.lstat(f"{target}/{name}").st_nlink == len(each.links)
        assert {path: seen(path) for path in before} == before
    finally:
        shutil.rmtree(home)


@contextmanager
def overlaid(home: str, stack: Sequence[str]) -> Iterator[str]:
    for name in ("upper", "work", "target"):
        os.mkdir(f"{home}/{name}")
    overlay.mount_overlay(stack, upper=f"{home}/upper", work=f"{home}/work", target=f"{home}/target")
    try:
        yield f"{home}/target"
    finally:
        mount.unmount(f"{home}/target")


@pytest.mark.parametrize("form", ["overlay", "files"])
async def test_an_image_is_flattened_as_the_specification_says(place: Path, form: whiteouts.Form) -> None:
    store = ImageStore(str(place / "images"))
    await store.open()
    store.whiteouts = form
    tars = (
        tar(directory("d"), member("d/old", data=b"1"), member("f", data=b"1"), member("e/gone"), member("g/x/y")),
        tar(
            member(".wh.f"), directory("d"), member("d/.wh..wh..opq"), member("d/new", data=b"2"), member("e/.wh.gone")
        ),
        tar(member("f/in", data=b"3"), member("g", data=b"now a file")),
        tar(member(".wh.g"), directory("g"), link("l", "d")),
    )
    [record] = await load(store, str(write_layout(place / "layout", image(*tars))), "x")
    target = flattened(place, store.layer_paths(record.diff_ids))
    assert tree(target) == {
        "d": "/",
        "d/new": "= 2",
        "e": "/",
        "f": "/",
        "f/in": "= 3",
        "g": "/",
        "l": "-> d",
    }


async def test_an_image_without_layers_is_an_empty_root(place: Path, store: ImageStore) -> None:
    [record] = await load(store, str(write_layout(place / "layout", image())), "x")
    assert tree(flattened(place, store.layer_paths(record.diff_ids))) == {}
    assert tree(flattened(place, [])) == {}


@pytest.fixture
def layer(place: Path) -> Callable[..., str]:
    """Makes a layer of files by name and content."""

    def make(**names: bytes) -> str:
        path = tempfile.mkdtemp(prefix="layer-", dir=place)
        for name, data in names.items():
            with open(f"{path}/{name}", "wb") as file:
                file.write(data)
        return path

    return make


@pytest.mark.parametrize("form", ["overlay", "files"])
def test_an_opaque_root_hides_every_layer_below(place: Path, layer: Callable[..., str], form: whiteouts.Form) -> None:
    upper = layer(b=b"2")
    whiteouts.make_opaque(upper, form)
    target = flattened(place, [layer(a=b"1"), upper])
    assert tree(target) == {"b": "= 2"}
    assert os.listxattr(target) == []


def test_what_only_looks_like_a_marker_is_content(place: Path, layer: Callable[..., str]) -> None:
    upper = layer(**{".wh.full": b"not empty", ".wh": b""})
    os.mkdir(f"{upper}/.wh.d")
    os.symlink("x", f"{upper}/.wh.l")
    target = flattened(place, [layer(full=b"1", d=b"2", l=b"3"), upper])
    assert tree(target) == {
        "full": "= 1", "d": "= 2", "l": "= 3", ".wh.full": "= not empty", ".wh": "= ", ".wh.d": "/", ".wh.l": "-> x",
    }  # fmt: skip


def test_symbolic_links_lead_nothing_out_of_the_target(place: Path) -> None:
    outside = str(place / "outside")
    for name in ("etc", "etc/deep"):
        os.makedirs(f"{outside}/{name}")
    with open(f"{outside}/secret", "w", encoding="utf-8") as file:
        file.write("secret")
    lower, middle, upper = str(place / "lower"), str(place / "middle"), str(place / "upper")
    for root in (lower, middle, upper):
        os.mkdir(root)
    for name in ("etc", "up", "secret"):
        os.symlink(f"{outside}/{name}", f"{lower}/{name}")
    os.symlink("../" * 20 + outside[1:], f"{lower}/climbs")
    os.mkdir(f"{lower}/sub")
    os.symlink(outside, f"{lower}/sub/etc")
    # A name that is a link in one layer is a directory in another, above or below it.
    for name in ("etc/deep", "climbs/etc", "sub/etc/deep"):
        os.makedirs(f"{middle}/{name}")
        with open(f"{middle}/{name}/file", "w", encoding="utf-8") as file:
            file.write("middle")
    os.symlink(outside, f"{upper}/sub")
    os.link(f"{upper}/sub", f"{upper}/same", follow_symlinks=False)
    before = seen(outside)
    target = flattened(place, [lower, middle, upper])
    assert seen(outside) == before
    assert tree(target) == {
        "etc": "/",
        "etc/deep": "/",
        "etc/deep/file": "= middle",
        "climbs": "/",
        "climbs/etc": "/",
        "climbs/etc/file": "= middle",
        "up": f"-> {outside}/up",
        "secret": f"-> {outside}/secret",
        "sub": f"-> {outside}",
        "same": f"-> {outside}",
    }


def test_a_directory_that_became_a_link_is_not_entered(place: Path) -> None:
    os.makedirs(place / "outside/d")
    os.symlink("outside", place / "link")
    root = os.open(place, os.O_PATH)
    try:
        for path in ("link", "link/d"):
            with pytest.raises(OSError, match=path), flattening._opened(root, path):
                pass
    finally:
        os.close(root)


def test_nothing_is_copied_that_an_upper_layer_hides(place: Path, layer: Callable[..., str]) -> None:
    lowest = layer(large=b"x" * (4 << 20))
    upper = layer(other=b"2")
    whiteouts.hide(f"{upper}/large", "overlay")
    with small_disk(place, "1m") as target:
        flatten([lowest, upper], target)
        assert tree(target) == {"other": "= 2"}


@contextmanager
def small_disk(place: Path, size: str, options: str = "") -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="disk-", dir=place)
    mount.mount("tmpfs", path, "tmpfs", data=f"size={size}{options}")
    try:
        yield path
    finally:
        mount.unmount(path)


def test_a_full_disk_says_so_and_names_the_file(place: Path, layer: Callable[..., str]) -> None:
    large = layer(large=b"x" * (4 << 20))
    os.mkdir(f"{large}/d")
    os.rename(f"{large}/large", f"{large}/d/large")
    descriptors = len(os.listdir("/proc/self/fd"))
    with small_disk(place, "1m") as target, pytest.raises(ResourceExhausted, match=r"/d/large'.*the disk is full"):
        flatten([large], target)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_disk_without_inodes_says_so(place: Path, layer: Callable[..., str]) -> None:
    many = layer(**{f"f{number}": b"" for number in range(50)})
    with small_disk(place, "1m", ",nr_inodes=20") as target, pytest.raises(ResourceExhausted, match="the disk is full"):
        flatten([many], target)


def test_a_layer_that_is_gone_is_named(place: Path, layer: Callable[..., str]) -> None:
    with pytest.raises(OperationFailed, match=r"/gone'.*No such file or directory"):
        flattened(place, [layer(a=b"1"), str(place / "gone")])


def test_a_target_with_something_in_it_is_left_as_it_is(place: Path, layer: Callable[..., str]) -> None:
    target = layer(a=b"mine")
    with pytest.raises(OperationFailed, match=r"/a'.*File exists"):
        flatten([layer(a=b"1")], target)
    assert tree(target) == {"a": "= mine"}


@pytest.fixture
def kinds(place: Path) -> str:
    """A layer with one of everything."""
    root = str(place / "kinds")
    os.makedirs(f"{root}/d/e")
    with open(f"{root}/sparse", "wb") as file:
        file.seek(8 << 20)
        file.write(b"middle")
        file.truncate(64 << 20)
    with open(f"{root}/hole", "wb") as file:
        file.truncate((16 << 20) + 1)
    with open(f"{root}/large", "wb") as file:
        file.write(os.urandom((3 << 20) + 17))
    os.link(f"{root}/large", f"{root}/d/again")
    os.link(f"{root}/large", f"{root}/d/e/again")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{root}/socket")
    os.mknod(f"{root}/loop", stat.S_IFBLK | 0o660, os.makedev(7, 0))
    os.mkfifo(f"{root}/fifo", 0o622)
    os.symlink("fifo", f"{root}/link")
    os.chmod(f"{root}/large", 0o4711)  # noqa: S103 - it is to be kept
    os.setxattr(f"{root}/large", "security.capability", CAPABILITY)
    os.setxattr(f"{root}/d/e", "user.note", b"\xff\0")
    for parent, directories, names in os.walk(root, topdown=False):
        for number, name in enumerate((*directories, *names)):
            os.utime(f"{parent}/{name}", ns=(0, 123_456_789_012_345_678 + number), follow_symlinks=False)
    return root


def test_everything_is_kept_on_the_same_disk(place: Path, kinds: str) -> None:
    assert_same(kinds, flattened(place, [kinds]))


def test_everything_is_kept_on_another_disk(place: Path, kinds: str) -> None:
    with small_disk(place, "32m") as target:
        flatten([kinds], target)
        assert_same(kinds, target)


@pytest.mark.parametrize("way", [flattening._copy_in_kernel, flattening._copy_by_hand])
def test_every_way_of_copying_gives_the_same(
    place: Path, kinds: str, monkeypatch: pytest.MonkeyPatch, way: flattening.Way
) -> None:
    monkeypatch.setattr(flattening, "_clone", way)  # the first that is tried
    assert_same(kinds, flattened(place, [kinds]))


def test_owners_and_capabilities_are_shifted_as_the_kernel_shifts_them(place: Path, kinds: str) -> None:
    some = IdMappings((IdRange(0, 300_000, 9), IdRange(9, 500_000, 99_999)), (IdRange(0, 400_000, 99_999),))
    for name, owner in (("fifo", 8), ("link", 9), ("d", 99_998), ("loop", 200_000)):
        os.chown(f"{kinds}/{name}", owner, owner + 1, follow_symlinks=False)
    target, shown = tempfile.mkdtemp(dir=place), tempfile.mkdtemp(dir=place)
    flatten([kinds], target, some)
    userns.inside(some, 0, lambda pid: mount.bind_idmapped(kinds, shown, f"/proc/{pid}/ns/user"))
    try:
        assert seen(target) == seen(shown)
        assert seen(target) != seen(kinds)
    finally:
        mount.unmount(shown)


def assert_same(source: str, target: str) -> None:
    assert seen(target) == seen(source)
    for name in ("sparse", "hole"):
        assert os.stat(f"{target}/{name}").st_blocks * 512 < 1 << 20


def test_layers_of_both_forms_mix(place: Path, layer: Callable[..., str]) -> None:
    lowest, middle, top = layer(a=b"1", b=b"1", c=b"1"), layer(a=b"2"), layer(b=b"3")
    whiteouts.hide(f"{middle}/b", "overlay")
    whiteouts.hide(f"{middle}/c", "files")
    assert tree(flattened(place, [lowest, middle])) == {"a": "= 2"}
    assert tree(flattened(place, [lowest, middle, top])) == {"a": "= 2", "b": "= 3"}
    # A layer that occurs twice counts where it is topmost.
    assert tree(flattened(place, [lowest, middle, lowest])) == {"a": "= 1", "b": "= 1", "c": "= 1"}


@pytest.fixture
def abyss(place: Path) -> Iterator[Path]:
    """A place for trees deeper than the standard library's rmtree can go."""
    path = place / "abyss"
    path.mkdir()
    yield path
    subprocess.run(["rm", "-r", path], check=True)


def test_trees_of_any_depth_are_flattened_with_few_descriptors(abyss: Path) -> None:
    roots = [str(abyss / "deep-0"), str(abyss / "deep-1")]
    depth = 2000
    for number, root in enumerate(roots):
        os.mkdir(root)
        at = os.open(root, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir("directory", dir_fd=at)
            below = os.open("directory", os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.close(os.open(f"end-{number}", os.O_WRONLY | os.O_CREAT, dir_fd=at))
        os.link(f"end-{number}", f"linked-{number}", src_dir_fd=at, dst_dir_fd=at)
        os.close(at)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 64, hard))
    try:
        target = flattened(abyss, roots)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found = subprocess.run(["find", target, "-printf", "%y%d %f\n"], check=True, capture_output=True, text=True)
    lines = found.stdout.splitlines()
    assert len([line for line in lines if line.startswith("d")]) == depth + 1
    files = [f"f{depth + 1} {name}-{number}" for name in ("end", "linked") for number in (0, 1)]
    assert sorted(line for line in lines if line.startswith("f")) == sorted(files)
