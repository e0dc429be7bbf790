"""Kubernetes' channels over WebSocket: each message begins with the number of the stream it belongs to.

As one byte in the binary protocols, as one ASCII digit before base64 text in the base64 ones. In v5 a message to
channel 255 names a channel that ends. Messages are passed on as they come, however long they are.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

CLOSE: Final = 255
"""The channel whose messages end another (v5.channel.k8s.io)."""
_QUANTUM: Final = 4
"""Base64 is decoded four characters at a time."""
_FIRST_DIGIT: Final = ord("0")


class ChannelError(ValueError):
    """A message that follows none of the channel protocols."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a channel's bytes."""

    channel: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The client sends nothing more on this channel."""

    channel: int


class ChannelDecoder:
    """Reads messages piece by piece."""

    def __init__(self, *, is_base64: bool, has_close: bool) -> None:
        self._base64 = is_base64
        self._close = has_close
        self._channel: int | None = None
        self._rest = b""

    def feed(self, piece: bytes, *, finished: bool) -> Chunk | Closed | None:
        """A piece of a message, and whether it is the last. None where it brings nothing. Raises ChannelError."""
        if self._channel is None:
            if not piece and finished:
                raise ChannelError("a message without a channel")
            if not piece:
                return None
            self._channel = piece[0] - _FIRST_DIGIT if self._base64 else piece[0]
            piece = piece[1:]
        channel = self._channel
        if finished:
            self._channel = None
        if self._close and channel == CLOSE:
            return self._closed(piece, finished=finished)
        data = self._decode(piece, finished=finished) if self._base64 else piece
        return Chunk(channel, data)

    def _closed(self, piece: bytes, *, finished: bool) -> Closed | None:
        self._rest += piece
        if len(self._rest) > 1 or (finished and not self._rest):
            raise ChannelError("a close message that does not name one channel")
        if not finished:
            return None
        channel, self._rest = self._rest[0], b""
        return Closed(channel)

    def _decode(self, piece: bytes, *, finished: bool) -> bytes:
        text = self._rest + piece
        cut = len(text) if finished else len(text) - len(text) % _QUANTUM
        self._rest = text[cut:]
        try:
            return base64.b64decode(text[:cut], validate=True)
        except binascii.Error as error:
            raise ChannelError(f"not base64: {error}") from error


def encode(channel: int, data: bytes, *, is_base64: bool) -> bytes | str:
    """A message: bytes for a binary one, a string for a text one."""
    if is_base64:
        return f"{channel}{base64.b64encode(data).decode('ascii')}"
    return bytes((channel,)) + data
