"""Time of pulling an image, ocishim beside Debian's containerd: same registry, same disk, in turn, in one run.

    sudo .venv/bin/python -m tests.bench.pull [--rounds N] [--image big|layers|small|all] [--output table|json]

A round is PullImage and RemoveImage in each server; the order changes every round, and a first round is not counted.
Nobody pays for another: a pull starts when no trace of the image is left in either server's store and everything that
was written before, of the other server too, is on the disk (sync(2)). Both stores are on one new ext4. The registry,
Debian's, is on loopback and has its files in the page cache; its log shows that each pull fetched all layers.

What the times do not say by themselves: ocishim's PullImage returns when all is on the disk (syncfs(2)), containerd's
while much of what it unpacked still is in memory only. `sync` is how long the disk takes for what a pull left.
Nothing here is a test: it only measures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import sys
import time
import urllib.request
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cri_api.v1 import api_pb2

from ocishim.spec.image import OCI_MANIFEST

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from images import making
from images.registries import copy, debian_registry

from bench.side_by_side import Server, containerd, image_service, ocishim, private_directory, private_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PULL_WITHIN: Final = 600.0
KIB: Final = 1 << 10
DISK: Final = 4 << 30
"""Bytes of the file system that both servers use."""
_FETCHED: Final = re.compile(r'"GET /v2/\S+/blobs/(sha256:[0-9a-f]{64}) HTTP/1\.1" 20[06] ')


class Content:
    """Bytes that deflate makes half of: text of words as often as in a language, and what cannot be compressed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        letters = "etaoinshrdlu_().;"
        words = ["".join(self._random.choices(letters, k=self._random.randint(3, 12))) for _ in range(20_000)]
        weights = [1 / rank for rank in range(1, len(words) + 1)]
        # Taken at random places, so that it repeats further away than deflate looks back (32 KiB).
        self._text = " ".join(self._random.choices(words, weights, k=500_000)).encode()

    def bytes(self, size: int) -> bytes:
        """As many."""
        pieces = []
        left = size
        while left:
            length = min(left, self._random.randint(KIB // 2, 4 * KIB))
            if self._random.random() < 0.15:
                piece = self._random.randbytes(length)
            else:
                begin = self._random.randrange(len(self._text) - length)
                piece = self._text[begin : begin + length]
            pieces.append(piece)
            left -= length
        return b"".join(pieces)

    def size(self, smallest: int, largest: int) -> int:
        """Of a file: small ones are the most frequent."""
        return int(self._random.triangular(smallest, largest, smallest))


def big(content: Content) -> list[bytes]:
    """One layer of 300 MB in 12 files."""
    files = [making.member(f"opt/model/part-{number}", data=content.bytes(25_000_000)) for number in range(12)]
    return [making.tar(making.directory("opt"), making.directory("opt/model"), *files)]


def layers(content: Content) -> list[bytes]:
    """30 layers of about 2 MB in 13 files each, of which one is in all of them."""

    def layer(number: int) -> bytes:
        place = f"usr/lib/part-{number}"
        files = [making.member(f"{place}/{name}", data=content.bytes(170_000)) for name in range(12)]
        state = making.member("etc/state", data=content.bytes(2_000))
        parents = [making.directory(name) for name in ("etc", "usr", "usr/lib", place)]
        return making.tar(*parents, state, *files)

    return [layer(number) for number in range(30)]


def small(content: Content) -> list[bytes]:
    """One layer of 24,000 files of 1 to 20 KB in 2,040 directories."""
    members = [making.directory("srv")]
    for package in range(40):
        members.append(making.directory(f"srv/package-{package}"))
        for part in range(50):
            place = f"srv/package-{package}/part-{part}"
            members.append(making.directory(place))
            members += [
                making.member(f"{place}/{name}.js", data=content.bytes(content.size(1_000, 20_000)))
                for name in range(12)
            ]
    return [making.tar(*members)]


IMAGES: Final[dict[str, Callable[[Content], list[bytes]]]] = {"big": big, "layers": layers, "small": small}


class Registry:
    """Debian's, on loopback, with the images of this measurement."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._host = ""

    @contextmanager
    def serving(self) -> Iterator[Registry]:
        """For the time of the block."""
        try:
            self._host = self._runner.run(self._stack.enter_async_context(debian_registry(self._place)))
            yield self
        finally:
            self._runner.run(self._stack.aclose())
            self._runner.close()

    def offer(self, name: str) -> Offered:
        """Make an image of that name and push it; skopeo compresses its layers with gzip."""
        tars = IMAGES[name](Content(name))
        layout = making.write_layout(self._place / name, making.image(*tars, compression="none"), "latest")
        self._runner.run(copy(f"oci:{layout}:latest", f"docker://{self._host}/bench/{name}:latest"))
        url = f"http://{self._host}/v2/bench/{name}/manifests/latest"
        request = urllib.request.Request(url, headers={"Accept": OCI_MANIFEST})
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            blobs = json.load(answer)["layers"]
        if not all(blob["mediaType"].endswith("+gzip") for blob in blobs):
            raise RuntimeError(f"skopeo left layers of {name} as they were: {blobs}")
        return Offered(
            name,
            f"{self._host}/bench/{name}:latest",
            frozenset(blob["digest"] for blob in blobs),
            compressed=sum(blob["size"] for blob in blobs),
            unpacked=sum(map(len, tars)),
        )

    def fetched(self, since: int) -> frozenset[str]:
        """Blobs that were sent after the log had that many bytes."""
        with open(self._place / "registry.log", "rb") as log:
            log.seek(since)
            return frozenset(_FETCHED.findall(log.read().decode()))

    def logged(self) -> int:
        """Bytes in its log."""
        return os.stat(self._place / "registry.log").st_size


@dataclass(frozen=True)
class Offered:
    """An image in the registry."""

    name: str
    reference: str
    blobs: frozenset[str]
    """Digests of its layers, compressed."""
    compressed: int
    unpacked: int
    """Bytes of its layers' tars."""


@dataclass
class Measured:
    """What pulls of one image took one server, in seconds, in the order of the rounds."""

    pull: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Of the server, user and system."""
    sync: list[float] = field(default_factory=list)
    """Until all that the pull wrote was on the disk, after it had returned."""

    def summary(self) -> dict[str, list[float]]:
        """Least, median and most of each."""
        return {
            name: [round(find(times), 3) for find in (min, statistics.median, max)]
            for name, times in (("pull", self.pull), ("cpu", self.cpu), ("sync", self.sync))
        }


def one_pull(server: Server, registry: Registry, image: Offered, measured: Measured) -> None:
    """Pull and remove. Raises RuntimeError where it was no pull of the whole image."""
    images = image_service(server.channel)
    wanted = api_pb2.ImageSpec(image=image.reference)
    if images.ImageStatus(api_pb2.ImageStatusRequest(image=wanted)).image.id:
        raise RuntimeError(f"{server.name} has {image.reference} before the pull")
    os.sync()
    logged, cpu, began = registry.logged(), server.cpu(), time.perf_counter()
    images.PullImage(api_pb2.PullImageRequest(image=wanted), timeout=PULL_WITHIN)
    pulled = time.perf_counter()
    measured.pull.append(pulled - began)
    measured.cpu.append(server.cpu() - cpu)
    os.sync()
    measured.sync.append(time.perf_counter() - pulled)
    missing = image.blobs - registry.fetched(logged)
    if missing:
        raise RuntimeError(f"{server.name} fetched {len(missing)} of {len(image.blobs)} layers from elsewhere")
    images.RemoveImage(api_pb2.RemoveImageRequest(image=wanted), timeout=PULL_WITHIN)
    server.wait_until_empty()


def measure(servers: list[Server], registry: Registry, image: Offered, rounds: int) -> dict[str, object]:
    """All rounds of one image: a row of the table."""
    measured = {server.name: Measured() for server in servers}
    for number in range(rounds + 1):
        for server in servers if number % 2 else reversed(servers):
            one_pull(server, registry, image, measured[server.name] if number else Measured())
        print(f"\r{image.name} {number}/{rounds} ", end="", file=sys.stderr, flush=True)  # noqa: T201
    print(file=sys.stderr)  # noqa: T201
    ours, peer = (statistics.median(measured[server.name].pull) for server in servers)
    summaries = {name: each.summary() for name, each in measured.items()}
    size = {"layers": len(image.blobs), "compressed": image.compressed, "unpacked": image.unpacked}
    return {"image": image.name} | size | summaries | {"ratio": round(ours / peer, 2)}


def print_table(rows: list[dict[str, object]]) -> None:
    """For people."""
    print(f"{'seconds: least / median / most':36}{'ocishim':>24}{'containerd':>24}{'ratio':>8}")  # noqa: T201
    for row in rows:
        for what, title in (("pull", "PullImage"), ("cpu", "  CPU of the server"), ("sync", "  sync afterwards")):
            ours, peer = (row[name][what] for name in ("ocishim", "containerd"))  # type: ignore[index]
            ratio = f"{ours[1] / peer[1]:8.2f}" if what != "sync" else ""
            cells = "".join(f"{' / '.join(f'{value:.2f}' for value in values):>24}" for values in (ours, peer))
            print(f"{row['image'] if what == 'pull' else '':8}{title:28}{cells}{ratio}")  # noqa: T201


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="pulls beside Debian's containerd")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--image", choices=(*IMAGES, "all"), default="all")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    chosen = parser.parse_args()
    names = list(IMAGES) if chosen.image == "all" else [chosen.image]
    with private_directory() as scratch, ExitStack() as stack:
        registry = stack.enter_context(Registry(scratch).serving())
        offered = [registry.offer(name) for name in names]
        disk = stack.enter_context(private_disk(scratch, DISK))
        servers = [stack.enter_context(serve(disk, "crun")) for serve in (ocishim, containerd)]
        rows = [measure(servers, registry, image, chosen.rounds) for image in offered]
    if chosen.output == "json":
        print(json.dumps(rows))  # noqa: T201
    else:
        print_table(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
