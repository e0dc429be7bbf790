"""Exec and attach: a process's streams joined to a client's, until one of the two is done."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from ocishim.errors import OcishimError
from ocishim.protocol.remote_command import Outcome, SizeParser, StreamType
from ocishim.streaming.remote_stream import StreamGone, say_last

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from ocishim.streaming.backend import Output, Session
    from ocishim.streaming.remote_stream import RemoteStream


async def serve(
    opening: AbstractAsyncContextManager[Session],
    streams: Mapping[StreamType, RemoteStream],
    protocol: str,
    ending: asyncio.Future[str],
) -> None:
    """Run to the end, and tell the client how it ended. `ending` cuts it short and says why.

    A cancellation means that the client has left. Raises ConnectionError where it leaves at the very end.
    """
    try:
        async with opening as session:
            outcome = await _joined(session, streams, ending)
    except (OcishimError, OSError) as error:
        outcome = Outcome(failure=str(error))
    await say_last(streams[StreamType.ERROR], outcome.render(protocol), streams.values())


async def _joined(session: Session, streams: Mapping[StreamType, RemoteStream], ending: asyncio.Future[str]) -> Outcome:
    """Pump until the process has ended and the client has all that it wrote."""
    async with asyncio.TaskGroup() as group:
        inputs = [
            group.create_task(_feed(session, streams.get(StreamType.STDIN)), name="stdin"),
            group.create_task(_resize(session, streams.get(StreamType.RESIZE)), name="resize"),
        ]
        outputs = [group.create_task(_drain(output, streams), name="output") for output in session.outputs]
        end = group.create_task(session.wait(), name="wait")
        try:
            cut = await _all_done([end, *outputs], ending)
        finally:
            for task in (*inputs, *outputs, end):
                task.cancel()
    return Outcome(failure=ending.result()) if cut else end.result()


async def _all_done(tasks: list[asyncio.Task[Outcome] | asyncio.Task[None]], ending: asyncio.Future[str]) -> bool:
    """Wait for all tasks, or until `ending` is set: True if it is."""
    waiting: set[asyncio.Future[Outcome] | asyncio.Future[None] | asyncio.Future[str]] = {*tasks, ending}
    while waiting - {ending}:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if ending in done:
            return True
    return False


async def _feed(session: Session, stream: RemoteStream | None) -> None:
    if stream is None or session.stdin is None:
        return
    try:
        while data := await stream.read():
            await session.stdin.write(data)
    except StreamGone:
        pass  # the client has ended it in the rough way
    except OSError:
        stream.ignore()  # the process reads no more, and may go on for long
        return
    session.stdin.end()


async def _resize(session: Session, stream: RemoteStream | None) -> None:
    if stream is None:
        return
    parser = SizeParser()
    try:
        while data := await stream.read():
            for size in parser.feed(data)[-1:]:  # those before it are past
                with suppress(OcishimError, OSError):
                    await session.resize(size)
    except StreamGone:
        pass
    except ValueError:
        stream.ignore()  # the terminal keeps the size it has


async def _drain(output: Output, streams: Mapping[StreamType, RemoteStream]) -> None:
    """Carry output to the client; what it does not want, or no longer, is read all the same."""
    while (piece := await output.read()) is not None:
        kind, data = piece
        stream = streams.get(kind)
        if stream is not None:
            with suppress(ConnectionError):  # where the client has left altogether, this is cancelled soon
                await stream.write(data)
