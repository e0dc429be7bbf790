"""What happens in directories, as the kernel tells of it (inotify(7))."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

from asyncinotify import Inotify, Mask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

_CHANGES: Final = (
    Mask.CREATE
    | Mask.CLOSE_WRITE
    | Mask.MOVED_TO
    | Mask.MOVED_FROM
    | Mask.DELETE
    | Mask.ATTRIB
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
)


@asynccontextmanager
async def new_files(directory: str) -> AsyncIterator[AsyncIterator[str | None]]:
    """Names of files that appear whole (renamed into place or closed after writing) from now on.

    None stands for an overflow of the kernel's queue: names were lost, so read the directory.
    """
    with Inotify() as inotify:
        inotify.add_watch(directory, Mask.MOVED_TO | Mask.CLOSE_WRITE)
        yield _names(inotify)


@contextmanager
def writes(directory: str) -> Iterator[Callable[[], Awaitable[object]]]:
    """A call that returns once something is made, moved or written in a directory, after the call before."""
    with Inotify() as inotify:
        inotify.add_watch(directory, Mask.CREATE | Mask.MOVED_TO | Mask.MODIFY)
        yield inotify.get


async def _names(inotify: Inotify) -> AsyncIterator[str | None]:
    async for event in inotify:
        if Mask.Q_OVERFLOW in event.mask:
            yield None
        elif event.name is not None:
            yield str(event.name)


@asynccontextmanager
async def changes(directories: Sequence[str]) -> AsyncIterator[AsyncIterator[None]]:
    """A tick for each change in the directories from now on; they may come later, go and come again.

    Raises OSError where the kernel grants no more watches.
    """
    with Inotify() as inotify:
        _watch(inotify, directories)
        yield _ticks(inotify, directories)


async def _ticks(inotify: Inotify, directories: Sequence[str]) -> AsyncIterator[None]:
    async for _ in inotify:
        _watch(inotify, directories)
        yield


def _watch(inotify: Inotify, directories: Sequence[str]) -> None:
    """Watch each directory, or the nearest above it that is there, where it would come."""
    for directory in directories:
        path = directory
        while True:
            try:
                inotify.add_watch(path, _CHANGES)
            except (FileNotFoundError, NotADirectoryError):
                path = os.path.dirname(path)
                continue
            if path == directory or not os.path.isdir(directory):
                break
            path = directory  # it came between the two looks
