"""Chunks on their way from the event loop to a thread, a bounded number of bytes at a time."""

from __future__ import annotations

import asyncio
import queue
from typing import Final

_UNDER_WAY: Final = 4 << 20
"""Bytes handed over and not yet taken, at the most, a layer."""


class Feed:
    """One stream of chunks. What the loop does is `put` and `end`; the rest is the thread's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._under_way = 0
        self._room = asyncio.Event()
        self._room.set()
        self._abandoned = False

    async def put(self, chunk: bytes) -> None:
        """Hand a chunk over, once there is room."""
        await self._room.wait()
        self._under_way += len(chunk)
        if self._under_way >= _UNDER_WAY and not self._abandoned:
            self._room.clear()
        self._chunks.put(chunk)

    def end(self) -> None:
        """No more will come."""
        self._chunks.put(None)

    def get(self) -> bytes:
        """The next chunk, empty at the end; for the thread."""
        chunk = self._chunks.get()
        if chunk is None:
            self._chunks.put(None)
            return b""
        self._loop.call_soon_threadsafe(self._taken, len(chunk))
        return chunk

    def _taken(self, size: int) -> None:
        self._under_way -= size
        if self._under_way < _UNDER_WAY:
            self._room.set()

    def abandon(self) -> None:
        """The thread has ended: whoever waits for room need not."""
        self._abandoned = True
        self._room.set()
