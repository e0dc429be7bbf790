"""A server whose root lies on an overlayfs, as a CI job's in a container does: no overlayfs over it, no whiteouts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cri_api.v1 import api_pb2 as pb
from images import making

from ocishim.linux import mount
from rpc import leaks
from rpc.node import Node, Pods

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.parametrize("node", ["crun"], indirect=True, scope="session")

NAME = "example.com/layered:1"


@pytest.fixture(params=["fuse-overlayfs", "copy"])
def nested(node: Node, layout: Path, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    """A server of this test's own whose root is an overlayfs; `copy` hides fuse-overlayfs from it."""
    made = Node(node.runtime_name)
    home = f"/var/tmp/{made.word}-below"
    try:
        for name in ("lower", "upper", "work"):
            os.makedirs(f"{home}/{name}")
        made.root.mkdir()
        options = f"lowerdir={home}/lower,upperdir={home}/upper,workdir={home}/work"
        mount.mount("overlay", str(made.root), "overlay", data=options)
        made.prepare()
        if request.param == "copy":
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PATH", str(tmp_path))
                made.start()
        elif shutil.which("fuse-overlayfs") is None or not os.path.exists("/dev/fuse"):
            pytest.skip("fuse-overlayfs or /dev/fuse is not here")
        else:
            made.start()
        made.load(layout)
        before = leaks.held(made)
        yield made
        leaked = leaks.compare(made, before)
        assert not leaked, "left on the host:\n" + "\n".join(leaked) + f"\nserver:\n{made.log()}"
        assert made.stop() == 0
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait()
        mount.unmount_tree(str(made.root))
        made.clean()
        shutil.rmtree(home)


@pytest.fixture
def kind(nested: Node) -> str:
    """What the server says that it does instead, and that it warns of it."""
    conditions = {each.type: each for each in nested.runtime.Status(pb.StatusRequest()).status.conditions}
    overlay = conditions["OverlayReady"]
    assert not overlay.status
    assert overlay.reason == "NoOverlay"
    assert conditions["RuntimeReady"].status
    return "fuse-overlayfs" if "by fuse-overlayfs" in overlay.message else "copy"


def test_pods_run_and_layers_hide_as_ever(nested: Node, kind: str, tmp_path: Path) -> None:
    base = making.tar(
        making.directory("dir"),
        making.member("dir/one", data=b"1"),
        making.member("dir/two", data=b"2"),
        making.directory("opaque"),
        making.member("opaque/old", data=b"old"),
        making.member("kept", data=b"kept"),
    )
    top = making.tar(
        making.member("dir/.wh.one"), making.member("opaque/.wh..wh..opq"), making.member("opaque/new", data=b"new")
    )
    made = making.image(base, top)
    nested.load(making.write_layout(tmp_path / "layered", made, NAME))
    pods = Pods(nested)
    try:
        volume = pb.Mount(container_path="/vol", readonly=True, image=pb.ImageSpec(image=NAME))
        container_id = pods.sleeper(pods.run(), mounts=[volume])
        listed = pods.exec(container_id, "find", "/vol", "-type", "f").stdout.split()
        assert sorted(listed) == [b"/vol/dir/two", b"/vol/kept", b"/vol/opaque/new"]
        assert pods.exec(container_id, "sh", "-c", "echo mine > /mine; cat /mine").stdout == b"mine\n"
        assert b"Read-only" in pods.exec(container_id, "touch", "/vol/x").stderr
        other = pods.sleeper(pods.run())
        assert pods.exec(other, "cat", "/mine").exit_code != 0
        _assert_mounted_by(nested, kind)
    finally:
        pods.remove_all()


@pytest.mark.usefixtures("kind")
def test_a_user_namespace_gets_a_copy_of_its_own(nested: Node) -> None:
    pods = Pods(nested)
    ids = [pb.IDMapping(host_id=300_000, container_id=0, length=65536)]
    options = pb.NamespaceOption(pid=pb.CONTAINER, userns_options=pb.UserNamespace(mode=pb.POD, uids=ids, gids=ids))
    linux = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(namespace_options=options))
    try:
        volume = pb.Mount(container_path="/vol", readonly=True, image=pb.ImageSpec(image="busybox"))
        container_id = pods.sleeper(pods.run(pods.config(linux=linux)), mounts=[volume])
        owners = pods.exec(container_id, "stat", "-c", "%u:%g", "/bin/busybox", "/", "/vol/etc/passwd").stdout.split()
        assert owners == [b"0:0"] * 3
        assert pods.exec(container_id, "sh", "-c", "echo x > /etc/passwd").exit_code == 0
        assert (nested.root / "containers" / container_id / "upper/etc/passwd").stat().st_uid == 300_000
    finally:
        pods.remove_all()


def _assert_mounted_by(node: Node, kind: str) -> None:
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        roots = [line for line in table if f"{node.state}/containers" in line and "/rootfs " in line]
    assert len(roots) == 2
    assert all(("fuse.fuse-overlayfs" in line) is (kind == "fuse-overlayfs") for line in roots)


def test_check_warns_and_does_not_block(nested: Node, kind: str, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "ocishim", "check", "--config", str(nested.config), "--output", "json"]
    environment = {**os.environ, "PATH": str(tmp_path)} if kind == "copy" else None
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=60, env=environment)
    [found] = [each for each in json.loads(done.stdout) if each["what"].startswith("overlayfs on")]
    assert not found["ok"]
    assert not found["blocks"]
    assert f"made by {kind}" in found["why"]
    assert ("apt-get install fuse-overlayfs" in found["mend"]) is (kind == "copy")


@pytest.mark.usefixtures("kind")
def test_images_are_verified_and_saved_there_too(nested: Node, tmp_path: Path) -> None:
    made = making.image(making.tar(making.member("a", data=b"a")), making.tar(making.member(".wh.a")))
    nested.load(making.write_layout(tmp_path / "made", made, NAME))
    for arguments in (("verify",), ("save", NAME, "--file", str(tmp_path / "saved.tar"))):
        line = [sys.executable, "-m", "ocishim", "images", arguments[0], "--listen", f"unix://{nested.socket}"]
        done = subprocess.run([*line, *arguments[1:]], check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
