"""Kubernetes' remote command: which streams an exec or attach has, and how its end is told.

Versions of the sub-protocol differ in three things: from v3 on there is a stream of terminal sizes, from v4 on the
end is a JSON document on the error stream instead of text, and v5 (WebSocket only) can close one direction.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

V1: Final = "channel.k8s.io"
V2: Final = "v2.channel.k8s.io"
V3: Final = "v3.channel.k8s.io"
V4: Final = "v4.channel.k8s.io"
V5: Final = "v5.channel.k8s.io"
V1_BASE64: Final = "base64.channel.k8s.io"
V4_BASE64: Final = "v4.base64.channel.k8s.io"
SPDY_PROTOCOLS: Final = (V4, V3, V2, V1)
WEBSOCKET_PROTOCOLS: Final = (V5, V4, V4_BASE64, V1, V1_BASE64)
"""The best first; a WebSocket client that names none speaks V1."""
_WITH_SIZES: Final = frozenset((V3, V4, V4_BASE64, V5))
_WITH_DOCUMENT: Final = frozenset((V4, V4_BASE64, V5))
_LONGEST_SIZE: Final = 256
_LARGEST_SIDE: Final = 0xFFFF
"""Of a terminal, in characters (struct winsize, ioctl_tty(2))."""


class StreamType(StrEnum):
    """The `streamType` header of a SPDY stream."""

    STDIN = "stdin"
    STDOUT = "stdout"
    STDERR = "stderr"
    ERROR = "error"
    RESIZE = "resize"


CHANNELS: Final = {
    0: StreamType.STDIN,
    1: StreamType.STDOUT,
    2: StreamType.STDERR,
    3: StreamType.ERROR,
    4: StreamType.RESIZE,
}
"""Their numbers over WebSocket."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asked to be connected to."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    def streams(self, protocol: str) -> frozenset[StreamType]:
        """The streams that the client will open."""
        found = {StreamType.ERROR}
        chosen = ((StreamType.STDIN, self.stdin), (StreamType.STDOUT, self.stdout), (StreamType.STDERR, self.stderr))
        found.update(kind for kind, wanted in chosen if wanted)
        if self.tty and protocol in _WITH_SIZES:
            found.add(StreamType.RESIZE)
        return frozenset(found)


def negotiate(offered: Sequence[str], known: Iterable[str]) -> str | None:
    """The best known of the offered; None where none is known."""
    return next((name for name in known if name in offered), None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an exec or attach ended: by an exit code, or by a failure that needs words."""

    exit_code: int = 0
    failure: str = ""

    def render(self, protocol: str) -> bytes:
        """What the error stream says of it; nothing where an older protocol's success goes without saying."""
        if protocol in _WITH_DOCUMENT:
            return json.dumps(self._document()).encode()
        if self.failure:
            return self.failure.encode()
        return self._exited().encode() if self.exit_code else b""

    def _exited(self) -> str:
        return f"command terminated with exit code {self.exit_code}"

    def _document(self) -> dict[str, object]:
        """A metav1.Status of Kubernetes' API."""
        if self.failure:
            details = {"causes": [{"message": self.failure}]}
            return _failure("InternalError", self.failure, details) | {"code": 500}
        if self.exit_code:
            causes = [{"reason": "ExitCode", "message": str(self.exit_code)}]
            return _failure("NonZeroExitCode", self._exited(), {"causes": causes})
        return {"metadata": {}, "status": "Success"}


def _failure(reason: str, message: str, details: dict[str, list[dict[str, str]]]) -> dict[str, object]:
    return {"metadata": {}, "status": "Failure", "reason": reason, "message": message, "details": details}


@dataclass(frozen=True, slots=True)
class Size:
    """A terminal's, in characters."""

    width: int
    height: int


class SizeParser:
    """Reads a resize stream: JSON documents one after the other, cut anywhere."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, data: bytes) -> list[Size]:
        """The sizes that are whole. Raises ValueError where there is something else."""
        self._text += data.decode("ascii")
        found = []
        while text := self._text.lstrip():
            self._text = text
            end = text.find("}") + 1
            if end > _LONGEST_SIZE:
                raise ValueError(f"{text[:40]!r} is no terminal size")
            if not end:
                if len(text) > _LONGEST_SIZE or not text.startswith("{"):
                    raise ValueError(f"{text[:40]!r} is no terminal size")
                break
            found.append(_size(text[:end]))
            self._text = text[end:]
        return found


def _size(text: str) -> Size:
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError(f"{text[:80]!r} is no terminal size")  # noqa: TRY004 - of the peer's text, not of an argument
    width, height = (document.get(name) for name in ("Width", "Height"))
    if type(width) is not int or type(height) is not int or not _is_side(width) or not _is_side(height):
        raise ValueError(f"{text[:80]!r} is no terminal size")
    return Size(width, height)


def _is_side(length: int) -> bool:
    return 0 <= length <= _LARGEST_SIDE
