"""What a container has changed of its image, gathered from overlayfs itself and laid over another root."""

from __future__ import annotations

import os
import socket
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from ocishim.errors import InvalidArgument
from ocishim.images.changes import gather, lay_over
from ocishim.images.overlay import mount_overlay
from ocishim.linux import mount
from ocishim.linux.namespace import in_fresh_thread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Tree:
    """A mounted root filesystem of one layer."""

    def __init__(self, place: Path, lower: Path) -> None:
        self.lower, self.upper, self.root = lower, place / "upper", place / "root"
        for directory in (self.upper, place / "work", self.root):
            directory.mkdir(parents=True)
        mount_overlay([str(lower)], upper=str(self.upper), work=str(place / "work"), target=str(self.root))

    def gather(self, tar: Path, **options: Any) -> list[str]:
        return gather(str(self.upper), [str(self.lower)], str(tar), skip=["/mounted", "proc"], **options)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A filesystem that overlayfs takes."""
    mount.mount("changes", str(tmp_path), "tmpfs")
    lower = tmp_path / "lower"
    for name in ("etc", "keep", "gone", "emptied", "mounted"):
        (lower / name).mkdir(parents=True)
        (lower / name / "file").write_text(f"old {name}")
    yield tmp_path
    for name in ("one", "two"):
        mount.unmount_all(str(tmp_path / name / "root"))
    mount.unmount_all(str(tmp_path))


def look(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text() if path.is_file() else oct(path.lstat().st_mode)
        for path in root.rglob("*")
    }


async def test_changes_make_the_same_tree_of_the_same_image(place: Path) -> None:
    one, two = Tree(place / "one", place / "lower"), Tree(place / "two", place / "lower")
    root = one.root
    (root / "etc/file").write_text("changed")
    (root / "etc/.wh.strange").write_text("a name like a marker")
    os.chmod(root / "keep", 0o700)
    for name in ("gone", "emptied"):
        (root / name / "file").unlink()
        (root / name).rmdir()
    (root / "emptied").mkdir()
    (root / "emptied/new").write_text("new")
    os.link(root / "emptied/new", root / "hard")
    os.symlink("/etc/file", root / "soft")
    os.mkfifo(root / "fifo")
    os.chown(root / "hard", 5, 6)
    os.setxattr(root / "hard", "security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
    deleted = one.gather(place / "diff.tar")
    assert sorted(deleted) == ["emptied/file", "gone"]
    await in_fresh_thread(lambda: lay_over(str(two.root), str(place / "diff.tar"), deleted, "it"), "lay-over")
    (root / "fifo").unlink()
    (two.root / "fifo").unlink()
    assert look(two.root) == look(root)
    found = (two.root / "hard").stat()
    assert (found.st_uid, found.st_gid, found.st_nlink) == (5, 6, 2)
    assert os.getxattr(two.root / "hard", "security.capability") == os.getxattr(root / "hard", "security.capability")
    assert os.readlink(two.root / "soft") == "/etc/file"


def test_what_mounts_cover_and_sockets_are_left_out(place: Path) -> None:
    one = Tree(place / "one", place / "lower")
    (one.root / "mounted/below").write_text("x")
    (one.root / "proc").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(one.root / "socket"))
    assert one.gather(place / "diff.tar") == []
    with tarfile.open(place / "diff.tar") as tar:
        assert tar.getnames() == []


def test_a_root_that_is_a_copy_is_gathered_whole(place: Path) -> None:
    one = Tree(place / "one", place / "lower")
    (one.upper / "etc").mkdir()
    (one.upper / "etc/file").write_text("x")
    assert sorted(one.gather(place / "diff.tar", whole=True)) == ["emptied", "gone", "keep"]


async def test_links_of_the_root_lead_nowhere_outside(place: Path) -> None:
    two = Tree(place / "two", place / "lower")
    outside = place / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    os.symlink(str(outside), two.root / "way")
    with tarfile.open(place / "diff.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("way/planted"))
    with pytest.raises(InvalidArgument):
        await in_fresh_thread(lambda: lay_over(str(two.root), str(place / "diff.tar"), [], "it"), "lay-over")
    await in_fresh_thread(lambda: lay_over(str(two.root), None, ["way/precious"], "it"), "lay-over")
    assert [each.name for each in outside.iterdir()] == ["precious"]
