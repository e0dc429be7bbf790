"""Files of the host that are read again only when they change, replaced inside a root, and labelled."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ocishim.errors import FailedPrecondition, InvalidArgument
from ocishim.lifecycle.data_files import DataFiles
from ocishim.linux import files, labels
from ocishim.linux.remembered import Remembered
from ocishim.linux.shipped import shipped

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_parsed_again_only_when_it_is_another(tmp_path: Path) -> None:
    parsed: list[str] = []

    def parse(content: bytes, path: str) -> bytes:
        parsed.append(path)
        return content

    remembered, file = Remembered(parse, limit=100), tmp_path / "f"
    file.write_bytes(b"one")
    assert [remembered.read(str(file)) for _ in range(3)] == [b"one"] * 3
    assert len(parsed) == 1
    file.write_bytes(b"three")
    assert remembered.read(str(file)) == b"three"
    other = tmp_path / "other"
    other.write_bytes(b"other")
    other.rename(file)
    assert remembered.read(str(file)) == b"other"
    file.unlink()
    with pytest.raises(FileNotFoundError):
        remembered.read(str(file))


def test_what_is_no_file_or_too_long_is_not_read(tmp_path: Path) -> None:
    remembered = Remembered(lambda content, _: content, limit=10)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "long").write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="not a regular file"):
        remembered.read(str(tmp_path / "fifo"))
    with pytest.raises(OSError, match="longer than 10"):
        remembered.read(str(tmp_path / "long"))


def test_no_more_than_some_files_are_remembered(tmp_path: Path) -> None:
    remembered = Remembered(lambda content, _: content, limit=10)
    for number in range(300):
        (tmp_path / str(number)).write_bytes(b"x")
        remembered.read(str(tmp_path / str(number)))
    assert len(remembered._known) <= 256


def test_the_shipped_profile_is_there() -> None:
    assert DataFiles().seccomp_profile(shipped("seccomp.json")).syscalls
    with pytest.raises(FailedPrecondition, match="/none"):
        DataFiles().seccomp_profile("/none")


def test_cdi_directories_that_are_not_there_are_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "note.txt").write_text("{")
    (tmp_path / ".hidden.json").write_text("{")
    missing = [f"{tmp_path}/none", f"{tmp_path}/file", str(tmp_path)]
    assert DataFiles().cdi_files(missing) == ([], {})


def test_a_later_directorys_hook_replaces_an_earlier_one_of_its_name(tmp_path: Path) -> None:
    hook = '{"version": "1.0.0", "hook": {"path": "%s"}, "when": {"always": true}, "stages": ["prestart"]}'
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "same.json").write_text(hook % f"/{place}")
    (tmp_path / "a/other.json").write_text(hook % "/other")
    found = DataFiles().hook_files([f"{tmp_path}/a", f"{tmp_path}/b"])
    assert {name: file.hook.path for name, file in found.items()} == {"same.json": "/b", "other.json": "/other"}


@pytest.mark.parametrize("link", ["/etc/zone", "../../../../../../etc/passwd", "localtime"])
def test_a_file_in_a_root_is_replaced_and_its_link_not_followed(tmp_path: Path, link: str) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/zone").write_text("zone")
    (root / "etc/localtime").symlink_to(link)
    files.replace_beneath(str(root), "/etc/localtime", b"new")
    assert (root / "etc/localtime").read_bytes() == b"new"
    assert not (root / "etc/localtime").is_symlink()
    assert (root / "etc/zone").read_text() == "zone"


def test_a_directory_that_leads_out_is_resolved_inside(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "outside").mkdir(parents=True)
    outside.mkdir()
    (root / "etc").symlink_to("../outside")
    files.replace_beneath(str(root), "/etc/localtime", b"new")
    assert (root / "outside/localtime").read_bytes() == b"new"
    assert not any(outside.iterdir())


def test_a_tree_gets_its_label_and_what_links_point_at_does_not(tmp_path: Path) -> None:
    """By an attribute that any user may set, in place of SELinux's own."""
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep/file").write_text("")
    outside.write_text("")
    attribute = "user.label"
    try:
        os.setxattr(outside, "user.probe", b"")
    except OSError as error:
        pytest.skip(f"{tmp_path} has no attributes: {error}")
    labels.relabel(str(tree), "label", "field", attribute)
    assert [os.getxattr(path, attribute) for path in (tree, tree / "deep", tree / "deep/file")] == [b"label"] * 3
    assert attribute not in os.listxattr(outside)


@pytest.mark.parametrize("path", ["/", "/etc", "/usr/", "/var/lib"])
def test_the_hosts_own_directories_are_not_relabelled(path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"config\.mounts\[0\]"):
        labels.relabel(path, "label", "config.mounts[0].selinux_relabel")
