"""New files in one directory, as the kernel tells of them (inotify(7))."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from asyncinotify import Inotify, Mask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def new_files(directory: str) -> AsyncIterator[AsyncIterator[str | None]]:
    """Names of files that appear whole (renamed into place or closed after writing) from now on.

    None stands for an overflow of the kernel's queue: names were lost, so read the directory.
    """
    with Inotify() as inotify:
        inotify.add_watch(directory, Mask.MOVED_TO | Mask.CLOSE_WRITE)
        yield _names(inotify)


async def _names(inotify: Inotify) -> AsyncIterator[str | None]:
    async for event in inotify:
        if Mask.Q_OVERFLOW in event.mask:
            yield None
        elif event.name is not None:
            yield str(event.name)
