"""SPDY/3.1 as a state machine: bytes in, events out; actions in, bytes out. No I/O, either role.

draft-mbelshe-httpbis-spdy-00, with 3.1's window for the whole connection beside one for each stream.

Go's spdystream, which kubectl, kubelet and crictl speak, neither announces nor heeds windows: it would wait for
ever where its peer waits for a WINDOW_UPDATE, and it sends more than a window allows. So windows bind both sides only
once the peer has shown that it knows them, by a SETTINGS or a WINDOW_UPDATE frame. Against the others the user of
this machine holds back by not feeding it, which stops the TCP connection.

What is wrong with one stream resets that stream; what is wrong with the connection ends it: `receive` then gives a
Broken event as its last, and takes nothing more. Whoever owns the connection sends `data_to_send()` either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim.protocol import spdy_frames as frames
from ocishim.protocol.spdy_frames import Leave, Reset
from ocishim.protocol.spdy_headers import Compressor, Decompressor, HeaderError

if TYPE_CHECKING:
    from collections.abc import Mapping

INITIAL_WINDOW: Final = 64 << 10
"""Bytes, of every stream and of the connection, before anyone says otherwise (section 2.6.8)."""
_LARGEST_WINDOW: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What is taken from a peer."""

    streams: int = 256
    """Open at a time; more are refused."""
    header_bytes: int = 16 << 10
    """Of one block, inflated."""
    control_frame: int = 32 << 10
    stream_window: int = 256 << 10
    """Bytes that a peer may send before they are acknowledged."""
    connection_window: int = 4 << 20


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer has begun a stream; reply to it or reset it."""

    stream_id: int
    headers: dict[str, str]
    fin: bool


@dataclass(frozen=True, slots=True)
class HeadersReceived:
    """The peer's reply to a stream of ours, or later headers."""

    stream_id: int
    headers: dict[str, str]
    fin: bool


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Bytes of a stream; acknowledge them once they are used."""

    stream_id: int
    data: bytes
    fin: bool


@dataclass(frozen=True, slots=True)
class StreamReset:
    """A stream is gone, both ways, by the peer's will or for its mistake."""

    stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """More may be sent on this stream; 0: on any."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class PingAnswered:
    """The peer answered a ping of ours."""

    ping_id: int


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The peer opens no more streams."""

    last_stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class Broken:
    """The peer does not speak SPDY/3.1; what it is told is in data_to_send()."""

    why: str


Event = StreamOpened | HeadersReceived | DataReceived | StreamReset | WindowOpened | PingAnswered | GoneAway | Broken


class _Stream:
    __slots__ = ("local_open", "receive_window", "remote_open", "replied", "send_window", "used")

    def __init__(self, send_window: int, receive_window: int, *, replied: bool) -> None:
        self.send_window = send_window
        self.receive_window = receive_window
        self.used = 0
        """Bytes that are used and not yet announced as room."""
        self.local_open = True
        self.remote_open = True
        self.replied = replied


class SpdyConnection:
    """One connection, from its first byte."""

    def __init__(self, *, client: bool = False, limits: Limits | None = None, windows: bool = True) -> None:
        """`windows` False makes a peer that knows no flow control, as Go's are."""
        self._limits = limits or Limits()
        self._parity = 1 if client else 0
        self._parser = frames.Parser(self._limits.control_frame)
        self._compressor = Compressor()
        self._decompressor = Decompressor(self._limits.header_bytes)
        self._streams: dict[int, _Stream] = {}
        self._last_own = -1 if client else 0
        self._last_peer = 0
        self._next_ping = 1 if client else 2
        self._initial_send_window = INITIAL_WINDOW
        self._connection = _Stream(INITIAL_WINDOW, INITIAL_WINDOW, replied=True)
        self._stream_window = INITIAL_WINDOW
        self._connection_window = INITIAL_WINDOW
        self._out: list[bytes] = []
        self._windows = windows
        self.peer_has_windows = False
        """Whether the peer has shown that it knows flow control, and this side knows it too."""
        self.ended = False
        """GOAWAY was sent: the peer's new streams are not served, or nothing is understood any more."""
        self._broken = False
        if windows:
            self._announce()

    def _announce(self) -> None:
        limits = self._limits
        self._stream_window = limits.stream_window
        self._connection_window = limits.connection_window
        settings = {
            frames.MAX_CONCURRENT_STREAMS: limits.streams,
            frames.INITIAL_WINDOW_SIZE: limits.stream_window,
        }
        self._send(frames.Settings(settings))
        self._credit(0, self._connection, limits.connection_window - INITIAL_WINDOW)

    # What the peer says.

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes bring about, in order."""
        events: list[Event] = []
        if self._broken:
            return events
        try:
            for frame in self._parser.feed(data):
                self._take(frame, events)
        except (frames.FrameError, HeaderError) as error:
            self._broken = True
            self.go_away(Leave.PROTOCOL_ERROR)
            events.append(Broken(str(error)))
        return events

    def _take(self, frame: frames.Frame, events: list[Event]) -> None:
        match frame:
            case frames.Data():
                self._take_data(frame, events)
            case frames.SynStream():
                self._take_stream(frame, events)
            case frames.Headers():
                self._take_headers(frame, events)
            case frames.RstStream(stream_id, status):
                self._take_reset(stream_id, status, events)
            case frames.Settings(values):
                self._take_settings(values, events)
            case frames.Ping(ping_id) if ping_id % 2 == self._parity:
                events.append(PingAnswered(ping_id))
            case frames.Ping():
                self._send(frame)
            case frames.GoAway(last_stream_id, status):
                events.append(GoneAway(last_stream_id, status))
            case frames.WindowUpdate(stream_id, delta):
                self._take_window(stream_id, delta, events)

    def _take_stream(self, frame: frames.SynStream, events: list[Event]) -> None:
        stream_id = frame.stream_id
        headers = self._decompressor.headers(frame.block)  # also of a refused one: the context goes on
        if stream_id == 0 or stream_id % 2 == self._parity:
            raise frames.FrameError(f"SYN_STREAM of stream {stream_id}, which is not the peer's to open")
        if stream_id <= self._last_peer:
            self._refuse(stream_id, Reset.PROTOCOL_ERROR, events)
            return
        self._last_peer = stream_id
        # One-way streams serve for pushing what was not asked for (section 3.3); nobody here asks.
        if self.ended or frame.unidirectional or len(self._streams) >= self._limits.streams:
            self._refuse(stream_id, Reset.REFUSED_STREAM, events)
            return
        stream = _Stream(self._initial_send_window, self._stream_window, replied=False)
        stream.remote_open = not frame.fin
        self._streams[stream_id] = stream
        events.append(StreamOpened(stream_id, headers, frame.fin))

    def _take_headers(self, frame: frames.Headers, events: list[Event]) -> None:
        headers = self._decompressor.headers(frame.block)
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            self._refuse_unknown(frame.stream_id, events)
        elif frame.is_reply and stream.replied:
            self._refuse(frame.stream_id, Reset.STREAM_IN_USE, events)
        elif not stream.remote_open:
            self._refuse(frame.stream_id, Reset.STREAM_ALREADY_CLOSED, events)
        else:
            stream.replied = stream.replied or frame.is_reply
            events.append(HeadersReceived(frame.stream_id, headers, frame.fin))
            self._remote_end(frame.stream_id, stream, fin=frame.fin)

    def _take_data(self, frame: frames.Data, events: list[Event]) -> None:
        size = len(frame.data)
        self._connection.receive_window -= size
        if self.peer_has_windows and self._connection.receive_window < 0:
            raise frames.FrameError("more data than the connection's window allows")
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            self._use(0, self._connection, size)
            self._refuse_unknown(frame.stream_id, events)
            return
        stream.receive_window -= size
        if not stream.remote_open:
            self._use(0, self._connection, size)
            self._refuse(frame.stream_id, Reset.STREAM_ALREADY_CLOSED, events)
        elif self.peer_has_windows and stream.receive_window < 0:
            self._use(0, self._connection, size)
            self._refuse(frame.stream_id, Reset.FLOW_CONTROL_ERROR, events)
        else:
            events.append(DataReceived(frame.stream_id, frame.data, frame.fin))
            self._remote_end(frame.stream_id, stream, fin=frame.fin)

    def _take_reset(self, stream_id: int, status: int, events: list[Event]) -> None:
        if self._streams.pop(stream_id, None):
            events.append(StreamReset(stream_id, status))

    def _take_settings(self, values: Mapping[int, int], events: list[Event]) -> None:
        self.peer_has_windows = self._windows
        wanted = values.get(frames.INITIAL_WINDOW_SIZE, self._initial_send_window)
        if wanted > _LARGEST_WINDOW:
            raise frames.FrameError(f"an initial window of {wanted} bytes")
        for stream in self._streams.values():
            stream.send_window += wanted - self._initial_send_window
        self._initial_send_window = wanted
        events.append(WindowOpened(0))

    def _take_window(self, stream_id: int, delta: int, events: list[Event]) -> None:
        self.peer_has_windows = self._windows
        stream = self._streams.get(stream_id) if stream_id else self._connection
        if stream is None:
            return  # of a stream that has just been closed
        if delta and stream.send_window + delta <= _LARGEST_WINDOW:
            stream.send_window += delta
            events.append(WindowOpened(stream_id))
        elif stream_id == 0:
            raise frames.FrameError(f"WINDOW_UPDATE of the connection by {delta}, to more than {_LARGEST_WINDOW}")
        else:
            self._refuse(stream_id, Reset.FLOW_CONTROL_ERROR if delta else Reset.PROTOCOL_ERROR, events)

    def _refuse(self, stream_id: int, status: Reset, events: list[Event]) -> None:
        self._send(frames.RstStream(stream_id, status))
        if self._streams.pop(stream_id, None):
            events.append(StreamReset(stream_id, status))

    def _refuse_unknown(self, stream_id: int, events: list[Event]) -> None:
        """What arrives for a stream that was just closed is dropped; one that never was is an error."""
        if stream_id == 0:
            raise frames.FrameError("a frame of stream 0, which carries nothing")
        last = self._last_own if stream_id % 2 == self._parity else self._last_peer
        if stream_id > last:
            self._refuse(stream_id, Reset.INVALID_STREAM, events)

    # What the owner wants.

    def open(self, headers: Mapping[str, str], *, fin: bool = False) -> int:
        """Begin a stream; returns its id."""
        self._last_own += 2
        stream = _Stream(self._initial_send_window, self._stream_window, replied=False)
        stream.local_open = not fin
        self._streams[self._last_own] = stream
        self._send(frames.SynStream(self._last_own, self._compressor.block(headers), fin))
        return self._last_own

    def reply(self, stream_id: int, headers: Mapping[str, str] | None = None) -> None:
        """Accept a stream of the peer's."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.replied:
            stream.replied = True
            self._send(frames.Headers(stream_id, self._compressor.block(headers or {}), is_reply=True))

    def sendable(self, stream_id: int) -> int:
        """How many bytes may be sent on a stream now; 0 also where it is closed."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.local_open:
            return 0
        if not self.peer_has_windows:
            return frames.LARGEST_DATA
        return max(0, min(stream.send_window, self._connection.send_window, frames.LARGEST_DATA))

    def is_sending(self, stream_id: int) -> bool:
        """Whether our half of the stream is open."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.local_open

    def send(self, stream_id: int, data: bytes, *, fin: bool = False) -> None:
        """Send so many bytes, and with `fin` no more. Raises ValueError where the window or the stream is closed."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.local_open:
            raise ValueError(f"stream {stream_id} is closed")
        if len(data) > self.sendable(stream_id):
            raise ValueError(f"stream {stream_id}: {len(data)} bytes are more than its window")
        stream.send_window -= len(data)
        self._connection.send_window -= len(data)
        self._send(frames.Data(stream_id, data, fin))
        if fin:
            stream.local_open = False
            self._forget_if_closed(stream_id)

    def acknowledge(self, stream_id: int, size: int) -> None:
        """So many bytes that came for the stream are used: as many more may come."""
        self._use(0, self._connection, size)
        stream = self._streams.get(stream_id)
        if stream is not None and stream.remote_open:
            self._use(stream_id, stream, size)

    def reset(self, stream_id: int, status: Reset) -> None:
        """End a stream at once, both ways."""
        if self._streams.pop(stream_id, None):
            self._send(frames.RstStream(stream_id, status))

    def probe(self) -> bytes:
        """A ping, for whoever wants a sign of life; it may be sent more than once, between other frames."""
        ping_id = self._next_ping
        self._next_ping += 2
        return frames.serialize(frames.Ping(ping_id))

    def go_away(self, status: Leave = Leave.OK) -> None:
        """Say that no new stream will be served; those that are open go on."""
        if not self.ended:
            self.ended = True
            self._send(frames.GoAway(self._last_peer, status))

    def data_to_send(self) -> bytes:
        """What is due to the peer; once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _send(self, frame: frames.Frame) -> None:
        self._out.append(frames.serialize(frame))

    def _use(self, stream_id: int, stream: _Stream, size: int) -> None:
        stream.used += size
        # One announcement for half a window, not one for every read; of the window that a peer knows for certain, as
        # its stream may have begun before it saw our settings.
        window = min(self._stream_window, INITIAL_WINDOW) if stream_id else self._connection_window
        if self._windows and stream.used * 2 >= window:
            self._credit(stream_id, stream, stream.used)
            stream.used = 0

    def _credit(self, stream_id: int, stream: _Stream, delta: int) -> None:
        stream.receive_window += delta
        self._send(frames.WindowUpdate(stream_id, delta))

    def _remote_end(self, stream_id: int, stream: _Stream, *, fin: bool) -> None:
        if fin:
            stream.remote_open = False
            self._forget_if_closed(stream_id)

    def _forget_if_closed(self, stream_id: int) -> None:
        stream = self._streams[stream_id]
        if not stream.local_open and not stream.remote_open:
            del self._streams[stream_id]
