"""A container's log file, from some place on to its end or, where it is followed, to the container's."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim.errors import FailedPrecondition, NotFound
from ocishim.linux import inotify
from ocishim.protocol.log_line import STDERR, STDOUT, Lines, Reader, tail_offset

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from io import FileIO

    from ocishim.linux.stdio import Output
    from ocishim.protocol.log_line import Record

_READ: Final = 1 << 18
_BLOCK: Final = 1 << 16
_LOOK_EVERY: Final = 0.5
"""Seconds between two questions whether the container still runs."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to show of a log."""

    lines: Lines
    streams: tuple[str, ...] = (STDOUT, STDERR)
    tail: int | None = None
    """The last so many lines only."""


async def show(path: str, wanted: Wanted, outputs: dict[str, Output]) -> None:
    """Write what is in the log to the outputs, by stream.

    Raises NotFound where there is none, FailedPrecondition where it may not be read.
    """
    with _opened(path, wanted) as log:
        if not await asyncio.to_thread(log.open):
            raise NotFound(f"the log {path} is not there")
        await _write(log, outputs)
        await _put(log.last(), outputs)


async def follow(
    path: str, wanted: Wanted, outputs: dict[str, Output], has_exited: Callable[[], Awaitable[bool]]
) -> None:
    """Write what is in the log and what comes, also in the new file after a rotation.

    Returns when the container has exited and all is read. Raises NotFound where there is no directory for the log,
    FailedPrecondition where it may not be read.
    """
    loop = asyncio.get_running_loop()
    with _changes(path) as changed, _opened(path, wanted) as log:
        await _write(log, outputs)
        while not await has_exited():
            deadline = loop.time() + _LOOK_EVERY
            while (left := deadline - loop.time()) > 0:
                try:
                    async with asyncio.timeout(left):
                        await changed()
                except TimeoutError:
                    break
                await _write(log, outputs)
        await _write(log, outputs)
        await _put(log.last(), outputs)


@contextmanager
def _changes(path: str) -> Iterator[Callable[[], Awaitable[object]]]:
    directory = os.path.dirname(os.path.realpath(path))
    try:
        with inotify.writes(directory) as changed:
            yield changed
    except FileNotFoundError as error:
        raise NotFound(f"the log's directory {directory} is not there") from error


@contextmanager
def _opened(path: str, wanted: Wanted) -> Iterator[_Log]:
    log = _Log(path, wanted)
    try:
        yield log
    except PermissionError as error:
        raise FailedPrecondition(f"the log {path} may not be read: {error.strerror}; be root") from error
    finally:
        log.close()


async def _write(log: _Log, outputs: dict[str, Output]) -> None:
    while (pieces := await asyncio.to_thread(log.next)) is not None:
        await _put(pieces, outputs)


async def _put(pieces: Iterable[tuple[str, bytes]], outputs: dict[str, Output]) -> None:
    for stream, data in pieces:
        await outputs[stream].write(data)


class _Log:
    """The file of the moment. Its methods block on the disk."""

    def __init__(self, path: str, wanted: Wanted) -> None:
        self._path = path
        self._wanted = wanted
        self._reader = Reader()
        self._file: FileIO | None = None
        self._fresh = True

    def open(self) -> bool:
        """Open it at the place from which it is wanted; False where it is not there (yet, or in a rotation)."""
        try:
            self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115 - close() is the owner's to call
        except FileNotFoundError:
            return False
        if self._fresh and self._wanted.tail is not None:
            size = os.fstat(self._file.fileno()).st_size
            blocks = _backwards(self._file.fileno(), size)
            self._file.seek(tail_offset(blocks, size, self._wanted.tail, self._wanted.streams))
        self._fresh = False
        return True

    def close(self) -> None:
        """Close it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def next(self) -> list[tuple[str, bytes]] | None:
        """More of it, by stream; None where there is no more now."""
        if self._file is None and not self.open():
            return None
        assert self._file is not None  # noqa: S101 - it was opened
        if data := self._file.read(_READ):
            return self._shown(self._reader.feed(data))
        # Asked in this order: what its writer wrote before it went to the new file is read first.
        moved = self._has_moved(self._file)
        if data := self._file.read(_READ):
            return self._shown(self._reader.feed(data))
        if not moved:
            return None
        self.close()
        return self.last()

    def last(self) -> list[tuple[str, bytes]]:
        """What is left of a record that its writer did not finish."""
        return self._shown(self._reader.finish())

    def _has_moved(self, file: FileIO) -> bool:
        """Whether the path leads to another file now, or the file was emptied and begins anew."""
        mine = os.fstat(file.fileno())
        if mine.st_size < file.tell():
            return True
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) != (mine.st_dev, mine.st_ino)

    def _shown(self, records: Iterable[Record]) -> list[tuple[str, bytes]]:
        shown: list[tuple[str, list[bytes]]] = []
        for record in records:
            piece = self._wanted.lines.show(record)
            if piece is None:
                continue
            if not shown or shown[-1][0] != record.stream:
                shown.append((record.stream, []))
            shown[-1][1].append(piece)
        return [(stream, b"".join(pieces)) for stream, pieces in shown]


def _backwards(fd: int, size: int) -> Iterator[bytes]:
    end = size
    while end > 0:
        begin = max(0, end - _BLOCK)
        yield os.pread(fd, end - begin, begin)
        end = begin
