"""What a checkpoint's documents say, and what a stranger's may not."""

from __future__ import annotations

import json
import os
import posixpath
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocishim.api.runtime import v1
from ocishim.errors import FailedPrecondition, InvalidArgument, NotFound, OcishimError
from ocishim.images import checkpoint as archives
from ocishim.linux import files
from ocishim.model import ContainerId, ContainerMetadata, SandboxId, SandboxMetadata
from ocishim.spec import checkpoint as spec
from ocishim.spec import runtime
from ocishim.translate import restore

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = {"id": "c", "name": "k8s_x", "rootfsImage": "busybox"}
PROCESS = {"args": ["sh", "-c", "x"], "env": ["A=1", "B=2=3", "=", "C"], "cwd": "/srv", "terminal": False}
MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/etc/hosts", "type": "bind", "source": "/x/hosts"},
    {"destination": "/data", "type": "bind", "source": "/x/data"},
]


def dumps(process: dict[str, Any] | None = None, mounts: Any = None) -> spec.Dumps:
    document = {"ociVersion": "1.0.2", "process": process or PROCESS, "mounts": mounts, "solaris": {}}
    return spec.parse_dumps(json.dumps(CONFIG).encode(), json.dumps(document).encode(), "it")


def restored(found: spec.Dumps, **fields: Any) -> v1.ContainerConfig:
    return restore.restored_config(v1.ContainerConfig(**fields), found, "checkpoint x")


def test_what_the_request_leaves_open_is_the_checkpoints() -> None:
    config = restored(dumps(), envs=[v1.KeyValue("A", b"mine")])
    assert (config.command, config.args, config.working_dir) == (["sh", "-c", "x"], [], "/srv")
    assert {each.key: each.value for each in config.envs} == {"A": b"mine", "B": b"2=3", "C": b""}


def test_what_the_request_says_counts() -> None:
    config = restored(dumps(), command=["own"], args=["arg"], working_dir="/w")
    assert (config.command, config.args, config.working_dir) == (["own"], ["arg"], "/w")


def test_an_archive_brings_no_mounts_of_its_own() -> None:
    found = dumps(mounts=MOUNTS)
    assert restored(found).mounts == []
    with pytest.raises(FailedPrecondition, match=r"mounts that the request does not have: /data$"):
        restore.check_mounts(
            [runtime.Mount(destination="/srv", type="bind", source="/x", options=[])], found, "checkpoint x"
        )


def test_a_mount_may_come_from_the_request_or_the_operator() -> None:
    made = [runtime.Mount(destination="/data", type="bind", source="/elsewhere", options=[])]
    restore.check_mounts(made, dumps(mounts=MOUNTS), "checkpoint x")


@pytest.mark.parametrize(
    ("process", "expected"),
    [({**PROCESS, "terminal": True}, "has a terminal"), ({**PROCESS, "args": None}, "no process")],
)
def test_a_process_that_does_not_fit_is_refused(process: dict[str, Any], expected: str) -> None:
    with pytest.raises(FailedPrecondition, match=expected):
        restored(dumps(process))


def metadata() -> tuple[ContainerMetadata, SandboxMetadata]:
    sandbox = SandboxMetadata(
        id=SandboxId("p"),
        name="pod",
        namespace="ns",
        uid="u",
        attempt=2,
        created_at=1,
        boot_id="b",
        runtime_handler="criu",
        runtime="criu",
        hostname="h",
        cgroup_parent="/c",
        owns_cgroup=True,
        namespaces=(),
        shared_pid=False,
        config=b"",
    )
    container = ContainerMetadata(
        id=ContainerId("c"),
        sandbox_id=SandboxId("p"),
        name="web",
        attempt=3,
        created_at=1_700_000_000_000_000_007,
        boot_id="b",
        runtime="criu",
        image_id="sha256:i",
        diff_ids=(),
        user_specified_image="busybox",
        image_ref="sha256:i",
        log_path="/l/web.log",
        cgroup="/c/c",
        stop_signal=15,
        tty=False,
        stdin=False,
        stdin_once=False,
        config=b"",
    )
    return container, sandbox


def test_config_dump_is_as_cri_o_writes_it() -> None:
    written = restore.config_dump(*metadata(), "host/busybox@sha256:d", 1_800_000_000_500_000_000)
    assert json.loads(written.model_dump_json(by_alias=True)) == {
        "id": "c",
        "name": "k8s_web_pod_ns_u_3",
        "rootfsImage": "busybox",
        "rootfsImageRef": "sha256:i",
        "rootfsImageName": "host/busybox@sha256:d",
        "runtime": "criu",
        "createdTime": "2023-11-14T22:13:20.000000007Z",
        "checkpointedTime": "2027-01-15T08:00:00.500000000Z",
        "restored": False,
    }


def test_spec_dump_is_config_json_with_what_others_look_for() -> None:
    container, _ = metadata()
    bundle = runtime.RuntimeSpec(
        process=runtime.Process(user=runtime.User(uid=0, gid=0), args=["x"], env=[], cwd="/"),
        root=runtime.Root(path="/r"),
        mounts=[],
        linux=runtime.Linux(cgroups_path="/c", namespaces=[], resources=runtime.Resources()),
        annotations={"kept": "1"},
    )
    written = restore.spec_dump(bundle, container, v1.ContainerConfig(annotations={"a": "b"}))
    annotations = json.loads(written.to_json())["annotations"]
    assert annotations["kept"] == "1"
    assert json.loads(annotations["io.kubernetes.cri-o.Annotations"]) == {"a": "b"}
    assert json.loads(annotations["io.kubernetes.cri-o.Metadata"]) == {"name": "web", "attempt": 3}
    assert (annotations["io.kubernetes.cri-o.LogPath"], annotations["io.container.manager"]) == ("/l/web.log", "cri-o")
    assert spec.SpecDump.model_validate_json(written.to_json()).process.args == ["x"]


@given(st.binary(max_size=60) | st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps(x).encode()))
def test_documents_of_anything_are_refused_in_one_way(content: bytes) -> None:
    for parse in (
        lambda: spec.parse_dumps(content, content, "it"),
        lambda: spec.parse_deleted(content, "it"),
        lambda: spec.parse_pod_options(content, "it"),
    ):
        words = "it"
        try:
            parse()
        except InvalidArgument as error:
            words = str(error)
        assert words.startswith("it")


@given(st.text(alphabet="./ab\0", max_size=12))
def test_no_name_leads_out(name: str) -> None:
    try:
        found = spec.inside(name, "it")
    except InvalidArgument:
        return
    assert not posixpath.isabs(found)
    assert ".." not in found.split("/")


@pytest.mark.parametrize("file", ["", ".", "..", "../a.tar", "/a.tar", "a/b"])
def test_a_pods_archives_lie_beside_its_options(file: str) -> None:
    with pytest.raises(InvalidArgument, match="is no name of a file"):
        spec.parse_pod_options(json.dumps({"version": 1, "containers": {"x": file}}).encode(), "it")


def test_options_of_a_later_version_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="version 2"):
        spec.parse_pod_options(b'{"version": 2, "containers": {}}', "it")


def archive(directory: Path) -> Path:
    source = directory / "source"
    (source / "checkpoint").mkdir(parents=True)
    (source / "config.dump").write_text(json.dumps(CONFIG))
    (source / "spec.dump").write_text(json.dumps({"process": PROCESS}))
    (source / "checkpoint" / "pages-1.img").write_bytes(b"memory" * 1000)
    (source / "unknown").write_text("not taken")
    archives.write(str(source), str(directory / "a.tar"), "")
    return directory / "a.tar"


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = archive(tmp_path)
    assert archives.dumps(str(path)).config.name == "k8s_x"
    (tmp_path / "out").mkdir()
    archives.unpack(str(path), str(tmp_path / "out"), keep_free=0)
    assert (tmp_path / "out" / "checkpoint" / "pages-1.img").read_bytes() == b"memory" * 1000
    assert {each.name for each in (tmp_path / "out").iterdir()} == {"config.dump", "spec.dump", "checkpoint"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(position=st.integers(0, 12000), garbage=st.binary(min_size=1, max_size=40), cut=st.booleans())
def test_a_damaged_archive_is_read_or_refused_never_worse(
    tmp_path: Path, position: int, garbage: bytes, cut: bool
) -> None:
    whole = tmp_path / "a.tar"
    if not whole.exists():
        archive(tmp_path)
    content = whole.read_bytes()
    damaged = content[:position] + (b"" if cut else garbage + content[position + len(garbage) :])
    (tmp_path / "damaged.tar").write_bytes(damaged)
    files.remove_tree(str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    try:
        archives.dumps(str(tmp_path / "damaged.tar"))
        archives.unpack(str(tmp_path / "damaged.tar"), str(tmp_path / "out"), keep_free=0)
    except OcishimError:
        pass
    assert {each.name for each in (tmp_path / "out").iterdir()} <= {"config.dump", "spec.dump", "checkpoint"}


def test_an_archive_that_is_larger_than_the_disk_is_refused_before_it_fills_it(tmp_path: Path) -> None:
    path = archive(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(OcishimError, match="do not fit on the disk"):
        archives.unpack(str(path), str(tmp_path / "out"), keep_free=1 << 60)


def test_a_path_that_is_no_archive_is_refused_and_a_fifo_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, error in ((tmp_path, InvalidArgument), (tmp_path / "fifo", InvalidArgument), (tmp_path / "no", NotFound)):
        with pytest.raises(error):
            archives.dumps(str(path))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("before")

    def fail() -> None:
        with files.replacing(str(target)) as fd, open(fd, "wb", closefd=False) as file:
            file.write(b"half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "before"
    with files.replacing(str(target)) as fd, open(fd, "wb", closefd=False) as file:
        file.write(b"after")
    assert target.read_text() == "after"
    assert [each.name for each in tmp_path.iterdir()] == ["target"]
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_tar_within_a_tar_is_told_from_a_checkpoint(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("something"))
    with pytest.raises(InvalidArgument, match=r"no config\.dump and no spec\.dump"):
        archives.dumps(str(tmp_path / "t.tar"))
