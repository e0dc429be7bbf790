"""Blobs that came in part: it is kept, so that the next attempt, also that of a restarted server, goes on from there.

DIRECTORY/HEX holds the beginning of the blob with that digest, as it came. It is not synced: what a power cut leaves is
found out by the digest, and then fetched again.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

log = logging.getLogger(__name__)

_CHUNK: Final = 1 << 20
_WORTH_KEEPING: Final = 1 << 20
"""Bytes below which a blob is sooner fetched again."""
_KEPT: Final = 24 * 3600.0
"""Seconds after its last byte for which a part is kept."""


class Partial:
    """The beginning of one blob. Whoever has it open is the only one who writes to it."""

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd
        self.kept = os.fstat(fd).st_size
        """Bytes that were there when it was opened."""
        self._size = self.kept

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """What was there when it was opened."""
        position = 0
        while position < self.kept:
            size = min(_CHUNK, self.kept - position)
            chunk = await asyncio.to_thread(os.pread, self._fd, size, position)
            if not chunk:
                return
            yield chunk
            position += len(chunk)

    def take(self, chunk: bytes, position: int) -> None:
        """Keep a chunk that came, whose first byte is the blob's at position. A full disk is no failure of the pull."""
        if position != self._size:
            return
        try:
            self._size += os.write(self._fd, chunk)
        except OSError as error:
            log.warning("%s: %s: goes on without keeping what comes", self._path, error.strerror)
            self.forget()
            self._size = -1

    def forget(self) -> None:
        """Remove it. Blocks."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        # Open as it is, it would take its space until it is closed.
        os.truncate(self._fd, 0)

    def close(self) -> None:
        """End its use; what it holds stays."""
        os.close(self._fd)


class Partials:
    """All of a store's."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def open(self, digest: str, size: int) -> Partial | None:
        """The part of a blob of so many bytes; None where it is not worth it or another pull has it. Blocks."""
        if size < _WORTH_KEEPING:
            return None
        path = f"{self._directory}/{digest.removeprefix('sha256:')}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.warning("%s: %s: goes on without keeping what comes", path, error.strerror)
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_size > size:
                os.truncate(fd, 0)
        except OSError:
            os.close(fd)
            return None
        return Partial(path, fd)

    def clear(self, age: float = _KEPT) -> int:
        """Remove what nobody has added to for so many seconds and nobody uses; returns the bytes. Blocks."""
        freed = 0
        for name in os.listdir(self._directory):
            path = f"{self._directory}/{name}"
            with suppress(OSError):
                found = os.stat(path)
                if time.time() - found.st_mtime < age or _is_open(path):
                    continue
                os.unlink(path)
                freed += found.st_size
        return freed

    def usage(self) -> int:
        """Bytes of all. Blocks."""
        total = 0
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    total += entry.stat().st_size
        return total


def _is_open(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
