"""A remote command's channels over SPDY/3.1: what servers speak that know no v5 over WebSocket, as containerd 1.6."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import h11

from ocishim.client.dialing import LARGEST_REASON, Refused, dialed, in_time
from ocishim.errors import OperationFailed, Unavailable
from ocishim.protocol.remote_command import CHANNELS, V4, StreamType
from ocishim.protocol.spdy import Broken, DataReceived, HeadersReceived, SpdyConnection, StreamReset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from ocishim.client.channels import Channels
    from ocishim.client.dialing import Line
    from ocishim.protocol.spdy import Event

_READ: Final = 1 << 16
_PIECE: Final = 1 << 15
_UPGRADED: Final = 101
_NUMBERS: Final = {kind: number for number, kind in CHANNELS.items()}
_OPENED_FIRST: Final = (StreamType.ERROR, StreamType.STDIN, StreamType.STDOUT, StreamType.STDERR)
"""The order that servers are used to."""


class SpdyChannels:
    """A stream for each channel, without flow control: TCP's own holds a slow reader's peer back."""

    can_end = True

    def __init__(self, line: Line, kinds: Collection[StreamType]) -> None:
        self._line = line
        self._machine = SpdyConnection(client=True, windows=False)
        self._streams = {
            _NUMBERS[kind]: self._machine.open({"streamtype": kind}) for kind in _OPENED_FIRST if kind in kinds
        }
        self._numbers = {stream: number for number, stream in self._streams.items()}
        self._receiving = set(self._streams.values()) - {self._streams.get(_NUMBERS[StreamType.STDIN])}
        self._arrived: deque[tuple[int, bytes]] = deque()
        self._status = bytearray()

    async def begin(self, first: bytes) -> None:
        """Open the streams; `first` is what the server sent right behind its answer."""
        self._take(first)
        await self._flush()

    async def receive(self) -> tuple[int, bytes] | None:
        """As Channels has it; the status comes last, when all output is there."""
        while not self._arrived and self._receiving:
            try:
                data = await self._line.reader.read(_READ)
            except OSError as error:
                raise Unavailable(f"the connection to the streaming server broke: {error}") from error
            if not data:
                self._receiving.clear()
            self._take(data)
            await self._flush()
        if self._arrived:
            return self._arrived.popleft()
        status, self._status = bytes(self._status), bytearray()
        return (_NUMBERS[StreamType.ERROR], status) if status else None

    def _take(self, data: bytes) -> None:
        for event in self._machine.receive(data):
            self._understand(event)

    def _understand(self, event: Event) -> None:
        match event:
            case DataReceived(stream, data, fin):
                number = self._numbers.get(stream)
                if number == _NUMBERS[StreamType.ERROR]:
                    self._status += data[: LARGEST_REASON - len(self._status)]
                elif number is not None and data:
                    self._arrived.append((number, data))
                self._machine.acknowledge(stream, len(data))
                if fin:
                    self._receiving.discard(stream)
            case HeadersReceived(stream, _, fin) if fin:
                self._receiving.discard(stream)
            case StreamReset(stream, _):
                self._receiving.discard(stream)
            case Broken(why):
                raise OperationFailed(f"the server does not keep to SPDY: {why}")
            case _:
                pass

    async def send(self, channel: int, data: bytes) -> None:
        """As Channels has it."""
        stream = self._streams.get(channel)
        for begin in range(0, len(data), _PIECE):
            if stream is None or not self._machine.is_sending(stream):
                return
            self._machine.send(stream, data[begin : begin + _PIECE])
            await self._flush()

    async def end(self, channel: int) -> None:
        """As Channels has it."""
        stream = self._streams.get(channel)
        if stream is not None and self._machine.is_sending(stream):
            self._machine.send(stream, b"", fin=True)
            await self._flush()

    async def close(self) -> None:
        """As Channels has it."""
        self._machine.go_away()
        await self._flush()

    async def _flush(self) -> None:
        self._line.writer.write(self._machine.data_to_send())
        with suppress(ConnectionError):  # reading finds out, after what was still on its way
            await self._line.writer.drain()


@asynccontextmanager
async def over_spdy(url: str, kinds: Collection[StreamType]) -> AsyncIterator[Channels]:
    """Channels over SPDY; `kinds` are the streams that the session was asked for with. Raises Refused."""
    async with dialed(url) as line:
        async with in_time(line):
            first = await _upgrade(line)
        made = SpdyChannels(line, kinds)
        await made.begin(first)
        yield made


async def _upgrade(line: Line) -> bytes:
    """Have the server change to SPDY (RFC 9110, section 7.8); returns what came behind its answer."""
    machine = h11.Connection(h11.CLIENT)
    headers = [
        ("Host", line.host),
        ("Connection", "Upgrade"),
        ("Upgrade", "SPDY/3.1"),
        ("X-Stream-Protocol-Version", V4),
        ("Content-Length", "0"),
    ]
    line.writer.write(machine.send(h11.Request(method="POST", target=line.resource, headers=headers)) or b"")
    line.writer.write(machine.send(h11.EndOfMessage()) or b"")
    status, reason = 0, bytearray()
    try:
        while True:
            event = machine.next_event()
            if event is h11.NEED_DATA:
                machine.receive_data(await line.reader.read(_READ))
            elif isinstance(event, h11.InformationalResponse) and event.status_code == _UPGRADED:
                return bytes(machine.trailing_data[0])
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                reason += event.data[: LARGEST_REASON - len(reason)]
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                raise Refused(status, reason)
    except h11.RemoteProtocolError as error:
        raise OperationFailed(f"the server does not keep to HTTP: {error}") from error
    except (OSError, asyncio.IncompleteReadError) as error:
        raise Unavailable(f"the connection to the streaming server broke: {error}") from error
