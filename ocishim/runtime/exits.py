"""Exit files: conmon writes one when a container ends, and keeps no other account of it."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocishim.linux import inotify
from ocishim.protocol import conmon as messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@dataclass(frozen=True, slots=True)
class Exit:
    """A container's end."""

    container_id: str
    code: int
    at: int
    """Nanoseconds since the epoch, when conmon wrote the file."""


def read(directory: str, container_id: str) -> Exit | None:
    """The container's end, None while there is no (whole) exit file."""
    try:
        with open(f"{directory}/{container_id}", "rb") as file:
            content = file.read(64)
            at = os.fstat(file.fileno()).st_mtime_ns
        return Exit(container_id, messages.parse_exit_file(content), at)
    except (FileNotFoundError, ValueError):
        return None


@asynccontextmanager
async def watched(
    directory: str, report: Callable[[Exit], None], overflowed: Callable[[], None]
) -> AsyncIterator[None]:
    """Report every exit file from now on; `overflowed` when some may have been missed."""
    async with inotify.new_files(directory) as names:
        task = asyncio.create_task(_watch(directory, names, report, overflowed), name="exit-watch")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


async def _watch(
    directory: str,
    names: AsyncIterator[str | None],
    report: Callable[[Exit], None],
    overflowed: Callable[[], None],
) -> None:
    async for name in names:
        if name is None:
            overflowed()
            continue
        # A file of ten bytes in memory: reading it takes less than handing it to a thread.
        found = read(directory, name)
        if found is not None:
            report(found)
