"""SPDY/3.1 frames as they are on the wire: bytes in, frames out, and the other way round.

draft-mbelshe-httpbis-spdy-00, section 2.2, and the window of the whole connection (stream 0) that 3.1 added. Header
blocks stay compressed here. Data is passed on as it comes, not when its frame is whole, so that memory stays small.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION: Final = 3
LARGEST_DATA: Final = (1 << 24) - 1
_STREAM_ID: Final = 0x7FFFFFFF
_CONTROL: Final = 0x8000
_FIN: Final = 0x01
_UNIDIRECTIONAL: Final = 0x02
_HEADER: Final = struct.Struct("!II")
_WORD: Final = struct.Struct("!I")
_TWO_WORDS: Final = struct.Struct("!II")
_SYN_STREAM: Final = struct.Struct("!IIBB")


class Type(IntEnum):
    """Control frames that are known; others are skipped, as section 2.2.1 asks."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class Reset(IntEnum):
    """Why a stream is reset (section 2.6.3)."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    UNSUPPORTED_VERSION = 4
    CANCEL = 5
    INTERNAL_ERROR = 6
    FLOW_CONTROL_ERROR = 7
    STREAM_IN_USE = 8
    STREAM_ALREADY_CLOSED = 9


class Leave(IntEnum):
    """Why a connection ends (section 2.6.6)."""

    OK = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


INITIAL_WINDOW_SIZE: Final = 7
"""The setting's id (section 2.6.4)."""
MAX_CONCURRENT_STREAMS: Final = 4


class FrameError(ValueError):
    """Bytes that are no frames of SPDY/3: what follows them cannot be read."""


@dataclass(frozen=True, slots=True)
class SynStream:
    """A stream begins."""

    stream_id: int
    block: bytes
    fin: bool = False
    unidirectional: bool = False


@dataclass(frozen=True, slots=True)
class Headers:
    """The answer to SYN_STREAM (`is_reply`), or headers that come later."""

    stream_id: int
    block: bytes
    fin: bool = False
    is_reply: bool = False


@dataclass(frozen=True, slots=True)
class RstStream:
    """A stream ends at once, both ways."""

    stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Values by id."""

    values: dict[int, int]


@dataclass(frozen=True, slots=True)
class Ping:
    """A question, or its answer."""

    ping_id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    """No stream after `last_stream_id` will be served."""

    last_stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class WindowUpdate:
    """So many bytes more may be sent."""

    stream_id: int
    delta: int


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream: a part of a frame or all of it; `fin` with the last part of the last one."""

    stream_id: int
    data: bytes
    fin: bool = False


Frame = SynStream | Headers | RstStream | Settings | Ping | GoAway | WindowUpdate | Data


class Parser:
    """Takes bytes in pieces of any size. After a FrameError it must not be fed again."""

    def __init__(self, largest_control: int) -> None:
        self._largest = largest_control
        self._buffer = bytearray()
        self._stream_id = 0
        self._left = 0
        """Bytes of the data frame that has begun."""
        self._fin = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Frames as far as they are there. Raises FrameError; those before it have been yielded."""
        self._buffer += data
        position = 0
        try:
            while True:
                if self._left:
                    chunk = bytes(memoryview(self._buffer)[position : position + self._left])
                    if not chunk:
                        return
                    position += len(chunk)
                    self._left -= len(chunk)
                    yield Data(self._stream_id, chunk, fin=self._fin and not self._left)
                    continue
                if len(self._buffer) - position < _HEADER.size:
                    return
                first, second = _HEADER.unpack_from(self._buffer, position)
                flags, length = second >> 24, second & LARGEST_DATA
                if first >> 16 & _CONTROL:
                    end = position + _HEADER.size + self._control_length(first, length)
                    if len(self._buffer) < end:
                        return
                    body = bytes(self._buffer[position + _HEADER.size : end])
                    position = end
                    yield from _control(first & 0xFFFF, flags, body)
                else:
                    position += _HEADER.size
                    self._stream_id, self._left, self._fin = first, length, bool(flags & _FIN)
                    if not length:
                        yield Data(first, b"", fin=self._fin)
        finally:
            del self._buffer[:position]

    def _control_length(self, first: int, length: int) -> int:
        version = first >> 16 & ~_CONTROL
        if version != VERSION:
            raise FrameError(f"version {version} of SPDY, not {VERSION}")
        if length > self._largest:
            raise FrameError(f"a control frame of {length} bytes; at most {self._largest} are taken")
        return length


def _control(kind: int, flags: int, body: bytes) -> Iterator[Frame]:
    """The frame, or nothing where its type is unknown."""
    fin = bool(flags & _FIN)
    match kind:
        case Type.SYN_STREAM:
            stream_id, *_ = _unpack(_SYN_STREAM, body, "SYN_STREAM")
            unidirectional = bool(flags & _UNIDIRECTIONAL)
            yield SynStream(stream_id & _STREAM_ID, body[_SYN_STREAM.size :], fin, unidirectional)
        case Type.SYN_REPLY | Type.HEADERS:
            (stream_id,) = _unpack(_WORD, body, Type(kind).name)
            yield Headers(stream_id & _STREAM_ID, body[_WORD.size :], fin, is_reply=kind == Type.SYN_REPLY)
        case Type.RST_STREAM:
            stream_id, status = _exactly(_TWO_WORDS, body, "RST_STREAM")
            yield RstStream(stream_id & _STREAM_ID, status)
        case Type.SETTINGS:
            yield _settings(body)
        case Type.PING:
            yield Ping(*_exactly(_WORD, body, "PING"))
        case Type.GOAWAY:
            stream_id, status = _exactly(_TWO_WORDS, body, "GOAWAY")
            yield GoAway(stream_id & _STREAM_ID, status)
        case Type.WINDOW_UPDATE:
            stream_id, delta = _exactly(_TWO_WORDS, body, "WINDOW_UPDATE")
            yield WindowUpdate(stream_id & _STREAM_ID, delta & _STREAM_ID)


def _unpack(layout: struct.Struct, body: bytes, name: str) -> tuple[int, ...]:
    if len(body) < layout.size:
        raise FrameError(f"{name} of {len(body)} bytes")
    return layout.unpack_from(body)


def _exactly(layout: struct.Struct, body: bytes, name: str) -> tuple[int, ...]:
    if len(body) != layout.size:
        raise FrameError(f"{name} of {len(body)} bytes instead of {layout.size}")
    return layout.unpack(body)


def _settings(body: bytes) -> Settings:
    (count,) = _unpack(_WORD, body, "SETTINGS")
    if len(body) != _WORD.size + count * _TWO_WORDS.size:
        raise FrameError(f"SETTINGS of {len(body)} bytes for {count} entries")
    entries = _TWO_WORDS.iter_unpack(body[_WORD.size :])
    return Settings({flagged & 0xFFFFFF: value for flagged, value in entries})


def serialize(frame: Frame) -> bytes:  # noqa: PLR0911 - a return a kind of frame
    """A frame as bytes."""
    match frame:
        case Data(stream_id, data, fin):
            return _HEADER.pack(stream_id, (_FIN if fin else 0) << 24 | len(data)) + data
        case SynStream(stream_id, block, fin, unidirectional):
            flags = (_FIN if fin else 0) | (_UNIDIRECTIONAL if unidirectional else 0)
            return _pack(Type.SYN_STREAM, flags, _SYN_STREAM.pack(stream_id, 0, 0, 0) + block)
        case Headers(stream_id, block, fin, is_reply):
            kind = Type.SYN_REPLY if is_reply else Type.HEADERS
            return _pack(kind, _FIN if fin else 0, _WORD.pack(stream_id) + block)
        case RstStream(stream_id, status):
            return _pack(Type.RST_STREAM, 0, _TWO_WORDS.pack(stream_id, status))
        case Settings(values):
            entries = b"".join(_TWO_WORDS.pack(name, value) for name, value in values.items())
            return _pack(Type.SETTINGS, 0, _WORD.pack(len(values)) + entries)
        case Ping(ping_id):
            return _pack(Type.PING, 0, _WORD.pack(ping_id))
        case GoAway(last_stream_id, status):
            return _pack(Type.GOAWAY, 0, _TWO_WORDS.pack(last_stream_id, status))
        case WindowUpdate(stream_id, delta):
            return _pack(Type.WINDOW_UPDATE, 0, _TWO_WORDS.pack(stream_id, delta))


def _pack(kind: Type, flags: int, body: bytes) -> bytes:
    return _HEADER.pack((_CONTROL | VERSION) << 16 | kind, flags << 24 | len(body)) + body
