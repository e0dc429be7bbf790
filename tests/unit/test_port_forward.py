"""How a forwarded connection ends, and who is told why."""

from __future__ import annotations

import asyncio
import errno
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from ocishim.streaming.port_forward import serve_one
from ocishim.streaming.remote_stream import Inbox, StreamGone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RESET = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


class Stream:
    """A client's stream."""

    def __init__(self, *sent: bytes) -> None:
        self.inbox = Inbox(lambda _: None)
        self.got = b""
        self.ended = False
        for data in sent:
            self.inbox.put(data)

    async def read(self) -> bytes:
        return await self.inbox.get()

    async def write(self, data: bytes) -> None:
        self.got += data

    async def end(self) -> None:
        self.ended = True

    def ignore(self) -> None:
        self.inbox.ignore()


class Pod:
    """A Tunnel whose reading or writing breaks; the other direction then has a proper end, as the kernel has it."""

    def __init__(self, *, reading: OSError | None = None, writing: OSError | None = None) -> None:
        self._reading = reading
        self._writing = writing
        self._over = asyncio.Event()
        self.closed = False
        if reading is not None:
            self._over.set()

    async def read(self) -> bytes:
        await self._over.wait()
        if self._reading is not None:
            raise self._reading
        return b""

    async def write(self, _: bytes) -> None:
        self._over.set()
        if self._writing is not None:
            raise self._writing

    def end(self) -> None:
        self._over.set()

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[Pod]:
        yield self
        self.closed = True


async def served(pod: Pod, data: Stream) -> bytes:
    """What the error stream says."""
    error = Stream()
    ending: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    await asyncio.wait_for(serve_one(pod.opening(), data, error, ending), 10)
    assert (data.ended, error.ended, pod.closed) == (True, True, True)
    return error.got


@pytest.mark.parametrize("direction", ["reading", "writing"])
async def test_a_reset_is_told_whichever_direction_it_met(direction: str) -> None:
    words = await served(Pod(**{direction: RESET}), Stream(b"hello"))
    assert words == b"the connection inside the pod broke: Connection reset by peer"


async def test_a_proper_end_says_nothing() -> None:
    assert await served(Pod(), Stream(b"hello")) == b""


async def test_a_client_that_abandons_the_connection_is_told_nothing() -> None:
    data = Stream()
    data.inbox.fail()
    with pytest.raises(StreamGone):
        await data.read()
    assert await served(Pod(), data) == b""
