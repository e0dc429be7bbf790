"""What the streaming server needs of whoever runs commands and reaches pods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from ocishim.protocol.remote_command import Outcome, Size, StreamType, Wanted


class Output(Protocol):
    """Where a process's output comes from: one pipe, or a socket that carries both streams."""

    async def read(self) -> tuple[StreamType, bytes] | None:
        """The next piece and whether it is stdout or stderr; None at the end."""


class Input(Protocol):
    """Where bytes go to."""

    async def write(self, data: bytes) -> None:
        """All of it, in its own time. Raises OSError where nobody reads any more."""

    def end(self) -> None:
        """No more comes."""


class Session(Protocol):
    """A process that a client is connected to, until the context it came from is left."""

    @property
    def outputs(self) -> Sequence[Output]:
        """All that it may write to."""

    @property
    def stdin(self) -> Input | None:
        """None where nothing was to be connected."""

    async def resize(self, size: Size) -> None:
        """Tell its terminal, if it has one, its size."""

    async def wait(self) -> Outcome:
        """How it ended; the outputs then come to an end of themselves."""


class Tunnel(Protocol):
    """A connection to a port inside a pod."""

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises OSError where the connection broke."""

    async def write(self, data: bytes) -> None:
        """All of it, in its own time. Raises OSError where the connection broke."""

    def end(self) -> None:
        """No more is sent; the other direction goes on."""


class Backend(Protocol):
    """Raises OcishimErrors, whose words the client gets."""

    def exec(self, container_id: str, command: Sequence[str], wanted: Wanted) -> AbstractAsyncContextManager[Session]:
        """Start a command in a container; it is killed with its session where it still runs at the end."""

    def attach(self, container_id: str, wanted: Wanted) -> AbstractAsyncContextManager[Session]:
        """Connect to a container's own process, which lives on at the end."""

    def forward(self, sandbox_id: str, port: int) -> AbstractAsyncContextManager[Tunnel]:
        """Connect to a TCP port on a pod's loopback."""
