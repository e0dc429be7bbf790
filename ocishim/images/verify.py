"""What is on disk held against the digests that images name: every layer's tar made again, every configuration.

Content and names are covered by the digest; owners, modes, kinds and link targets are compared with the tar's headers,
which the digest covers in their turn.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
import secrets
import stat
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim.errors import OcishimError
from ocishim.images import whiteouts
from ocishim.images.save import layer_tar
from ocishim.linux import libc
from ocishim.linux.uncancelled import to_the_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from libarchive.entry import ArchiveEntry

    from ocishim.images.store import ImageStore

_BLOCK: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of a layer or a configuration."""

    digest: str
    kind: str
    """layer or configuration."""
    size: int
    """Bytes that were hashed."""
    problem: str
    """Empty: it is as it was."""


async def verify(store: ImageStore) -> AsyncIterator[Verdict]:
    """Go through all that images use, one by one; what is removed meanwhile is left out."""
    holder = f"verify-{secrets.token_hex(8)}"
    for image in store.records():
        yield await asyncio.to_thread(_configuration, store, image.id)
    diff_ids = list(dict.fromkeys(diff_id for image in store.records() for diff_id in image.diff_ids))
    store.hold(holder, diff_ids)
    try:
        for diff_id in diff_ids:
            stop = threading.Event()
            work = asyncio.create_task(asyncio.to_thread(_layer, store, diff_id, stop))
            try:
                yield await asyncio.shield(work)
            finally:
                stop.set()
                await to_the_end(asyncio.wait([work]))
    finally:
        await store.release(holder)


def _configuration(store: ImageStore, image_id: str) -> Verdict:
    try:
        with open(store.config_path(image_id), "rb") as file:
            content = file.read()
    except OSError as error:
        return Verdict(image_id, "configuration", 0, f"it cannot be read: {error.strerror}")
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    problem = "" if found == image_id else f"it has the digest {found}: remove the image and pull it again"
    return Verdict(image_id, "configuration", len(content), problem)


def _layer(store: ImageStore, diff_id: str, stop: threading.Event) -> Verdict:
    pieces = _Stream(_until(stop, layer_tar(store, diff_id)))
    try:
        problem = _compare(pieces, store.layer_directory(diff_id) + "/fs")
        pieces.drain()
    except OcishimError as error:
        problem = str(error)
    return Verdict(diff_id, "layer", pieces.size, str(pieces.error) if pieces.error else problem)


def _until(stop: threading.Event, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if stop.is_set():
            raise OcishimError("it was not looked at to its end")
        yield piece


class _Stream:
    """Pieces as a file for libarchive; C calls it, so it keeps errors."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")
        self.size = 0
        self.error: Exception | None = None

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: bytearray) -> int:
        if not self._rest and self.error is None:
            try:
                self._rest = memoryview(next(self._pieces, b""))
            except Exception as error:  # noqa: BLE001 - reported as the verdict, on the other side of C
                self.error = error
        taken = self._rest[: len(buffer)]
        self._rest = self._rest[len(taken) :]
        buffer[: len(taken)] = taken
        self.size += len(taken)
        return len(taken)

    def drain(self) -> None:
        buffer = bytearray(_BLOCK)
        while self.readinto(buffer):
            pass


def _compare(source: _Stream, root: str) -> str:
    """The first entry whose file is not what its header says."""
    from libarchive import read  # noqa: PLC0415 - for this command only
    from libarchive.exception import ArchiveError  # noqa: PLC0415

    from ocishim.images.extract import inside  # noqa: PLC0415

    # By name, since a later entry for the same name goes first.
    wrong: dict[str, str] = {}
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with read.stream_reader(source, format_name="tar", filter_name="none", block_size=_BLOCK) as archive:
            for entry in archive:
                name = inside(entry.pathname)
                if not entry.islnk and not posixpath.basename(name).startswith(whiteouts.PREFIX):
                    wrong.pop(name, None)
                    if problem := _difference(root_fd, name, entry):
                        wrong[name] = problem
    except (ArchiveError, OSError) as error:
        return f"its tar cannot be read: {error}"
    finally:
        os.close(root_fd)
    return next(iter(wrong.values()), "")


def _difference(root: int, name: str, entry: ArchiveEntry) -> str:
    try:
        fd = libc.openat2(root, name or ".", os.O_PATH | os.O_NOFOLLOW, resolve=libc.RESOLVE_IN_ROOT)
    except OSError as error:
        return f"{name}: {error.strerror}"
    try:
        found = os.fstat(fd)
        target = os.readlink("", dir_fd=fd) if stat.S_ISLNK(found.st_mode) else None
    finally:
        os.close(fd)
    if stat.S_IFMT(found.st_mode) != entry.filetype:
        return f"{name} is of another kind than it was"
    if (found.st_uid, found.st_gid) != (entry.uid, entry.gid):
        return f"{name} belongs to {found.st_uid}:{found.st_gid} and belonged to {entry.uid}:{entry.gid}"
    if target is not None:
        return "" if target == entry.linkpath else f"{name} points to {target} and pointed to {entry.linkpath}"
    was = stat.S_IMODE(entry.mode)
    now = stat.S_IMODE(found.st_mode)
    return "" if was == now else f"{name} has the mode {now:o} and had {was:o}"
