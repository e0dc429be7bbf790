"""One TCP connection into a pod, over a WebSocket with kubelet's channels: 0 carries the data, 1 an error's words.

The first message of each channel is the port's number, two bytes, the lower first. The protocol has no half-close.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ocishim.client.websocket import opened
from ocishim.errors import OperationFailed
from ocishim.protocol.remote_command import V4

if TYPE_CHECKING:
    from ocishim.client.websocket import WebSocket

PROTOCOLS: Final = (V4,)
SILENCE: Final = 10.0
"""Seconds without a byte from the pod after which a connection is given up whose local end has ended.

A local end that is closed looks like one that is half-closed and waits for an answer; the pod hears of neither.
"""
_DATA: Final = 0
_ERROR: Final = 1
_PORT_BYTES: Final = 2
_READ: Final = 1 << 15


async def carry(url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry the bytes both ways until one side is done. Raises OperationFailed in the server's words."""
    async with opened(url, PROTOCOLS) as socket:
        carrier = _Carrier(socket, reader, writer)
        tasks = (asyncio.create_task(carrier.receive()), asyncio.create_task(carrier.send()))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await socket.close()


class _Carrier:
    def __init__(self, socket: WebSocket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._socket = socket
        self._reader = reader
        self._writer = writer
        self._heard = 0
        """Messages so far."""

    async def send(self) -> None:
        """From here to the pod; returns when the pod has been silent for long since the local end ended."""
        with suppress(OSError):
            while data := await self._reader.read(_READ):
                await self._socket.send(bytes([_DATA]) + data)
        heard = -1
        while heard != self._heard:
            heard = self._heard
            await asyncio.sleep(SILENCE)

    async def receive(self) -> None:
        """From the pod to here, to its end."""
        begun: set[int] = set()
        while message := await self._socket.receive():
            self._heard += 1
            channel, data = message[0], memoryview(message)[1:]
            if channel not in begun:
                begun.add(channel)
                data = data[_PORT_BYTES:]
            if channel == _ERROR and data:
                raise OperationFailed(" ".join(bytes(data).decode("utf-8", "replace").split()))
            if channel == _DATA and data:
                try:
                    self._writer.write(data)
                    await self._writer.drain()
                except OSError:
                    return  # nobody listens any more
        with suppress(OSError):
            self._writer.write_eof()
