"""Port-forward: each connection that a client asks for, joined to one inside the pod."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocishim.errors import OcishimError
from ocishim.protocol import port_forward as protocol
from ocishim.streaming.remote_stream import StreamGone, say_last

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager

    from ocishim.protocol.port_forward import StreamHeaders
    from ocishim.streaming.backend import Tunnel
    from ocishim.streaming.channel_session import ChannelSession
    from ocishim.streaming.remote_stream import RemoteStream
    from ocishim.streaming.spdy_session import SpdySession, SpdyStream

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Half:
    """A stream that waits for its other half."""

    headers: StreamHeaders
    stream: SpdyStream
    late: asyncio.TimerHandle


class SpdyForwards:
    """Pairs a SPDY client's streams and serves each pair, any number at a time."""

    def __init__(
        self,
        session: SpdySession,
        forward: Callable[[int], AbstractAsyncContextManager[Tunnel]],
        ending: asyncio.Future[str],
        creation_timeout: float,
    ) -> None:
        self._session = session
        self._forward = forward
        self._ending = ending
        self._creation_timeout = creation_timeout
        self._halves: dict[str, _Half] = {}
        """By request id."""

    async def serve(self) -> None:
        """Until cancelled, or until `ending` is set and every client's stream has been told."""
        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(self._accept(group), name="accept")
            try:
                await asyncio.wait((accepting, self._ending), return_when=asyncio.FIRST_COMPLETED)
            finally:
                accepting.cancel()
                for half in self._halves.values():
                    half.late.cancel()

    async def _accept(self, group: asyncio.TaskGroup) -> None:
        with suppress(ConnectionError):
            while True:
                await self._take(await self._session.opened.get(), group)

    async def _take(self, stream: SpdyStream, group: asyncio.TaskGroup) -> None:
        try:
            headers = protocol.parse_headers(stream.headers, stream.stream_id)
        except ValueError as error:
            log.info("port-forward: a stream is refused: %s", error)
            await stream.refuse()
            return
        other = self._halves.pop(headers.request_id, None)
        if other is None:
            late = asyncio.get_running_loop().call_later(
                self._creation_timeout, lambda: group.create_task(self._expire(headers.request_id, stream))
            )
            self._halves[headers.request_id] = _Half(headers, stream, late)
            await stream.accept()
            return
        other.late.cancel()
        if other.headers.kind == headers.kind or other.headers.port != headers.port:
            for each in (stream, other.stream):
                await each.refuse()
            return
        await stream.accept()
        pair = {headers.kind: stream, other.headers.kind: other.stream}
        group.create_task(self._serve_pair(headers.port, pair), name=f"port {headers.port}")

    async def _expire(self, request_id: str, stream: SpdyStream) -> None:
        half = self._halves.get(request_id)
        if half is not None and half.stream is stream:
            del self._halves[request_id]
            with suppress(ConnectionError):
                await stream.refuse()

    async def _serve_pair(self, port: int, pair: dict[str, SpdyStream]) -> None:
        with suppress(ConnectionError):
            data, error = pair[protocol.DATA], pair[protocol.ERROR]
            await serve_one(self._forward(port), data, error, self._ending)


async def serve_channels(
    session: ChannelSession,
    ports: Sequence[int],
    forward: Callable[[int], AbstractAsyncContextManager[Tunnel]],
    ending: asyncio.Future[str],
) -> None:
    """One connection for each port, over its two channels. Raises ConnectionError where the client has left."""
    for number, port in enumerate(ports):
        for stream in (session.streams[2 * number], session.streams[2 * number + 1]):
            await stream.write(protocol.preamble(port))
    async with asyncio.TaskGroup() as group:
        for number, port in enumerate(ports):
            data, error = session.streams[2 * number], session.streams[2 * number + 1]
            group.create_task(_until_gone(serve_one(forward(port), data, error, ending)), name=f"port {port}")


async def _until_gone(work: Coroutine[None, None, None]) -> None:
    with suppress(ConnectionError):
        await work


async def serve_one(
    opening: AbstractAsyncContextManager[Tunnel],
    data: RemoteStream,
    error: RemoteStream,
    ending: asyncio.Future[str],
) -> None:
    """Join the client's data stream to the pod's port; what goes wrong is told on the error stream."""
    words = ""
    try:
        async with opening as tunnel:
            words = await _joined(tunnel, data, ending)
    except (OcishimError, OSError) as failure:
        words = str(failure)
    await say_last(error, words.encode(), (data, error))


async def _joined(tunnel: Tunnel, data: RemoteStream, ending: asyncio.Future[str]) -> str:
    """Pump until the pod's side has ended; what cut it short, in words.

    The client's end is passed on and is not the end of all, but where it resets the stream nothing is left to do.
    """
    async with asyncio.TaskGroup() as group:
        upward = group.create_task(_upward(tunnel, data), name="to the pod")
        downward = group.create_task(_downward(tunnel, data), name="from the pod")
        try:
            await asyncio.wait((upward, downward, ending), return_when=asyncio.FIRST_COMPLETED)
            if upward.done() and not upward.result().abandoned:
                await asyncio.wait((downward, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            upward.cancel()
            downward.cancel()
    if ending.done():
        return ending.result()
    if not downward.done() or downward.cancelled():
        return ""
    # The kernel tells of a reset once, to whichever direction comes first: the other sees a proper end.
    return downward.result() or ("" if upward.cancelled() else upward.result().broken)


@dataclass(frozen=True, slots=True)
class _End:
    """How the direction to the pod ended."""

    abandoned: bool = False
    """By the client, and with it the whole connection."""
    broken: str = ""
    """By the pod's side, in words."""


async def _upward(tunnel: Tunnel, data: RemoteStream) -> _End:
    try:
        while chunk := await data.read():
            await tunnel.write(chunk)
        tunnel.end()
    except StreamGone:
        return _End(abandoned=True)
    except OSError as error:
        data.ignore()
        return _End(broken=_words(error))
    return _End()


def _words(error: OSError) -> str:
    return f"the connection inside the pod broke: {error.strerror or error}"


async def _downward(tunnel: Tunnel, data: RemoteStream) -> str:
    """What broke the connection, in words; empty for a proper end."""
    while True:
        try:
            chunk = await tunnel.read()
        except OSError as error:
            return _words(error)
        if not chunk:
            return ""
        try:
            await data.write(chunk)
        except ConnectionError:
            return ""  # the client is gone, or has no use for it
