"""A remote command's session over a WebSocket: Kubernetes' channel protocol, seen from the client.

Each message begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the status at the end, 4 the terminal's size; with
v5.channel.k8s.io also 255, which says that the channel in its one byte has ended. Before v5 a client had no words for
that: where a server speaks v4 only, a command that reads to the end of its input waits for ever.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim.client.websocket import opened
from ocishim.errors import OperationFailed
from ocishim.linux import terminal
from ocishim.protocol import command_status
from ocishim.protocol.detach_keys import DetachKeys
from ocishim.protocol.runtime_error import command_exit_code

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocishim.client.websocket import WebSocket
    from ocishim.linux.stdio import Input, Output

V5: Final = "v5.channel.k8s.io"
PROTOCOLS: Final = (V5, "v4.channel.k8s.io")

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2
_STATUS: Final = 3
_RESIZE: Final = 4
_CLOSE: Final = 255
_READ: Final = 1 << 15
_HAD_ENOUGH: Final = 3.0
"""Seconds after the end of the input in which a command ends that knows by itself when it has read all."""
_INPUT_ENDED: Final = -1
"""What the task that types says when there is no more input: the session goes on."""


@dataclass(frozen=True, slots=True)
class Ends:
    """What the session's channels are joined to on this side."""

    stdout: Output
    stderr: Output
    stdin: Input | None = None
    terminal: int | None = None
    """The descriptor of the terminal whose size is the command's."""
    detach_keys: bytes = b""
    warn: Callable[[str], None] = lambda _: None


async def converse(url: str, ends: Ends) -> int | None:
    """Carry all channels until the command has ended; its exit code, or None where the user left by the detach keys.

    Raises OperationFailed where the command could not be run or its end is not known.
    """
    async with opened(url, PROTOCOLS) as socket:
        session = _Session(socket, ends)
        tasks: set[asyncio.Task[int | None]] = {asyncio.create_task(session.receive())}
        if ends.stdin is not None:
            tasks.add(asyncio.create_task(session.type()))
        with ExitStack() as stack:
            if ends.terminal is not None:
                changed = asyncio.Event()
                changed.set()
                stack.enter_context(terminal.resizes(changed.set))
                tasks.add(asyncio.create_task(session.resize(ends.terminal, changed)))
            code = await _outcome(tasks)
        await socket.close()
        return code


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
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


class _Session:
    def __init__(self, socket: WebSocket, ends: Ends) -> None:
        self._socket = socket
        self._ends = ends

    async def receive(self) -> int | None:
        """Output, until the status comes."""
        outputs = {_STDOUT: self._ends.stdout, _STDERR: self._ends.stderr}
        while message := await self._socket.receive():
            channel, data = message[0], memoryview(message)[1:]
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
        if self._socket.protocol == V5:
            await self._send(_CLOSE, bytes([_STDIN]))
        elif self._ends.terminal is None:
            await asyncio.sleep(_HAD_ENOUGH)
            self._ends.warn(
                f"the server speaks {self._socket.protocol}, which cannot say that standard input has ended:"
                " a command that reads to its end waits"
            )
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
            await self._socket.send(bytes([channel]) + data)

    def _exit_code(self, document: bytes) -> int:
        try:
            return command_status.exit_code(document)
        except command_status.Failed as failed:
            code = command_exit_code(str(failed))
            if code is None:
                raise OperationFailed(str(failed)) from failed
            self._ends.warn(str(failed))
            return code
