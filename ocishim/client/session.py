"""A remote command's session, seen from the client: its channels joined to this side's streams and terminal."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim.client.channels import over_websocket
from ocishim.client.dialing import Refused
from ocishim.client.spdy import over_spdy
from ocishim.errors import OperationFailed
from ocishim.linux import terminal
from ocishim.protocol import command_status
from ocishim.protocol.detach_keys import DetachKeys
from ocishim.protocol.remote_command import V4, V5, StreamType
from ocishim.protocol.runtime_error import command_exit_code

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ocishim.client.channels import Channels
    from ocishim.linux.stdio import Input, Output

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2
_STATUS: Final = 3
_RESIZE: Final = 4
_READ: Final = 1 << 15
_INPUT_ENDED: Final = -1
"""What the task that types says when there is no more input: the session goes on."""


@dataclass(frozen=True, slots=True)
class Ends:
    """What the session's channels are joined to on this side."""

    stdout: Output
    stderr: Output
    stdin: Input | None = None
    tty: bool = False
    """Whether the command has a terminal: its input then ends by a key."""
    terminal: int | None = None
    """The descriptor of the terminal whose size is the command's."""
    detach_keys: bytes = b""
    warn: Callable[[str], None] = lambda _: None


async def converse(new_url: Callable[[], Awaitable[str]], ends: Ends) -> int | None:
    """Carry all channels until the command has ended; its exit code, or None where the user left by the detach keys.

    Each call of new_url begins a session at the server. Raises OperationFailed where the command could not be run or
    its end is not known.
    """
    async with AsyncExitStack() as stack:
        session = _Session(await _channels(new_url, ends, stack), ends)
        tasks: set[asyncio.Task[int | None]] = {asyncio.create_task(session.receive())}
        if ends.stdin is not None:
            tasks.add(asyncio.create_task(session.type()))
        if ends.terminal is not None:
            changed = asyncio.Event()
            changed.set()
            stack.enter_context(terminal.resizes(changed.set))
            tasks.add(asyncio.create_task(session.resize(ends.terminal, changed)))
        code = await _outcome(tasks)
        await session.close()
        return code


async def _channels(new_url: Callable[[], Awaitable[str]], ends: Ends, stack: AsyncExitStack) -> Channels:
    """Over WebSocket, if the server can be told there whatever must be told; else over SPDY."""
    if ends.stdin is None or ends.tty:
        return await stack.enter_async_context(over_websocket(await new_url(), (V5, V4)))
    try:
        return await stack.enter_async_context(over_websocket(await new_url(), (V5,)))
    except Refused:
        kinds = (StreamType.ERROR, StreamType.STDIN, StreamType.STDOUT, StreamType.STDERR)
        return await stack.enter_async_context(over_spdy(await new_url(), kinds))


async def _outcome(tasks: set[asyncio.Task[int | None]]) -> int | None:
    """What the first task says that has something to say; the others end with it."""
    pending = tasks
    try:
        while True:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                code = task.result()
                if code != _INPUT_ENDED:
                    return code
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Session:
    def __init__(self, channels: Channels, ends: Ends) -> None:
        self.close = channels.close
        self._channels = channels
        self._ends = ends

    async def receive(self) -> int | None:
        """Output, until the status comes."""
        outputs = {_STDOUT: self._ends.stdout, _STDERR: self._ends.stderr}
        while (message := await self._channels.receive()) is not None:
            channel, data = message
            if not data:
                continue  # servers say so that a channel is open
            if channel in outputs:
                await outputs[channel].write(data)
            elif channel == _STATUS:
                return self._exit_code(bytes(data))
        raise OperationFailed("the session ended without a word about the command's end: is the server still there?")

    async def type(self) -> int | None:
        """Input, until its end or the detach keys."""
        assert self._ends.stdin is not None  # noqa: S101 - else it is not called
        keys = DetachKeys(self._ends.detach_keys)
        while data := await self._ends.stdin.read(_READ):
            typed = keys.feed(data)
            await self._send(_STDIN, typed.data)
            if typed.detached:
                return None
        await self._send(_STDIN, keys.finish())
        if self._channels.can_end:
            await self._channels.end(_STDIN)
        return _INPUT_ENDED

    async def resize(self, fd: int, changed: asyncio.Event) -> int | None:
        """The terminal's size, at first and whenever it changes."""
        while True:
            await changed.wait()
            changed.clear()
            if size := terminal.size(fd):
                await self._send(_RESIZE, json.dumps({"Width": size.columns, "Height": size.rows}).encode())

    async def _send(self, channel: int, data: bytes) -> None:
        if data:
            await self._channels.send(channel, data)

    def _exit_code(self, document: bytes) -> int:
        try:
            return command_status.exit_code(document)
        except command_status.Failed as failed:
            words = " ".join(str(failed).split())
            code = command_exit_code(words)
            if code is None:
                raise OperationFailed(words) from failed
            self._ends.warn(words)
            return code
