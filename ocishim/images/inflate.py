"""A layer's blob hashed and decompressed, in a thread beside the one that hashes again and extracts what comes out."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, Self, cast

if TYPE_CHECKING:
    from types import TracebackType

    from ocishim.images.feed import Feed
    from ocishim.images.partial import Partial

_CHUNK: Final = 256 << 10
_MOST_WAITING: Final = 16
"""Chunks that are decompressed and not yet taken, at the most."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Compressed:
    """The feed as a file, hashed and counted."""

    def __init__(self, feed: Feed, partial: Partial | None) -> None:
        self._feed = feed
        self._partial = partial
        self._rest = memoryview(b"")
        self.digest = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        """What is at hand of the next `size` bytes (of all, where it is negative); empty at the end."""
        if not self._rest:
            chunk = self._feed.get()
            if self._partial is not None:
                self._partial.take(chunk, self.size)
            self.digest.update(chunk)
            self.size += len(chunk)
            self._rest = memoryview(chunk)
        taken = self._rest[:size] if size >= 0 else self._rest
        self._rest = self._rest[len(taken) :]
        return bytes(taken)

    def readinto(self, buffer: bytearray, /) -> int:
        """As read, into a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _decompressed(kind: str, source: Compressed) -> _Readable:
    # Their stubs want a whole file; they only ever read.
    if kind == "gzip":
        from isal import igzip  # noqa: PLC0415 - loaded by the first image, not at start

        return cast("_Readable", igzip.IGzipFile(fileobj=cast("BinaryIO", source), mode="rb"))  # type: ignore[no-untyped-call] # its stub
    if kind == "zstd":
        import zstandard  # noqa: PLC0415 - as above

        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        return cast("_Readable", decompressor.stream_reader(cast("BinaryIO", source), read_across_frames=True))
    return source


class Inflation:
    """The decompressed stream. Use it as a context: its thread ends with it, when the feed has its next chunk or ends.

    Decompressing takes a good part of a layer's time and holds no lock of the interpreter: another core does it.
    """

    def __init__(self, kind: str, feed: Feed, partial: Partial | None) -> None:
        self.compressed = Compressed(feed, partial)
        self._stream = _decompressed(kind, self.compressed)
        self._chunks: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._abandoned = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="inflate-layer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
        self._thread.join()

    def read(self) -> bytes:
        """The next bytes, empty at the end. Raises what stopped the stream: its library's own error, or an OSError."""
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._ended)
            if self._chunks:
                self._changed.notify_all()
                return self._chunks.popleft()
        if self._error is not None:
            raise self._error
        return b""

    def _run(self) -> None:
        try:
            while (chunk := self._stream.read(_CHUNK)) and self._hand_over(chunk):
                pass
            # What follows the compressed stream is part of the blob, and of its digest.
            while not self._abandoned and self.compressed.read(_CHUNK):
                pass
        except Exception as error:  # noqa: BLE001 - raised again by read, in the thread that wants the bytes
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _hand_over(self, chunk: bytes) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: len(self._chunks) < _MOST_WAITING or self._abandoned)
            self._chunks.append(chunk)
            self._changed.notify_all()
            return not self._abandoned
