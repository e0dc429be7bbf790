"""Messages on the wire: bytes are decoded strictly, and answers that are bytes already are sent as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import betterproto
from grpclib.encoding.base import CodecBase

from ocishim.errors import InvalidArgument, ResourceExhausted

if TYPE_CHECKING:
    from grpclib.server import Stream

LARGEST_REQUEST: Final = 16 << 20
_PREFIX: Final = 5


@dataclass(frozen=True, slots=True)
class Encoded:
    """A response that is encoded already."""

    content: bytes


class WireCodec(CodecBase):
    """betterproto messages for grpclib."""

    __content_subtype__ = "proto"

    def encode(self, message: object, message_type: Any) -> bytes:  # noqa: ANN401, ARG002 - grpclib's signature
        """A message's bytes."""
        if isinstance(message, Encoded):
            return message.content
        if isinstance(message, betterproto.Message):
            return bytes(message)
        raise TypeError(f"{type(message).__name__} is no message")

    def decode(self, data: bytes, message_type: Any) -> object:  # noqa: ANN401 - grpclib's signature
        """A message from bytes. Raises InvalidArgument for bytes that are none."""
        try:
            return message_type().parse(data)
        except InvalidArgument:  # of one in an older dialect, which is judged while it is read
            raise
        except Exception as error:  # the Rust codec raises RuntimeError, the pure one whatever it meets
            raise InvalidArgument(f"the request is no {message_type.__name__}: {error}") from error


async def receive(stream: Stream[Any, Any], message_type: type[betterproto.Message]) -> Any:  # noqa: ANN401
    """The request, refused by its announced length before its bytes are gathered.

    grpclib itself takes messages of any size; the stream below is the only way to the length.
    """
    inner = stream._stream  # noqa: SLF001 - see above
    prefix = await inner.recv_data(_PREFIX)
    if len(prefix) < _PREFIX:
        raise InvalidArgument("the request has no message")
    if prefix[0]:
        raise InvalidArgument("the request is compressed, and no encoding but identity is taken")
    size = int.from_bytes(prefix[1:], "big")
    if size > LARGEST_REQUEST:
        raise ResourceExhausted(f"the request has {size} bytes, more than the {LARGEST_REQUEST} that are taken")
    data = await inner.recv_data(size) if size else b""
    return WireCodec().decode(data, message_type)
