"""A layer in one pass: its bytes are hashed, decompressed, hashed again and extracted as they arrive.

The event loop hands chunks over and waits while too many are under way; everything else is a thread's.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim.errors import InvalidArgument, OcishimError, ResourceExhausted
from ocishim.images.feed import Feed
from ocishim.images.inflate import Inflation
from ocishim.images.recipe import Recorder
from ocishim.images.store import LayerRecord
from ocishim.linux import files, libc
from ocishim.linux.namespace import in_fresh_thread
from ocishim.linux.uncancelled import to_the_end

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from ocishim.images.blobs import Blobs
    from ocishim.images.limits import Limits
    from ocishim.images.partial import Partial
    from ocishim.images.store import ImageStore
    from ocishim.images.whiteouts import Form
    from ocishim.spec.image import Descriptor

_COMPRESSION: Final = {
    "application/vnd.oci.image.layer.v1.tar": "none",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}
_LOOK_AT_DISK: Final = 32 << 20
"""Bytes of tar after which the free space is looked at again."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def compression(media_type: str) -> str:
    """none, gzip or zstd. Raises InvalidArgument for layers of other kinds."""
    found = _COMPRESSION.get(media_type)
    if found is None:
        foreign = "foreign" in media_type or "nondistributable" in media_type
        why = "is kept elsewhere (foreign) and is not fetched" if foreign else "is of no kind this server knows"
        raise InvalidArgument(f"a layer of type {media_type!r} {why}")
    return found


class _Tar:
    """The decompressed stream, hashed, counted and recorded. C calls it, so it keeps errors instead of raising them."""

    def __init__(self, inflation: Inflation, recorder: Recorder, limits: Limits, filesystem: int) -> None:
        self._inflation = inflation
        self._rest = memoryview(b"")
        self.digest = hashlib.sha256()
        self._recorder = recorder
        self._limits = limits
        self._filesystem = filesystem
        self.size = 0
        self.error: Exception | None = None

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: bytearray) -> int:
        if self.error is not None:
            return 0
        try:
            if not self._rest:
                self._rest = memoryview(self._inflation.read())
            data = self._rest[: len(buffer)]
            self._rest = self._rest[len(data) :]
            memoryview(buffer).cast("B")[: len(data)] = data
            self._recorder.feed(data)
            self._count(len(data))
        except Exception as error:  # noqa: BLE001 - raised again by unpack, on the other side of C
            self.error = error
            return 0
        self.digest.update(data)
        return len(data)

    def _count(self, size: int) -> None:
        before, self.size = self.size, self.size + size
        if self.size > self._limits.size:
            raise InvalidArgument(f"the layer unpacks to more than {self._limits.size} bytes")
        if before // _LOOK_AT_DISK != self.size // _LOOK_AT_DISK or not before:
            found = os.fstatvfs(self._filesystem)
            if found.f_bavail * found.f_frsize < self._limits.keep_free:
                raise ResourceExhausted(f"unpacking it would leave less than {self._limits.keep_free} bytes free")

    def drain(self) -> None:
        buffer = bytearray(1 << 18)
        while self.readinto(buffer):
            pass


@dataclass(frozen=True, slots=True)
class _Outcome:
    layer: LayerRecord
    digest: str
    diff_id: str
    size: int


def _ignore(size: int) -> None:
    """For who does not look."""


async def unpack(
    store: ImageStore, blobs: Blobs, blob: Descriptor, diff_id: str, *, taken: Callable[[int], None] = _ignore
) -> None:
    """Take a layer in: it is in the store when this returns, and nothing of it when this raises.

    What came of a blob whose source failed is kept apart and used by the next attempt. `taken` is told how many
    bytes came each time some did. Raises InvalidArgument where digest, size, diff id or content are not what they must
    be, ResourceExhausted where they do not fit, and what `blobs` raises.
    """
    arrival = _Arrival(store, blobs, blob, diff_id, taken)
    partial = await asyncio.to_thread(store.partials.open, blob.digest, blob.size) if blobs.is_remote else None
    if partial is None:
        await arrival.unpack(None)
        return
    try:
        try:
            await arrival.unpack(partial)
        except InvalidArgument:
            await asyncio.to_thread(partial.forget)
            if not partial.kept:
                raise
            # What was kept may be what is wrong: a power cut tears it.
            await arrival.unpack(None)
        except ResourceExhausted:
            await asyncio.to_thread(partial.forget)
            raise
        else:
            await to_the_end(asyncio.to_thread(partial.forget))
    finally:
        partial.close()


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A layer that is to come."""

    store: ImageStore
    blobs: Blobs
    blob: Descriptor
    diff_id: str
    taken: Callable[[int], None]

    async def unpack(self, partial: Partial | None) -> None:
        """One attempt."""
        store, blob = self.store, self.blob
        directory = store.incoming(self.diff_id.removeprefix("sha256:"))
        work = _Work(directory, compression(blob.media_type), partial, store.limits, store.whiteouts)
        try:
            await to_the_end(asyncio.to_thread(os.makedirs, f"{directory}/fs", 0o755))
            outcome = await self._pump(work)
            _judge(blob, self.diff_id, outcome)
            await store.add_layer(self.diff_id, directory, outcome.layer)
        except BaseException as error:
            await to_the_end(asyncio.to_thread(files.remove_tree, directory))
            if isinstance(error, OSError) and error.errno in _FULL:
                raise ResourceExhausted(f"layer {blob.digest}: {store.root}: {error.strerror}") from error
            raise

    async def _pump(self, work: _Work) -> _Outcome:
        feed = Feed()
        worker = asyncio.create_task(in_fresh_thread(lambda: _unpack(work, feed), "unpack-layer"))
        worker.add_done_callback(lambda _: feed.abandon())
        try:
            async with aclosing(self._chunks(work.partial)) as chunks:
                async for chunk in chunks:
                    if worker.done():
                        break
                    await feed.put(chunk)
                    self.taken(len(chunk))
        finally:
            feed.end()
            # The thread ends soon after its feed does; its directory must not go before.
            await to_the_end(_ended(worker))
            # Where the chunks failed, the thread's complaint about their end is no news.
            worker.exception()
        return worker.result()

    async def _chunks(self, partial: Partial | None) -> AsyncGenerator[bytes, None]:
        begin = 0
        if partial is not None and partial.kept:
            async with aclosing(partial.chunks()) as kept:
                async for chunk in kept:
                    begin += len(chunk)
                    yield chunk
        if begin < self.blob.size or not begin:
            async with aclosing(self.blobs.chunks(self.blob, begin)) as rest:
                async for chunk in rest:
                    yield chunk


@dataclass(frozen=True, slots=True)
class _Work:
    """What one attempt's thread needs to know."""

    directory: str
    kind: str
    partial: Partial | None
    limits: Limits
    form: Form


async def _ended(worker: asyncio.Task[_Outcome]) -> None:
    await asyncio.wait([worker])


def _unpack(work: _Work, feed: Feed) -> _Outcome:
    from ocishim.images.extract import extract_layer  # noqa: PLC0415 - brings libarchive

    root = f"{work.directory}/fs"
    os.chmod(root, 0o755)  # noqa: S103 - the container's own root directory
    # Opened before the thread's root changes.
    beside = os.open(work.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with (
            open(f"{work.directory}/recipe.zst", "wb") as file,
            Inflation(work.kind, feed, work.partial) as inflation,
        ):
            recorder = Recorder(file)
            tar = _Tar(inflation, recorder, work.limits, beside)
            try:
                extracted = extract_layer(tar, root, recorder, form=work.form, limits=work.limits, beside=beside)
            except OcishimError:
                if tar.error is None:
                    raise
                extracted = None
            if tar.error is None:
                tar.drain()
            if tar.error is not None or extracted is None:
                raise _stream_failure(work.kind, tar.error)
            recorder.finish()
        libc.syncfs(beside)
    finally:
        os.close(beside)
    return _Outcome(
        LayerRecord(
            size=extracted.size,
            inodes=extracted.inodes,
            tar_size=tar.size,
            whiteouts=work.form,
            replaced=tuple(os.fsencode(path).hex() for path in extracted.replaced),
            exact=extracted.exact,
            opaque=extracted.opaque,
        ),
        f"sha256:{inflation.compressed.digest.hexdigest()}",
        f"sha256:{tar.digest.hexdigest()}",
        inflation.compressed.size,
    )


def _stream_failure(kind: str, error: Exception | None) -> Exception:
    if isinstance(error, OcishimError) or (isinstance(error, OSError) and error.errno in _FULL):
        return error
    failure = InvalidArgument(f"the layer's {kind} stream is corrupt or cut off: {error}")
    failure.__cause__ = error
    return failure


def _judge(blob: Descriptor, diff_id: str, outcome: _Outcome) -> None:
    if outcome.size != blob.size:
        raise InvalidArgument(f"layer {blob.digest} has {outcome.size} bytes, its manifest says {blob.size}")
    if outcome.digest != blob.digest:
        raise InvalidArgument(f"layer {blob.digest} has the digest {outcome.digest}")
    if outcome.diff_id != diff_id:
        raise InvalidArgument(
            f"layer {blob.digest} has the diff id {outcome.diff_id}, the image's configuration says {diff_id}"
        )
