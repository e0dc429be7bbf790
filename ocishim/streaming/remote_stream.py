"""One of a client's byte streams, whatever protocol carries it, and the store of bytes that wait to be used."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_FAREWELL: Final = 30.0
"""Seconds that a client gets to take how its session ended; all else that it asked for it has by then."""


class StreamGone(ConnectionError):  # noqa: N818 - an event as much as an error
    """The client has reset this stream: what is meant for it may be dropped."""


class RemoteStream(Protocol):
    """Bytes from and to the client."""

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises StreamGone where it did not end but was reset."""

    async def write(self, data: bytes) -> None:
        """Send, as fast as the client takes it. Raises StreamGone, or ConnectionError where the client has left."""

    async def end(self) -> None:
        """Send no more; nothing where the stream is gone."""

    def ignore(self) -> None:
        """Drop what the client still sends."""


class Inbox:
    """Bytes of one stream that have come and are not used yet; reading them makes room for more."""

    def __init__(self, used: Callable[[int], None]) -> None:
        self._used = used
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._failed = False
        self._ignored = False
        self._changed = asyncio.Event()

    def put(self, data: bytes) -> None:
        """More has come."""
        if self._ignored or self._ended:
            self._used(len(data))
        elif data:
            self._chunks.append(data)
            self._changed.set()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._changed.set()

    def fail(self) -> None:
        """The client has abandoned the stream."""
        self._failed = not self._ended
        self.end()

    def ignore(self) -> None:
        """Nobody will read: what is here and what comes is dropped."""
        self._ignored = True
        while self._chunks:
            self._used(len(self._chunks.popleft()))

    async def get(self) -> bytes:
        """The next piece; empty at the end. One reader at a time. Raises StreamGone where there will be no end."""
        while not self._chunks:
            if self._failed and not self._ignored:
                raise StreamGone
            if self._ended or self._ignored:
                return b""
            self._changed.clear()
            await self._changed.wait()
        data = self._chunks.popleft()
        self._used(len(data))
        return data


async def say_last(error: RemoteStream, words: bytes, streams: Iterable[RemoteStream]) -> None:
    """Write the last words to the error stream and end all streams. Raises ConnectionError where the client has left,
    or takes nothing for too long."""
    every = tuple(streams)
    for stream in every:
        stream.ignore()
    try:
        async with asyncio.timeout(_FAREWELL):
            with suppress(StreamGone):
                if words:
                    await error.write(words)
            for stream in every:
                await stream.end()
    except TimeoutError as late:
        raise ConnectionAbortedError(f"the client took nothing for {_FAREWELL:g} s") from late
