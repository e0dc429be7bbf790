"""A layer's tar, bit by bit, again: all of it that is no file's content is kept, the content lies in the layer.

So an image can be saved under the very digests its configuration names, and what is on disk can be held against
them, without keeping a second copy. A recipe is a zstd stream of parts: raw bytes, or a stretch of a file.
"""

from __future__ import annotations

import os
import struct
from collections import defaultdict, deque
from typing import TYPE_CHECKING, BinaryIO, Final

from ocishim.errors import FailedPrecondition
from ocishim.linux import libc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO

    from zstandard import ZstdCompressionWriter

_RAW: Final = struct.Struct(">cI")
_FILE: Final = struct.Struct(">cIQQ")
_MOST_PENDING: Final = 1 << 20
_WORTH_COMPRESSING: Final = 64 << 10
"""Bytes that are handed to the compressor at once: a call for each small header takes longer than its work."""
_CHUNK: Final = 1 << 20
_LONGEST_PATH: Final = 1 << 20


class Recorder:
    """Writes a recipe while the tar's bytes pass by."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard  # noqa: PLC0415 - loaded by the first image, not at start

        self._writer: ZstdCompressionWriter = zstandard.ZstdCompressor(level=1).stream_writer(file, closefd=False)
        self._written = bytearray()
        """Parts that the compressor has not seen yet."""
        self._pending = bytearray()
        self._position = 0
        """Of the first pending byte in the tar; all before it is recorded."""
        self._skip_to = 0

    def feed(self, data: memoryview) -> None:
        """The next bytes of the tar."""
        skipped = min(max(self._skip_to - self._position - len(self._pending), 0), len(data))
        if skipped:
            # Nothing is pending while a file's content passes by.
            self._position += skipped
        self._pending += data[skipped:]
        if len(self._pending) > _MOST_PENDING:
            self._flush(len(self._pending) // 2)

    def content(self, path: str, begin: int, size: int) -> None:
        """The bytes from begin on are the file's whole content; called before libarchive reads any past them."""
        late = max(self._position - begin, 0)
        if late >= size:
            return
        self._flush(begin + late - self._position)
        name = os.fsencode(path)
        self._written += _FILE.pack(b"F", len(name), late, size - late)
        self._written += name
        if len(self._written) > _WORTH_COMPRESSING:
            self._compress()
        self._skip_to = begin + size
        here = min(len(self._pending), size - late)
        del self._pending[:here]
        self._position += here

    def _flush(self, size: int) -> None:
        if size:
            self._written += _RAW.pack(b"R", size)
            self._written += self._pending[:size]
            del self._pending[:size]
            self._position += size
            if len(self._written) > _WORTH_COMPRESSING:
                self._compress()

    def _compress(self) -> None:
        self._writer.write(self._written)
        self._written.clear()

    def finish(self) -> None:
        """Write what is left."""
        self._flush(len(self._pending))
        self._compress()
        self._writer.close()  # type: ignore[no-untyped-call] # its stub


def tar_again(layer: str, replaced: Sequence[str]) -> Iterator[bytes]:
    """The tar that was unpacked into layer/fs, in pieces; `replaced` names files that a later entry took the place of.

    Raises FailedPrecondition where a file is gone or shorter than it was. Who takes the pieces checks the digest.
    """
    import zstandard  # noqa: PLC0415 - as above

    former: defaultdict[str, deque[int]] = defaultdict(deque)
    for number, path in enumerate(replaced):
        former[path].append(number)
    root = os.open(f"{layer}/fs", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(f"{layer}/recipe.zst", "rb") as file:
            parts = zstandard.ZstdDecompressor().stream_reader(file)
            while kind := parts.read(1):
                if kind == b"R":
                    yield from _raw(parts, _RAW.unpack(kind + _exactly(parts, _RAW.size - 1, layer))[1], layer)
                    continue
                _, length, begin, size = _FILE.unpack(kind + _exactly(parts, _FILE.size - 1, layer))
                path = os.fsdecode(_exactly(parts, min(length, _LONGEST_PATH), layer))
                if former.get(path):
                    fd = os.open(f"{layer}/replaced/{former[path].popleft()}", os.O_RDONLY | os.O_CLOEXEC)
                else:
                    fd = libc.openat2(root, path, os.O_RDONLY | os.O_NONBLOCK, resolve=_INSIDE)
                with open(fd, "rb", buffering=0) as content:
                    yield from _stretch(content, begin, size, f"{layer}/fs/{path}")
    except OSError as error:
        raise FailedPrecondition(f"{layer}: {error.filename or ''} cannot be read: {error.strerror}") from error
    except (zstandard.ZstdError, struct.error) as error:
        raise FailedPrecondition(f"{layer}/recipe.zst is damaged: {error}") from error
    finally:
        os.close(root)


_INSIDE: Final = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS


def _exactly(parts: BinaryIO, size: int, layer: str) -> bytes:
    data = b""
    while len(data) < size:
        more = parts.read(size - len(data))
        if not more:
            raise FailedPrecondition(f"{layer}/recipe.zst is cut off")
        data += more
    return data


def _raw(parts: BinaryIO, size: int, layer: str) -> Iterator[bytes]:
    while size:
        piece = _exactly(parts, min(size, _CHUNK), layer)
        yield piece
        size -= len(piece)


def _stretch(content: FileIO, begin: int, size: int, path: str) -> Iterator[bytes]:
    content.seek(begin)
    while size:
        piece = content.read(min(size, _CHUNK))
        if not piece:
            raise FailedPrecondition(f"{path} is {size} bytes shorter than it was when it was unpacked")
        yield piece
        size -= len(piece)
