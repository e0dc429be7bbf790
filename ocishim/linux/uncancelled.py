"""Awaiting what a cancellation must not leave half done: a thread's work, a clean-up after a kill."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await work to its end however often the caller is cancelled meanwhile; then the caller is told.

    A client's deadline and its reset may both cancel one call. A thread goes on writing whatever becomes of who
    waits for it, and memory must follow the disk.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # taken note of: what the caller is told is the cancellation
        raise cancelled
    return task.result()
