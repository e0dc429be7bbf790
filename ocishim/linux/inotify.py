"""What happens in one directory, as the kernel tells of it (inotify(7))."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from asyncinotify import Inotify, Mask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator


@asynccontextmanager
async def new_files(directory: str) -> AsyncIterator[AsyncIterator[str | None]]:
    """Names of files that appear whole (renamed into place or closed after writing) from now on.

    None stands for an overflow of the kernel's queue: names were lost, so read the directory.
    """
    with Inotify() as inotify:
        inotify.add_watch(directory, Mask.MOVED_TO | Mask.CLOSE_WRITE)
        yield _names(inotify)


@contextmanager
def changes(directory: str) -> Iterator[Callable[[], Awaitable[object]]]:
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
