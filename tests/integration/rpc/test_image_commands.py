"""`ocishim images …` as a user has it: against a server of its own and a registry that may break off."""

from __future__ import annotations

import http.server
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb
from images import making

from rpc import leaks
from rpc.node import Node, Pods

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The runtime has no part in this.
pytestmark = pytest.mark.parametrize("node", ["crun"], indirect=True, scope="session")

BUSYBOX = "docker.io/library/busybox:latest"
BIG = making.image(
    making.tar(making.member("noise", data=os.urandom(24 << 20))), making.tar(making.member("small", data=b"small"))
)


class Registry(http.server.ThreadingHTTPServer):
    """Serves one image by threads, and stops in the middle of blobs as long as `gate` bytes is less than they have."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.gate = 1 << 40
        self.released = threading.Event()
        self.ranges: list[tuple[str, int]] = []

    @property
    def image(self) -> str:
        """Its reference."""
        return f"127.0.0.1:{self.server_address[1]}/big:latest"


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Registry
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        content = BIG.manifest if "/manifests/" in self.path else BIG.blobs[name]
        begin = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.ranges.append((name, begin))
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", BIG.media_type)
        self.end_headers()
        gate = max(self.server.gate, begin)
        try:
            self.wfile.write(content[begin:gate])
            self.wfile.flush()
            if gate < len(content):
                self.server.released.wait(30)
                self.wfile.write(content[gate:])
        except OSError:
            self.close_connection = True


@pytest.fixture
def registry() -> Iterator[Registry]:
    """On a loopback port."""
    made = Registry()
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        made.released.set()
        made.shutdown()
        thread.join()
        made.server_close()


@pytest.fixture
def own(node: Node, layout: Path) -> Iterator[Node]:
    """A server of this test's own: what is removed or killed here is nobody else's."""
    made = Node(node.runtime_name)
    try:
        made.prepare()
        made.configure('[images]\npinned = ["docker.io/library/st*", "entry"]\n')
        made.start()
        made.load(layout)
        before = leaks.held(made)
        yield made
        leaked = leaks.compare(made, before)
        assert not leaked, "left on the host:\n" + "\n".join(leaked) + f"\nserver:\n{made.log()}"
        assert "a bug" not in made.log(), made.log()
    finally:
        made.clean()


@pytest.fixture
def pods(own: Node) -> Iterator[Pods]:
    made = Pods(own)
    try:
        yield made
    finally:
        made.remove_all()


def images(node: Node, *arguments: str, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
    line = [
        sys.executable,
        "-m",
        "ocishim",
        "images",
        arguments[0],
        "--listen",
        f"unix://{node.socket}",
        *arguments[1:],
    ]
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=60, input=stdin)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def as_json(node: Node, *arguments: str, code: int = 0) -> Any:
    return json.loads(images(node, *arguments, "--output", "json", code=code).stdout)


def test_images_are_listed_for_people_and_for_programs(own: Node) -> None:
    found = {image["tags"][0]: image for image in as_json(own, "list")}
    assert found[BUSYBOX]["size"] > 100_000
    assert [tag for tag, image in found.items() if image["pinned"]] == [
        "docker.io/library/entry:latest",
        "docker.io/library/stopper:latest",
    ]
    lines = images(own, "list").stdout.splitlines()
    assert lines[0].split() == ["IMAGE", "ID", "SIZE", "PINNED"]
    assert [line.split()[0] for line in lines[1:]] == sorted(found)


def test_an_image_is_inspected_with_its_whole_configuration(own: Node) -> None:
    [found] = json.loads(images(own, "inspect", "busybox").stdout)
    assert found["config"]["config"]["Env"] == ["PATH=/bin", "FROM=image"]
    assert found["id"] == own.images.ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image="busybox"))).image.id
    assert found["layers"][0]["diffID"] == found["config"]["rootfs"]["diff_ids"][0]
    assert "is not here" in images(own, "inspect", "nowhere", code=1).stderr


def test_an_image_is_pulled_with_bars_on_a_terminal(own: Node, registry: Registry) -> None:
    registry.gate = 8 << 20
    line = [sys.executable, "-m", "ocishim", "images", "pull", "--listen", f"unix://{own.socket}", registry.image]
    controller, terminal = pty.openpty()
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=terminal, env={**os.environ, "TERM": "xterm"})
    os.close(terminal)
    shown = _read_until(controller, "8.4/25.")
    registry.released.set()
    shown += _read_until(controller, None)
    os.close(controller)
    assert process.wait(timeout=30) == 0
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.read().decode().split()[:2] == [BIG.id, registry.image]
    assert len(set(re.findall(r"sha256:[0-9a-f]{12}", shown))) == 2
    assert "fetching" in shown
    assert "done" in shown


def _read_until(terminal: int, mark: str | None) -> str:
    seen = ""
    deadline = time.monotonic() + 20
    while mark is None or mark not in seen:
        assert time.monotonic() < deadline, seen
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            seen += os.read(terminal, 65536).decode(errors="replace")
        except OSError:
            break
    return seen


def test_a_pull_into_a_pipe_is_one_line(own: Node, registry: Registry) -> None:
    done = images(own, "pull", registry.image)
    assert done.stdout.startswith(f"{BIG.id} {registry.image} ")
    assert done.stderr == ""
    assert as_json(own, "pull", registry.image)[0]["id"] == BIG.id
    gone = images(own, "pull", registry.image.replace("/big", "/a/"), code=1)
    assert gone.stderr.count("\n") == 1
    wrong = images(own, "pull", "--username", "me", registry.image, code=2)
    assert "--password-stdin" in wrong.stderr


def _pull_until(node: Node, registry: Registry, size: int) -> threading.Thread:
    """Pull in a thread until so many bytes of the big layer are here."""

    def pull() -> None:
        with pytest.raises(grpc.RpcError):
            node.images.PullImage(pb.PullImageRequest(image=pb.ImageSpec(image=registry.image)), timeout=30)

    thread = threading.Thread(target=pull)
    thread.start()
    partial = node.root / "images/partial" / making.digest(BIG.layers[0]).removeprefix("sha256:")
    deadline = time.monotonic() + 20
    while not partial.exists() or partial.stat().st_size < size:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return thread


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_pull_goes_on_after_the_server_was_killed(own: Node, registry: Registry, number: int) -> None:
    registry.gate = 16 << 20
    thread = _pull_until(own, registry, 15 << 20)
    own.stop(number)
    thread.join()
    registry.released.set()
    registry.gate, registry.ranges = 1 << 40, []
    own.start()
    images(own, "pull", registry.image)
    resumed = dict(registry.ranges)[making.digest(BIG.layers[0])]
    assert resumed >= 15 << 20
    assert images(own, "verify").returncode == 0
    assert os.listdir(own.root / "images/partial") == []
    assert os.listdir(own.root / "images/incoming") == []


def test_a_part_that_a_power_cut_tore_is_fetched_again(own: Node, registry: Registry) -> None:
    registry.gate = 16 << 20
    thread = _pull_until(own, registry, 15 << 20)
    own.stop(signal.SIGKILL)
    thread.join()
    [partial] = (own.root / "images/partial").iterdir()
    with partial.open("r+b") as file:
        file.seek(9 << 20)
        file.write(bytes(1 << 20))
    registry.released.set()
    registry.gate = 1 << 40
    own.start()
    images(own, "pull", registry.image)
    assert images(own, "verify").returncode == 0
    assert os.listdir(own.root / "images/partial") == []


def test_pruning_takes_what_a_broken_pull_left(own: Node, registry: Registry) -> None:
    registry.gate = 16 << 20
    thread = _pull_until(own, registry, 15 << 20)
    own.stop(signal.SIGKILL)
    thread.join()
    own.start()
    assert as_json(own, "prune", "--untagged")["freed"] >= 15 << 20
    assert os.listdir(own.root / "images/partial") == []


def test_an_image_is_saved_and_comes_back(own: Node, tmp_path: Path) -> None:
    before = as_json(own, "inspect", "busybox")
    saved = as_json(own, "save", "busybox", "user", "--file", str(tmp_path / "saved.tar"))
    assert [image["references"] for image in saved] == [[BUSYBOX], ["docker.io/library/user:latest"]]
    images(own, "remove", "busybox")
    assert "is not here" in images(own, "save", "busybox", "--file", str(tmp_path / "x.tar"), code=1).stderr
    assert not (tmp_path / "x.tar").exists()
    images(own, "load", str(tmp_path / "saved.tar"))
    after = as_json(own, "inspect", "busybox")
    assert (after[0]["id"], after[0]["config"]) == (before[0]["id"], before[0]["config"])


def test_skopeo_reads_what_was_saved(own: Node, tmp_path: Path) -> None:
    images(own, "save", "busybox", "--file", str(tmp_path / "saved.tar"))
    for form in ("oci-archive", "docker-archive"):
        source = f"{form}:{tmp_path}/saved.tar"
        target = f"dir:{tmp_path}/{form}"
        subprocess.run(["skopeo", "copy", "--quiet", "--insecure-policy", source, target], check=True)
        manifest = json.loads((tmp_path / form / "manifest.json").read_text())
        assert manifest["config"]["digest"] == as_json(own, "inspect", "busybox")[0]["id"]


def test_a_docker_archive_is_loaded(own: Node, tmp_path: Path) -> None:
    images(own, "save", "busybox", "--file", str(tmp_path / "saved.tar"))
    source, target = f"docker-archive:{tmp_path}/saved.tar", f"docker-archive:{tmp_path}/docker.tar:some.example/box:1"
    subprocess.run(["skopeo", "copy", "--quiet", "--insecure-policy", source, target], check=True)
    [loaded] = as_json(own, "load", str(tmp_path / "docker.tar"))
    assert "some.example/box:1" in loaded["references"]


def test_verify_finds_what_was_changed_and_whom_it_hurts(own: Node) -> None:
    assert "0 bad" in images(own, "verify").stdout
    [layer] = as_json(own, "inspect", "busybox")[0]["layers"]
    with open(f"{layer['path']}/etc/passwd", "r+b") as file:
        file.write(b"evil")
    done = images(own, "verify", "--quiet", code=1)
    assert f"BAD  layer {layer['diffID']}: " in done.stdout
    assert "hurt: " + as_json(own, "inspect", "busybox")[0]["id"] in done.stdout
    [bad] = [found for found in as_json(own, "verify", code=1) if found["problem"]]
    assert bad["digest"] == layer["diffID"]
    assert len(bad["images"]) == 5


def test_a_pinned_image_is_refused_and_never_pruned(own: Node) -> None:
    done = images(own, "remove", "entry", code=1)
    assert "is pinned by the server's images.pinned" in done.stderr
    assert "FAILED_PRECONDITION" in done.stderr
    images(own, "prune")
    assert [image["tags"] for image in as_json(own, "list")] == [
        ["docker.io/library/entry:latest"],
        ["docker.io/library/stopper:latest"],
    ]


def test_pruning_leaves_what_containers_use(own: Node, pods: Pods) -> None:
    pods.start(pods.run(), "sleep", "100")
    would = as_json(own, "prune", "--dry-run")
    assert len(as_json(own, "list")) == 5
    pruned = as_json(own, "prune")
    assert pruned["images"] == would["images"]
    assert BUSYBOX in {tag for image in as_json(own, "list") for tag in image["tags"]}
    assert len(pruned["images"]) == 2
    assert "0 images, 0 bytes freed" in images(own, "prune").stdout


def test_commands_without_a_server_say_so(own: Node, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "ocishim", "images", "list", "--listen", f"unix://{tmp_path}/none"]
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no server answers on" in done.stderr
    assert done.stderr.count("\n") == 1
