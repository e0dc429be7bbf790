"""Records, indexes and files: what a crash or a stranger may have left is never taken for ours."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ocishim.errors import AlreadyExists
from ocishim.linux import files
from ocishim.model import SandboxId, SandboxMetadata, SandboxStatus
from ocishim.store.index import Index
from ocishim.store.records import Records

if TYPE_CHECKING:
    from pathlib import Path

ID = "a" * 64


def metadata(record_id: str = ID) -> SandboxMetadata:
    return SandboxMetadata(
        id=SandboxId(record_id),
        name="n",
        namespace="ns",
        uid="u",
        attempt=0,
        created_at=1,
        boot_id="b",
        runtime_handler="",
        runtime="crun",
        hostname="h",
        cgroup_parent="/c",
        owns_cgroup=True,
        namespaces=("net",),
        shared_pid=False,
        config=b"\x00\xff",
    )


@pytest.fixture
def records(tmp_path: Path) -> Records[SandboxMetadata, SandboxStatus]:
    (tmp_path / "sandboxes").mkdir()
    (tmp_path / "aside").mkdir()
    return Records(str(tmp_path / "sandboxes"), str(tmp_path / "aside"), SandboxMetadata, SandboxStatus)


RecordsOfPods = Records[SandboxMetadata, SandboxStatus]


async def test_what_was_written_is_read_again(records: RecordsOfPods) -> None:
    await records.create(ID, metadata(), SandboxStatus())
    await records.update(ID, SandboxStatus(ready_at=5, ips=("10.0.0.1",)))
    (found,) = records.load()
    assert found.metadata == metadata()
    assert found.status == SandboxStatus(ready_at=5, ips=("10.0.0.1",))
    await records.remove(ID)
    await records.remove(ID)
    assert list(records.load()) == []


async def test_records_from_before_there_were_drivers_and_updates_are_read(
    records: RecordsOfPods, tmp_path: Path
) -> None:
    await records.create(ID, metadata(), SandboxStatus(ready_at=5))
    for name, newer in (
        ("metadata.json", ("cgroup_driver", "monitor_cgroup")),
        ("status.json", ("resources", "overhead", "inherits_cgroup")),
    ):
        file = tmp_path / "sandboxes" / ID / name
        older = {key: value for key, value in json.loads(file.read_text()).items() if key not in newer}
        file.write_text(json.dumps(older))
    (found,) = records.load()
    assert (found.metadata, found.status) == (metadata(), SandboxStatus(ready_at=5))


async def test_limits_are_kept_as_bytes(records: RecordsOfPods) -> None:
    status = SandboxStatus(ready_at=5, resources=b"\x18\xff\x00", overhead=b"")
    await records.create(ID, metadata(), status)
    (found,) = records.load()
    assert found.status == status


@pytest.mark.parametrize("file", ["metadata.json", "status.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"null", b'{"version": 2}', b'{"version": 1, "surprise": 1}'])
async def test_a_torn_or_foreign_record_is_set_aside_and_costs_only_itself(
    records: RecordsOfPods, tmp_path: Path, file: str, content: bytes
) -> None:
    await records.create(ID, metadata(), SandboxStatus())
    other = "b" * 64
    await records.create(other, metadata(other), SandboxStatus())
    (tmp_path / "sandboxes" / ID / file).write_bytes(content)
    assert [each.metadata.id for each in records.load()] == [other]
    assert len(records.set_aside) == 1
    assert (tmp_path / "aside").joinpath(os.path.basename(records.set_aside[0]), file).read_bytes() == content


async def test_a_record_under_another_id_is_set_aside(records: RecordsOfPods, tmp_path: Path) -> None:
    await records.create(ID, metadata(), SandboxStatus())
    (tmp_path / "sandboxes" / ID).rename(tmp_path / "sandboxes" / ("c" * 64))
    assert list(records.load()) == []
    assert len(records.set_aside) == 1


def test_what_a_crash_left_before_the_metadata_is_removed(records: RecordsOfPods, tmp_path: Path) -> None:
    left = tmp_path / "sandboxes" / ID
    left.mkdir()
    (left / "metadata.json.tmp").write_text("{")
    assert list(records.load()) == []
    assert not left.exists()
    assert records.set_aside == []


async def test_a_failed_create_leaves_nothing(records: RecordsOfPods, tmp_path: Path) -> None:
    await records.create(ID, metadata(), SandboxStatus())
    with pytest.raises(FileExistsError):
        await records.create(ID, metadata(), SandboxStatus())
    assert len(list(records.load())) == 1


@dataclass(frozen=True)
class Item:
    """Something with an id and a name."""

    id: str
    name_key: str


def test_an_index_finds_by_id_by_its_only_beginning_and_by_name() -> None:
    index: Index[Item] = Index("item")
    first, second = Item("abc1", "x"), Item("abd2", "y")
    index.add(first)
    index.add(second)
    assert index.find("abc1") is first
    assert index.find("abd") is second
    assert index.find("ab") is None
    assert index.find("") is None
    assert index.find("zzz") is None
    assert index.named("y") is second
    with pytest.raises(AlreadyExists):
        index.add(Item("eee", "x"))
    index.discard(first)
    index.discard(first)
    assert index.find("ab") is second
    assert index.named("x") is None
    assert len(index) == 1


def test_an_atomic_write_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"two"):
        files.write_atomic(str(path), content, mode=0o640)
        assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_write_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "file"
    with pytest.raises(OSError, match="missing"):
        files.write_atomic(str(path), b"x")


def test_links_inside_a_root_never_lead_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "climbing").symlink_to("../../../../etc/passwd")
    (root / "out").symlink_to(str(tmp_path / "secret"))
    for name in ("/etc/passwd", "absolute", "climbing", "../etc/passwd"):
        assert files.read_beneath(str(root), name, limit=100) == b"inside"
    assert files.read_beneath(str(root), "out", limit=100) is None
    assert files.read_beneath(str(root), "none", limit=100) is None


def test_a_fifo_is_not_waited_for_and_a_long_file_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "long").write_bytes(b"x" * 11)
    for name in ("fifo", "long"):
        with pytest.raises(OSError, match=name):
            files.read_beneath(str(tmp_path), name, limit=10)


def test_directories_are_made_inside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "link").symlink_to("/real")
    files.make_directory_beneath(str(root), "/link/a/b")
    assert (root / "real/a/b").is_dir()
    files.make_directory_beneath(str(root), "/")
    (root / "file").touch()
    with pytest.raises(NotADirectoryError):
        files.make_directory_beneath(str(root), "/file/x")


def test_a_trees_usage_counts_blocks_and_inodes(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"x" * 10_000)
    used, inodes = files.tree_usage(str(tmp_path))
    assert inodes == 2
    assert used >= 10_000
    assert files.tree_usage(str(tmp_path / "none")) == (0, 0)
