"""A layer in one pass: its bytes are hashed, decompressed, hashed again and extracted as they arrive.

The event loop hands chunks over and waits while too many are under way; everything else is a thread's.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import queue
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, cast

from ocishim.errors import InvalidArgument, OcishimError, ResourceExhausted
from ocishim.images.store import LayerRecord
from ocishim.linux import files, libc
from ocishim.linux.namespace import in_fresh_thread
from ocishim.linux.uncancelled import to_the_end

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ocishim.images.store import ImageStore
    from ocishim.spec.image import Descriptor

_COMPRESSION: Final = {
    "application/vnd.oci.image.layer.v1.tar": "none",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}
_UNDER_WAY: Final = 4 << 20
"""Bytes handed over and not yet taken, at the most, a layer."""


class _Readable(Protocol):
    def readinto(self, buffer: bytearray, /) -> int | None: ...


def compression(media_type: str) -> str:
    """none, gzip or zstd. Raises InvalidArgument for layers of other kinds."""
    found = _COMPRESSION.get(media_type)
    if found is None:
        foreign = "foreign" in media_type or "nondistributable" in media_type
        why = "is kept elsewhere (foreign) and is not fetched" if foreign else "is of no kind this server knows"
        raise InvalidArgument(f"a layer of type {media_type!r} {why}")
    return found


class Feed:
    """Chunks on their way from the event loop to a thread, a bounded number of bytes at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._under_way = 0
        self._room = asyncio.Event()
        self._room.set()
        self._abandoned = False

    async def put(self, chunk: bytes) -> None:
        """Hand a chunk over, once there is room."""
        await self._room.wait()
        self._under_way += len(chunk)
        if self._under_way >= _UNDER_WAY and not self._abandoned:
            self._room.clear()
        self._chunks.put(chunk)

    def end(self) -> None:
        """No more will come."""
        self._chunks.put(None)

    def get(self) -> bytes:
        """The next chunk, empty at the end; for the thread."""
        chunk = self._chunks.get()
        if chunk is None:
            self._chunks.put(None)
            return b""
        self._loop.call_soon_threadsafe(self._taken, len(chunk))
        return chunk

    def _taken(self, size: int) -> None:
        self._under_way -= size
        if self._under_way < _UNDER_WAY:
            self._room.set()

    def abandon(self) -> None:
        """The thread has ended: whoever waits for room need not."""
        self._abandoned = True
        self._room.set()


class _Compressed:
    """The feed as a file, hashed and counted."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._rest = memoryview(b"")
        self.digest = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            chunk = self._feed.get()
            self.digest.update(chunk)
            self.size += len(chunk)
            self._rest = memoryview(chunk)
        taken = self._rest[:size] if size >= 0 else self._rest
        self._rest = self._rest[len(taken) :]
        return bytes(taken)

    def readinto(self, buffer: bytearray, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def drain(self) -> None:
        while self.read(1 << 20):
            pass


class _Tar:
    """The decompressed stream, hashed. C calls it, so it keeps errors instead of raising them."""

    def __init__(self, stream: _Readable) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.error: Exception | None = None

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: bytearray) -> int:
        try:
            size = self._stream.readinto(buffer) or 0
        except Exception as error:  # noqa: BLE001 - raised again by unpack, on the other side of C
            self.error = error
            return 0
        self.digest.update(memoryview(buffer)[:size])
        return size

    def drain(self) -> None:
        buffer = bytearray(1 << 18)
        while self.readinto(buffer):
            pass


def _decompressed(kind: str, source: _Compressed) -> _Readable:
    # Their stubs want a whole file; they only ever read.
    if kind == "gzip":
        from isal import igzip  # noqa: PLC0415 - loaded by the first image, not at start

        return cast("_Readable", igzip.IGzipFile(fileobj=cast("BinaryIO", source), mode="rb"))  # type: ignore[no-untyped-call] # its stub
    if kind == "zstd":
        import zstandard  # noqa: PLC0415 - as above

        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        return cast("_Readable", decompressor.stream_reader(cast("BinaryIO", source), read_across_frames=True))
    return source


@dataclass(frozen=True, slots=True)
class _Outcome:
    layer: LayerRecord
    digest: str
    diff_id: str
    size: int


async def unpack(store: ImageStore, blob: Descriptor, diff_id: str, chunks: AsyncGenerator[bytes, None]) -> None:
    """Take a layer in: it is in the store when this returns, and nothing of it when this raises.

    Raises InvalidArgument where digest, size, diff id or content are not what they must be.
    """
    kind = compression(blob.media_type)
    directory = store.incoming(diff_id.removeprefix("sha256:"))
    try:
        await to_the_end(asyncio.to_thread(os.makedirs, f"{directory}/fs", 0o755))
        outcome = await _pump(f"{directory}/fs", kind, chunks)
        _judge(blob, diff_id, outcome)
        await store.add_layer(diff_id, directory, outcome.layer)
    except BaseException as error:
        await to_the_end(asyncio.to_thread(files.remove_tree, directory))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(f"layer {blob.digest}: {store.root}: {error.strerror}") from error
        raise


async def _pump(directory: str, kind: str, chunks: AsyncGenerator[bytes, None]) -> _Outcome:
    feed = Feed()
    worker = asyncio.create_task(in_fresh_thread(lambda: _unpack(directory, kind, feed), "unpack-layer"))
    worker.add_done_callback(lambda _: feed.abandon())
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                if worker.done():
                    break
                await feed.put(chunk)
    finally:
        feed.end()
        # The thread ends soon after its feed does; its directory must not go before.
        await to_the_end(_ended(worker))
        # Where the chunks failed, the thread's complaint about their end is no news.
        worker.exception()
    return worker.result()


async def _ended(worker: asyncio.Task[_Outcome]) -> None:
    await asyncio.wait([worker])


def _unpack(directory: str, kind: str, feed: Feed) -> _Outcome:
    from ocishim.images.extract import extract_layer  # noqa: PLC0415 - brings libarchive

    os.chmod(directory, 0o755)  # noqa: S103 - the container's own root directory
    # Opened before the thread's root changes.
    filesystem = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        compressed = _Compressed(feed)
        tar = _Tar(_decompressed(kind, compressed))
        try:
            extracted = extract_layer(tar, directory)
        except OcishimError:
            if tar.error is None:
                raise
            extracted = None
        if tar.error is None:
            tar.drain()
            compressed.drain()
        if tar.error is not None or extracted is None:
            raise InvalidArgument(f"the layer's {kind} stream is corrupt or cut off: {tar.error}") from tar.error
        libc.syncfs(filesystem)
    finally:
        os.close(filesystem)
    return _Outcome(
        LayerRecord(size=extracted.size, inodes=extracted.inodes),
        f"sha256:{compressed.digest.hexdigest()}",
        f"sha256:{tar.digest.hexdigest()}",
        compressed.size,
    )


def _judge(blob: Descriptor, diff_id: str, outcome: _Outcome) -> None:
    if outcome.size != blob.size:
        raise InvalidArgument(f"layer {blob.digest} has {outcome.size} bytes, its manifest says {blob.size}")
    if outcome.digest != blob.digest:
        raise InvalidArgument(f"layer {blob.digest} has the digest {outcome.digest}")
    if outcome.diff_id != diff_id:
        raise InvalidArgument(
            f"layer {blob.digest} has the diff id {outcome.diff_id}, the image's configuration says {diff_id}"
        )
