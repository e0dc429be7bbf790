"""Kubernetes' port-forward: which of a client's streams belong together, and to which port.

Over SPDY each forwarded connection is a pair of streams, one for data and one for an error, that bear the same
`requestID` and `port`. Over WebSocket the ports are fixed with the request: channel 2n is data of the n-th port,
2n+1 its error, and each begins with the port as two little-endian bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

V1: Final = "portforward.k8s.io"
TUNNEL: Final = "SPDY/3.1+portforward.k8s.io"
"""A WebSocket whose binary messages carry a SPDY/3.1 connection."""
CHANNELS: Final = ("v4.channel.k8s.io", "v4.base64.channel.k8s.io")
DATA: Final = "data"
ERROR: Final = "error"
_HIGHEST_PORT: Final = 65535
_PREAMBLE: Final = struct.Struct("<H")


@dataclass(frozen=True, slots=True)
class StreamHeaders:
    """What a port-forward stream says of itself."""

    request_id: str
    kind: str
    port: int


def parse_headers(headers: Mapping[str, str], stream_id: int) -> StreamHeaders:
    """Raises ValueError that names what is wrong.

    Clients older than request ids open the error stream and then the data stream of a connection, so that the
    numbers of the two tell what belongs together.
    """
    kind = headers.get("streamtype", "")
    if kind not in (DATA, ERROR):
        raise ValueError(f"streamType {kind[:40]!r} is neither data nor error")
    port = parse_port(headers.get("port", ""))
    request_id = headers.get("requestid", "")
    if not request_id:
        request_id = f"stream {stream_id if kind == ERROR else stream_id - 2}"
    return StreamHeaders(request_id, kind, port)


def parse_port(text: str) -> int:
    """A TCP port from 1 to 65535. Raises ValueError."""
    if text.isascii() and text.isdigit() and len(text) <= len(str(_HIGHEST_PORT)) and 0 < int(text) <= _HIGHEST_PORT:
        return int(text)
    raise ValueError(f"port {text[:40]!r} is not a number from 1 to {_HIGHEST_PORT}")


def preamble(port: int) -> bytes:
    """How a WebSocket channel of that port begins."""
    return _PREAMBLE.pack(port)
