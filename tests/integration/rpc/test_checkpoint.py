"""Checkpoint and restore, with what stands in for CRIU, and without it."""

from __future__ import annotations

import io
import json
import platform
import signal
import tarfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from ocishim.api.runtime import v1
from ocishim.linux import mount
from rpc import fake_criu, layouts, mapped
from rpc.node import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpc.node import Node, Pods

INVALID, FAILED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
NOT_FOUND = grpc.StatusCode.NOT_FOUND


@dataclass
class Site:
    """A server with a runtime that checkpoints."""

    node: Node
    pods: Pods
    script: Path
    archives: Path

    def checkpoint(self, container_id: str, name: str = "a.tar", **fields: Any) -> Path:
        target = self.archives / name
        request = pb.CheckpointContainerRequest(container_id=container_id, location=str(target), **fields)
        self.node.runtime.CheckpointContainer(request)
        return target

    def call(self, rpc: str, request: Any, response: type[Any]) -> Any:
        """An RPC that the client's stubs are too old for."""
        assert self.node.channel is not None
        unary = self.node.channel.unary_unary(f"/runtime.v1.RuntimeService/{rpc}")
        return response().parse(unary(bytes(request)))

    def flag(self, name: str) -> Path:
        return self.script.with_name(f"{self.script.name}.{name}")

    def calls(self) -> list[str]:
        path = self.flag("calls")
        return path.read_text().splitlines() if path.exists() else []

    def writer(self, sandbox_id: str, **fields: Any) -> str:
        """A container that has changed its image: something new, something gone, a directory made anew."""
        script = (
            "echo new > /root/new; rm /etc/notexecutable; rm -r /srv 2>/dev/null; mkdir /srv; echo s > /srv/s; "
            "ln -s new /root/link; chmod 700 /etc; echo begun; while :; do sleep 0.05; done"
        )
        container_id = self.pods.start(sandbox_id, "sh", "-c", script, log_path="writer.log", **fields)
        log = Path(self.pods.status(container_id).log_path)
        deadline = time.monotonic() + 10
        while "begun" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return container_id

    def restorer(self, sandbox_id: str, image: str, name: str = "again", **fields: Any) -> Any:
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image=image), log_path=f"{name}.log", **fields
        )
        return pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config)

    def restore(self, sandbox_id: str, image: str, **fields: Any) -> str:
        request = self.restorer(sandbox_id, image, **fields)
        container_id: str = self.node.runtime.CreateContainer(request).container_id
        self.node.runtime.StartContainer(pb.StartContainerRequest(container_id=container_id))
        return container_id


@pytest.fixture(scope="module")
def script(node: Node) -> Iterator[Path]:
    """The runtime, configured as `criu`."""
    drop_ins, path = Path(f"{node.config}.d"), node.scratch / "fake-criu"
    drop_ins.mkdir()
    fake_criu.install(path, node.runtime_name)
    (drop_ins / "criu.toml").write_text(f'[runtimes.criu]\npath = "{path}"\n')
    node.restart()
    yield path
    (drop_ins / "criu.toml").unlink()
    drop_ins.rmdir()
    node.restart()


@pytest.fixture
def site(node: Node, pods: Pods, script: Path, tmp_path: Path) -> Iterator[Site]:
    made = Site(node, pods, script, tmp_path)
    yield made
    for name in ("calls", "refuse", "slow"):
        made.flag(name).unlink(missing_ok=True)
    assert not list(node.root.glob("containers/*/checkpoint"))


def names(archive: Path) -> set[str]:
    with tarfile.open(archive) as tar:
        return set(tar.getnames())


def document(archive: Path, name: str) -> Any:
    with tarfile.open(archive) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return json.loads(file.read())


def test_without_criu_the_runtimes_own_words_are_told_and_the_container_goes_on(
    node: Node, pods: Pods, tmp_path: Path
) -> None:
    sandbox_id = pods.run()
    container_id = pods.sleeper(sandbox_id)
    request = pb.CheckpointContainerRequest(container_id=container_id, location=str(tmp_path / "a.tar"))
    code, words = refusal(node.runtime.CheckpointContainer, request)
    assert code == FAILED
    assert f"{node.runtime_name} checkpoint" in words
    assert ("unknown command checkpoint" in words) if node.runtime_name == "crun" else ("criu" in words)
    assert pods.exec(container_id, "echo", "alive").stdout == b"alive\n"
    assert not list(tmp_path.iterdir())
    assert not list(node.root.glob("containers/*/checkpoint"))


def test_the_archive_is_laid_out_as_cri_os(site: Site) -> None:
    host = site.archives / "host"
    host.mkdir(mode=0o750)
    sandbox_id = site.pods.run(handler="criu")
    mounts = [pb.Mount(container_path="/data", host_path=str(host))]
    container_id = site.writer(sandbox_id, name="writer", mounts=mounts, annotations={"a": "b"})
    archive = site.checkpoint(container_id)
    assert archive.stat().st_mode & 0o777 == 0o600
    assert names(archive) == {
        "config.dump",
        "spec.dump",
        "bind.mounts",
        "deleted.files",
        "dump.log",
        "rootfs-diff.tar",
        "checkpoint",
        "checkpoint/pages-1.img",
        "io.kubernetes.cri-o.LogPath",
    }
    config = document(archive, "config.dump")
    image = site.node.images.ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image="busybox"))).image
    assert (config["id"], config["rootfsImageRef"], config["runtime"]) == (container_id, image.id, "criu")
    assert config["name"].startswith("k8s_writer_")
    assert document(archive, "bind.mounts") == [
        {"source": str(host), "destination": "/data", "file_type": "directory", "permissions": 0o750}
    ]
    spec = document(archive, "spec.dump")
    assert spec["process"]["args"][:2] == ["sh", "-c"]
    assert json.loads(spec["annotations"]["io.kubernetes.cri-o.Annotations"]) == {"a": "b"}
    assert document(archive, "deleted.files") == ["etc/notexecutable"]
    with tarfile.open(archive) as tar:
        with tarfile.open(fileobj=io.BytesIO(tar.extractfile("rootfs-diff.tar").read())) as inner:  # type: ignore[union-attr]
            assert {"root/new", "root/link", "srv", "srv/s", "etc"} <= set(inner.getnames())
            assert not {"data", "proc", "dev", "etc/resolv.conf"} & set(inner.getnames())
        log = tar.extractfile("io.kubernetes.cri-o.LogPath").read()  # type: ignore[union-attr]
    assert b"begun" in log


def test_processes_are_paused_while_they_are_read_and_go_on(site: Site) -> None:
    container_id = site.pods.sleeper(site.pods.run(handler="criu"))
    site.checkpoint(container_id)
    assert any("paused" in line for line in site.calls())
    assert any("--leave-running" in line for line in site.calls())
    assert site.pods.exec(container_id, "echo", "alive").stdout == b"alive\n"


def test_a_refusal_leaves_the_container_running_and_nothing_behind(site: Site) -> None:
    container_id = site.pods.sleeper(site.pods.run(handler="criu"))
    site.flag("refuse").touch()
    request = pb.CheckpointContainerRequest(container_id=container_id, location=str(site.archives / "a.tar"))
    code, words = refusal(site.node.runtime.CheckpointContainer, request)
    assert code == FAILED
    assert "criu failed: type DUMP errno 1" in words
    assert "refused on purpose" in words
    assert site.pods.exec(container_id, "echo", "alive").stdout == b"alive\n"
    assert not list(site.archives.iterdir())


def test_a_mount_whose_source_is_gone_is_named_and_the_container_goes_on(site: Site) -> None:
    host = site.archives / "host"
    host.mkdir()
    mounts = [pb.Mount(container_path="/data", host_path=str(host))]
    container_id = site.pods.sleeper(site.pods.run(handler="criu"), mounts=mounts)
    host.rmdir()
    request = pb.CheckpointContainerRequest(container_id=container_id, location=str(site.archives / "a.tar"))
    code, words = refusal(site.node.runtime.CheckpointContainer, request)
    assert code == FAILED
    assert str(host) in words
    assert site.pods.exec(container_id, "echo", "alive").stdout == b"alive\n"
    assert not list(site.archives.iterdir())


def test_a_checkpoint_past_its_time_is_given_up(site: Site) -> None:
    container_id = site.pods.sleeper(site.pods.run(handler="criu"))
    site.flag("slow").touch()
    request = pb.CheckpointContainerRequest(container_id=container_id, location=str(site.archives / "a.tar"), timeout=1)
    code, words = refusal(site.node.runtime.CheckpointContainer, request)
    assert code == FAILED
    assert "within 1 s" in words
    assert site.pods.exec(container_id, "echo", "alive").stdout == b"alive\n"
    assert not list(site.archives.iterdir())


def test_a_server_killed_in_the_middle_leaves_no_paused_container(site: Site) -> None:
    container_id = site.pods.sleeper(site.pods.run(handler="criu"))
    site.flag("slow").touch()
    request = pb.CheckpointContainerRequest(container_id=container_id, location=str(site.archives / "a.tar"))
    call = site.node.runtime.CheckpointContainer.future(request)  # held: one that nobody holds is cancelled
    deadline = time.monotonic() + 10
    while not site.calls():
        assert time.monotonic() < deadline, call
        time.sleep(0.01)
    site.node.restart(signal.SIGKILL)
    assert call.code() is not grpc.StatusCode.OK
    assert site.pods.exec(container_id, "echo", "alive", timeout=10).stdout == b"alive\n"
    assert not list(site.archives.iterdir())


def test_a_stop_does_not_wait_for_a_checkpoint_and_a_removal_leaves_nothing_of_it(site: Site) -> None:
    sandbox_id = site.pods.run(handler="criu")
    container_id = site.pods.sleeper(sandbox_id)
    failures: list[object] = []
    request = pb.CheckpointContainerRequest(container_id=container_id, location=str(site.archives / "a.tar"), timeout=3)
    site.flag("slow").touch()
    thread = threading.Thread(
        target=lambda: failures.append(refusal(site.node.runtime.CheckpointContainer, request)[0])
    )
    thread.start()
    deadline = time.monotonic() + 10
    while not site.calls():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    site.node.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container_id))
    thread.join()
    assert failures == [FAILED]
    assert not list(site.archives.iterdir())


@pytest.mark.parametrize(
    "fields", [{"location": "relative.tar"}, {"location": "/no/such/directory/a.tar"}, {"timeout": -1}]
)
def test_bad_requests(site: Site, fields: dict[str, Any]) -> None:
    container_id = site.pods.sleeper(site.pods.run(handler="criu"))
    known = {"location": str(site.archives / "a.tar")}
    request = pb.CheckpointContainerRequest(container_id=container_id, **{**known, **fields})
    code, words = refusal(site.node.runtime.CheckpointContainer, request)
    assert code == INVALID
    assert next(iter(fields)) in words


def test_a_full_disk_is_one_and_leaves_nothing(site: Site) -> None:
    container_id = site.pods.sleeper(site.pods.run(handler="criu"))
    mount.mount("small", str(site.archives), "tmpfs", data="size=8k")
    try:
        request = pb.CheckpointContainerRequest(container_id=container_id, location=str(site.archives / "a.tar"))
        code, words = refusal(site.node.runtime.CheckpointContainer, request)
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED, words
        assert not list(site.archives.iterdir())
    finally:
        mount.unmount_all(str(site.archives))
    assert site.pods.exec(container_id, "echo", "alive").stdout == b"alive\n"


def test_what_does_not_run_cannot_be_checkpointed(site: Site) -> None:
    container_id = site.pods.create(site.pods.run(handler="criu"), "true")
    request = pb.CheckpointContainerRequest(container_id=container_id, location=str(site.archives / "a.tar"))
    assert refusal(site.node.runtime.CheckpointContainer, request)[0] == FAILED
    assert (
        refusal(site.node.runtime.CheckpointContainer, pb.CheckpointContainerRequest(container_id="no"))[0] == NOT_FOUND
    )


def test_a_container_is_restored_from_an_archive_with_what_it_had_changed(site: Site) -> None:
    archive = site.checkpoint(site.writer(site.pods.run(handler="criu"), name="writer"))
    sandbox_id = site.pods.run(handler="criu")
    request = site.restorer(sandbox_id, str(archive))
    container_id = site.node.runtime.CreateContainer(request).container_id
    assert site.node.runtime.CreateContainer(request).container_id == container_id
    site.node.restart()
    site.node.runtime.StartContainer(pb.StartContainerRequest(container_id=container_id))
    assert any(line.startswith("--root=") and " restore " in line for line in site.calls())
    status = site.pods.status(container_id)
    image = site.node.images.ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image="busybox"))).image
    assert (status.state, status.image.image, status.image_ref) == (pb.CONTAINER_RUNNING, str(archive), image.id)
    script = "cat /root/link /srv/s; ls /etc/notexecutable; stat -c %a /etc; cat /etc/hostname"
    found = site.pods.exec(container_id, "sh", "-c", script)
    assert found.stdout.decode().split()[:3] == ["new", "s", "700"]
    assert b"No such file" in found.stderr
    assert not list(site.node.root.glob("containers/*/restore"))


def test_a_container_is_restored_from_an_image(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    archive = site.checkpoint(site.writer(site.pods.run(handler="criu"), name="writer"))
    layout = tmp_path_factory.mktemp("checkpoint-image")
    write_checkpoint_image(layout, archive)
    site.node.load(layout)
    container_id = site.restore(site.pods.run(handler="criu"), "registry.test/ckpt:1")
    assert site.pods.exec(container_id, "cat", "/root/new").stdout == b"new\n"
    site.node.images.RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image="registry.test/ckpt:1")))


def write_checkpoint_image(layout: Path, archive: Path) -> None:
    """An image whose only layer is the archive, annotated as such."""
    (layout / "blobs/sha256").mkdir(parents=True)
    layer = layouts._blob(layout, archive.read_bytes())
    config = {
        "architecture": layouts.ARCHITECTURES[platform.machine()],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": layouts._blob(layout, json.dumps(config).encode())
        | {"mediaType": "application/vnd.oci.image.config.v1+json"},
        "layers": [layer | {"mediaType": "application/vnd.oci.image.layer.v1.tar"}],
        "annotations": {"io.kubernetes.cri-o.annotations.checkpoint.name": "writer"},
    }
    entry = layouts._blob(layout, json.dumps(manifest).encode()) | {
        "mediaType": manifest["mediaType"],
        "annotations": {"io.containerd.image.name": "registry.test/ckpt:1"},
    }
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def test_a_checkpoint_whose_processes_cannot_be_restored_says_why(site: Site) -> None:
    archive = site.checkpoint(site.writer(site.pods.run(handler="criu")))
    broken = rewritten(archive, {"checkpoint/pages-1.img": b""})
    sandbox_id = site.pods.run(handler="criu")
    container_id = site.node.runtime.CreateContainer(site.restorer(sandbox_id, str(broken))).container_id
    request = pb.StartContainerRequest(container_id=container_id)
    code, words = refusal(site.node.runtime.StartContainer, request)
    assert code == FAILED
    assert "no pages" in words
    status = site.pods.status(container_id)
    assert (status.state, status.reason) == (pb.CONTAINER_EXITED, "StartError")


def test_mounts_that_the_request_does_not_have_are_refused_by_name(site: Site) -> None:
    mounts = [pb.Mount(container_path="/data", host_path=str(site.archives))]
    archive = site.checkpoint(site.writer(site.pods.run(handler="criu"), mounts=mounts))
    sandbox_id = site.pods.run(handler="criu")
    code, words = refusal(site.node.runtime.CreateContainer, site.restorer(sandbox_id, str(archive)))
    assert code == FAILED
    assert "/data" in words
    container_id = site.restore(sandbox_id, str(archive), mounts=mounts)
    assert b"a.tar" in site.pods.exec(container_id, "ls", "/data").stdout


def rewritten(archive: Path, changed: dict[str, bytes | None], extra: list[tarfile.TarInfo] | None = None) -> Path:
    """The archive with other contents of some members, or without them, and with some more."""
    target = archive.with_name("rewritten.tar")
    with tarfile.open(archive) as source, tarfile.open(target, "w") as tar:
        for member in source.getmembers():
            content = changed.get(member.name, b"keep")
            if content is None:
                continue
            if member.name in changed:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                tar.addfile(member, source.extractfile(member) if member.isreg() else None)
        for info in extra or []:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    return target


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def escaping_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(member("../../../../tmp/ocishim-escaped"))
    return buffer.getvalue()


BAD: list[tuple[str, dict[str, bytes | None], list[tarfile.TarInfo], str]] = [
    ("no config", {"config.dump": None}, [], "config.dump"),
    ("no processes", {"checkpoint": None, "checkpoint/pages-1.img": None}, [], "checkpoint/"),
    ("config of something else", {"config.dump": b'{"name": 5}'}, [], "config.dump"),
    ("config that is no JSON", {"config.dump": b"\xff{"}, [], "config.dump"),
    ("spec without a process", {"spec.dump": b'{"ociVersion": "1.0.0"}'}, [], "spec.dump"),
    ("name that leads out", {}, [member("../../outside", size=1)], "leads out"),
    ("link among the images", {}, [member("checkpoint/link", tarfile.SYMTYPE, "/etc/passwd")], "checkpoint/link"),
    ("device among the images", {}, [member("checkpoint/dev", tarfile.CHRTYPE)], "checkpoint/dev"),
    ("file twice", {}, [member("checkpoint/pages-1.img", size=3)], "pages-1.img"),
    ("deleted file that leads out", {"deleted.files": b'["../../etc/passwd"]'}, [], "leads out"),
    ("changes that lead out", {"rootfs-diff.tar": escaping_tar()}, [], "leads out"),
    ("changes that are no tar", {"rootfs-diff.tar": b"nonsense" * 200}, [], "rootfs-diff.tar"),
]


def test_bad_archives_are_refused_and_leave_nothing(site: Site) -> None:
    archive = site.checkpoint(site.writer(site.pods.run(handler="criu"), name="writer"))
    sandbox_id = site.pods.run(handler="criu")
    for what, changed, extra, expected in BAD:
        bad = rewritten(archive, changed, extra)
        code, words = refusal(site.node.runtime.CreateContainer, site.restorer(sandbox_id, str(bad)))
        assert code == INVALID, (what, words)
        assert expected in words, (what, words)
    assert not Path("/tmp/ocishim-escaped").exists()
    whole = archive.read_bytes()
    for size in (0, 100, 700, len(whole) // 2):
        (bad := archive.with_name("cut.tar")).write_bytes(whole[:size])
        code, words = refusal(site.node.runtime.CreateContainer, site.restorer(sandbox_id, str(bad)))
        assert code == INVALID, (size, words)
    for path, expected_code in (
        (archive.parent, INVALID),
        (Path("/no/such.tar"), NOT_FOUND),
        (Path("/dev/zero"), INVALID),
    ):
        code, _ = refusal(site.node.runtime.CreateContainer, site.restorer(sandbox_id, str(path)))
        assert code == expected_code, path
    unknown = json.dumps({"id": "x", "name": "n", "rootfsImage": "registry.test/none:1"}).encode()
    bad = rewritten(archive, {"config.dump": unknown})
    code, words = refusal(site.node.runtime.CreateContainer, site.restorer(sandbox_id, str(bad)))
    assert (code, "registry.test/none:1" in words) == (NOT_FOUND, True)
    listed = site.node.runtime.ListContainers(
        pb.ListContainersRequest(filter=pb.ContainerFilter(pod_sandbox_id=sandbox_id))
    )
    assert not listed.containers


def container_config(name: str) -> v1.ContainerConfig:
    return v1.ContainerConfig(
        metadata=v1.ContainerMetadata(name=name), image=v1.ImageSpec(image="busybox"), log_path=f"{name}.log"
    )


def test_a_pod_is_checkpointed_and_restored(site: Site) -> None:
    sandbox_id = site.pods.run(handler="criu")
    for name in ("one", "two"):
        site.writer(sandbox_id, name=name)
    directory = site.archives / "pod"
    container_ids = [each.id for each in site.node.runtime.ListContainers(pb.ListContainersRequest()).containers]
    request = v1.CheckpointPodRequest(
        pod_sandbox_id=sandbox_id, output_path=str(directory), container_ids=[*container_ids, container_ids[0]]
    )
    site.call("CheckpointPod", request, v1.CheckpointPodResponse)
    assert {path.name for path in directory.iterdir()} == {"pod.options", "pod.dump", "one.tar", "two.tar"}
    assert [line for line in site.calls() if '"status"' in line].count(site.calls()[1]) == 2
    code, words = refusal(lambda again: site.call("CheckpointPod", again, v1.CheckpointPodResponse), request)
    assert (code, "not empty" in words) == (FAILED, True)
    site.node.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))

    restore = v1.RestorePodRequest(
        checkpoint_path=str(directory),
        runtime_handler="criu",
        container_configs=[container_config("one"), container_config("two")],
    )
    restored = site.call("RestorePod", restore, v1.RestorePodResponse)
    site.pods._ids.append(restored.pod_sandbox_id)
    assert sorted(each.name for each in restored.restored_containers) == ["one", "two"]
    for each in restored.restored_containers:
        assert site.pods.exec(each.container_id, "cat", "/root/new").stdout == b"new\n"
        assert site.pods.status(each.container_id).image.user_specified_image == "busybox"
    assert site.call("RestorePod", restore, v1.RestorePodResponse) == restored


def test_a_pod_that_cannot_be_restored_whole_is_not_there_at_all(site: Site) -> None:
    sandbox_id = site.pods.run(handler="criu")
    for name in ("one", "two"):
        site.writer(sandbox_id, name=name)
    directory = site.archives / "pod"
    request = v1.CheckpointPodRequest(
        pod_sandbox_id=sandbox_id, output_path=str(directory), options={"leaveRunning": "false"}
    )
    site.call("CheckpointPod", request, v1.CheckpointPodResponse)
    listed = site.node.runtime.ListContainers(pb.ListContainersRequest()).containers
    assert {each.state for each in listed} == {pb.CONTAINER_EXITED}
    site.pods.remove_all()
    (directory / "two.tar").write_bytes((directory / "two.tar").read_bytes()[:5000])
    for configs, expected in (
        ([container_config("one")], "'two'"),
        ([container_config("one"), container_config("two")], "two.tar"),
    ):
        restore = v1.RestorePodRequest(
            checkpoint_path=str(directory), runtime_handler="criu", container_configs=configs
        )
        code, words = refusal(lambda each: site.call("RestorePod", each, v1.RestorePodResponse), restore)
        assert (code, expected in words) == (INVALID, True), words
        assert not site.node.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items
    (directory / "pod.options").write_text('{"version": 1, "containers": {"one": "../one.tar"}}')
    restore = v1.RestorePodRequest(checkpoint_path=str(directory))
    assert refusal(lambda each: site.call("RestorePod", each, v1.RestorePodResponse), restore)[0] == INVALID


def test_a_pod_of_which_one_container_refuses_leaves_no_checkpoint_at_all(site: Site) -> None:
    sandbox_id = site.pods.run(handler="criu")
    container_ids = [site.pods.sleeper(sandbox_id) for _ in range(2)]
    site.flag("refuse").touch()
    request = v1.CheckpointPodRequest(pod_sandbox_id=sandbox_id, output_path=str(site.archives / "pod"))
    code, _ = refusal(lambda each: site.call("CheckpointPod", each, v1.CheckpointPodResponse), request)
    assert code == FAILED
    assert not list(site.archives.iterdir())
    for each in container_ids:
        assert site.pods.exec(each, "echo", "alive").stdout == b"alive\n"
    for options in ({"leaveRunning": "maybe"}, {"other": "true"}):
        request = v1.CheckpointPodRequest(
            pod_sandbox_id=sandbox_id, output_path=str(site.archives / "x"), options=options
        )
        code, words = refusal(lambda each: site.call("CheckpointPod", each, v1.CheckpointPodResponse), request)
        assert (code, next(iter(options)) in words) == (INVALID, True)


def test_files_belong_to_the_same_users_in_a_pod_with_other_ids(site: Site) -> None:
    def mapped_pod(host: int) -> str:
        context = pb.LinuxSandboxSecurityContext(namespace_options=mapped.options(host))
        config = site.pods.config(linux=pb.LinuxPodSandboxConfig(security_context=context))
        return site.pods.run(config, handler="criu")

    container_id = site.writer(mapped_pod(mapped.FIRST), name="writer")
    mapped.said(site.pods, container_id, "sh", "-c", "echo x > /root/owned; chown 1000:50 /root/owned")
    archive = site.checkpoint(container_id)
    for sandbox_id in (mapped_pod(mapped.SECOND), site.pods.run(handler="criu")):
        again = site.restore(sandbox_id, str(archive))
        owners = mapped.said(site.pods, again, "stat", "-c", "%u:%g", "/root/new", "/root/owned").split()
        assert owners == ["0:0", "1000:50"]
        assert site.pods.exec(again, "ls", "/etc/notexecutable").exit_code != 0


def test_a_container_is_supervised_whatever_becomes_of_a_checkpoints_remains(site: Site) -> None:
    container_id = site.pods.sleeper(site.pods.run(handler="criu"))
    stuck = site.node.root / "containers" / container_id / "checkpoint/stuck"
    stuck.mkdir(parents=True)
    mount.mount("stuck", str(stuck), "tmpfs")
    try:
        site.node.restart(signal.SIGKILL)
        site.node.runtime.StopContainer(pb.StopContainerRequest(container_id=container_id, timeout=5), timeout=30)
        assert site.pods.status(container_id).state == pb.CONTAINER_EXITED
    finally:
        mount.unmount_all(str(stuck))
        site.node.restart()
