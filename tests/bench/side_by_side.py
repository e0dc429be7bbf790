"""Two CRI servers for one measurement, ocishim and Debian's containerd, each on private directories.

Everything is below one directory in /var/tmp, which goes at the end, also when the run fails or is terminated.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from cri_api.v1 import api_pb2, api_pb2_grpc

from ocishim.linux.mount import unmount_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
PAUSE = "docker.io/library/bench-pause:latest"
BRIDGES = ("ocibench0", "cdbench0")
READY_WITHIN = 30.0
ENDS_WITHIN = 30.0
EMPTY_WITHIN = 60.0
LOG_SHOWN = 2000
"""Characters."""


@dataclass
class Server:
    """A CRI server under measurement."""

    name: str
    channel: grpc.Channel
    pid: int
    stores: tuple[Path, ...]
    """Directories that are empty, but for the names that start with a dot, when it holds no image."""
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Milliseconds of each call, by step."""

    def timed(self, step: str, call: Callable[[Any], T], request: Any) -> T:
        """Call, and note the milliseconds."""
        began = time.perf_counter()
        answer = call(request)
        self.times[step].append((time.perf_counter() - began) * 1000)
        return answer

    def cpu(self) -> float:
        """Seconds of CPU, user and system, that it and the children it waited for have had (proc(5), stat)."""
        with open(f"/proc/{self.pid}/stat", encoding="utf-8") as file:
            after_name = file.read().rpartition(")")[2].split()
        return sum(map(int, after_name[11:15])) / os.sysconf("SC_CLK_TCK")

    def wait_until_empty(self) -> None:
        """Return once no content of any image is left on the disk: containerd collects garbage in its own time.

        Raises TimeoutError that names what stays.
        """
        deadline = time.monotonic() + EMPTY_WITHIN
        while left := [str(path) for store in self.stores if store.is_dir() for path in store.glob("[!.]*")]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} still holds {left[0]} and {len(left) - 1} more")
            time.sleep(0.02)


@contextmanager
def private_directory() -> Iterator[Path]:
    """A directory on a disk for the time of the block; its mounts and the servers' bridges go with it."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    place = Path(tempfile.mkdtemp(prefix="ocibench-", dir="/var/tmp"))
    try:
        yield place
    finally:
        unmount_tree(str(place))
        shutil.rmtree(place, ignore_errors=True)
        for bridge in BRIDGES:
            subprocess.run(["/usr/sbin/ip", "link", "delete", bridge], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def private_disk(scratch: Path, size: int) -> Iterator[Path]:
    """A new ext4 of so many bytes, in a file, for the time of the block.

    It has a journal, as a host's has and a small virtual machine's may not: without one, ext4 looks at every inode that
    was freed in the last minutes before it takes a new one, and who pulls after a removal measures that.
    """
    image, mountpoint = scratch / "disk.img", scratch / "disk"
    with image.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    make = [
        "/usr/sbin/mkfs.ext4",
        "-q",
        "-O",
        "has_journal",
        "-E",
        "lazy_itable_init=0,lazy_journal_init=0",
        str(image),
    ]
    subprocess.run(make, check=True)
    mountpoint.mkdir()
    subprocess.run(["/usr/bin/mount", "-o", "loop", str(image), str(mountpoint)], check=True)
    try:
        yield mountpoint
    finally:
        unmount_tree(str(mountpoint))


def conflist(scratch: Path, name: str, subnet: str) -> Path:
    """A CNI directory with a bridge of that name."""
    directory = scratch / f"cni-{name}"
    directory.mkdir()
    bridge = {
        "type": "bridge",
        "bridge": name,
        "isGateway": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    content = {"cniVersion": "0.4.0", "name": name, "plugins": [bridge, portmap]}
    (directory / "10.conflist").write_text(json.dumps(content))
    return directory


def runtime_service(channel: grpc.Channel) -> api_pb2_grpc.RuntimeServiceStub:
    """The client's methods for pods and containers."""
    return api_pb2_grpc.RuntimeServiceStub(channel)  # type: ignore[no-untyped-call] # generated without types


def image_service(channel: grpc.Channel) -> api_pb2_grpc.ImageServiceStub:
    """The client's methods for images."""
    return api_pb2_grpc.ImageServiceStub(channel)  # type: ignore[no-untyped-call] # generated without types


def ready(address: Path, process: subprocess.Popen[bytes], log: Path) -> grpc.Channel:
    """A channel to a server that answers. Raises RuntimeError with the end of its log where it does not."""
    channel = grpc.insecure_channel(f"unix://{address}")
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            runtime_service(channel).Version(api_pb2.VersionRequest(), timeout=1)
        except grpc.RpcError as error:
            if time.monotonic() > deadline or process.poll() is not None:
                words = log.read_text(errors="replace")[-LOG_SHOWN:]
                raise RuntimeError(f"{log.stem} does not answer; its log ends with:\n{words}") from error
            time.sleep(0.05)
        else:
            return channel


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the time of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def ocishim(scratch: Path, runtime: str, layouts: Iterable[Path] = ()) -> Iterator[Server]:
    """Our server, with the images of some layouts."""
    address = scratch / "ocishim.sock"
    cni = conflist(scratch, BRIDGES[0], "10.97.1.0/24")
    config = scratch / "ocishim.toml"
    config.write_text(
        f'root = "{scratch}/oroot"\nstate = "{scratch}/ostate"\nlisten = "unix://{address}"\n'
        f'default_runtime = "{runtime}"\n[cni]\nconf_dir = "{cni}"\n[containers]\ncgroup_parent = "/ocibench"\n'
    )
    serve = [sys.executable, "-m", "ocishim", "serve", "--config", str(config)]
    images = scratch / "oroot" / "images"
    with running(serve, scratch / "ocishim.log") as process:
        channel = ready(address, process, scratch / "ocishim.log")
        for layout in layouts:
            load = [sys.executable, "-m", "ocishim", "images", "load", str(layout), "--listen", f"unix://{address}"]
            subprocess.run(load, check=True, stdout=subprocess.DEVNULL)
        yield Server(
            "ocishim", channel, process.pid, tuple(images / name for name in ("layers", "incoming", "partial"))
        )


@contextmanager
def containerd(scratch: Path, runtime: str, layouts: Iterable[Path] = ()) -> Iterator[Server]:
    """The peer, with the images of some layouts."""
    address = scratch / "containerd.sock"
    cni = conflist(scratch, BRIDGES[1], "10.97.2.0/24")
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    root = scratch / "croot"
    config = scratch / "containerd.toml"
    config.write_text(
        f'version = 2\nroot = "{root}"\nstate = "{scratch}/cstate"\n[grpc]\naddress = "{address}"\n'
        f'[{cri}]\nsandbox_image = "{PAUSE}"\nstream_server_port = "0"\nrestrict_oom_score_adj = true\n'
        f'disable_apparmor = true\n[{cri}.cni]\nconf_dir = "{cni}"\nbin_dir = "/usr/lib/cni"\n'
        f'[{cri}.containerd]\ndefault_runtime_name = "bench"\n'
        f'[{cri}.containerd.runtimes.bench]\nruntime_type = "io.containerd.runc.v2"\n'
        f'[{cri}.containerd.runtimes.bench.options]\nBinaryName = "/usr/bin/{runtime}"\n'
    )
    stores = (
        root / "io.containerd.content.v1.content" / "blobs" / "sha256",
        root / "io.containerd.content.v1.content" / "ingest",
        root / "io.containerd.snapshotter.v1.overlayfs" / "snapshots",
    )
    with running(["/usr/bin/containerd", "--config", str(config)], scratch / "containerd.log") as process:
        channel = ready(address, process, scratch / "containerd.log")
        for layout in layouts:
            tar = scratch / f"{layout.name}.tar"
            with tarfile.open(tar, "w") as archive:
                archive.add(layout, arcname=".")
            load = ["/usr/bin/ctr", "-a", str(address), "-n", "k8s.io", "images", "import", str(tar)]
            subprocess.run(load, check=True, stdout=subprocess.DEVNULL)
        yield Server("containerd", channel, process.pid, stores)
