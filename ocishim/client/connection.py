"""The connection to a server's socket: calls over it, and what their failures are called."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from ocishim.api.ocishim import v1 as own
from ocishim.api.runtime import v1
from ocishim.client.images import Images
from ocishim.client.runtime import Runtime
from ocishim.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OcishimError,
    OperationFailed,
    PermissionDenied,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_UNIX: Final = "unix://"
_MEANINGS: Final[dict[Status, type[OcishimError]]] = {
    Status.NOT_FOUND: NotFound,
    Status.FAILED_PRECONDITION: FailedPrecondition,
    Status.PERMISSION_DENIED: PermissionDenied,
    Status.DEADLINE_EXCEEDED: DeadlineExceeded,
    Status.UNAVAILABLE: Unavailable,
}


class Client:
    """A server's calls, by subject.

    Each raises an OcishimError in the server's words, Unavailable where none answers.
    """

    def __init__(self, channel: Channel, address: str) -> None:
        self._address = address
        self.images = Images(v1.ImageServiceStub(channel), own.ImagesStub(channel), self._translated)
        self.runtime = Runtime(v1.RuntimeServiceStub(channel), self._translated)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except GRPCError as error:
            if error.status is Status.UNIMPLEMENTED:
                raise OperationFailed(
                    f"{what}: the server on {self._address} has no such call ({error.message or 'UNIMPLEMENTED'})"
                ) from error
            meaning = _MEANINGS.get(error.status, OperationFailed)
            words = " ".join((error.message or "").split())
            raise meaning(f"{what}: {words} ({error.status.name})") from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"{what}: the server on {self._address} does not answer") from error
        except (OSError, StreamTerminatedError, ProtocolError, AttributeError) as error:
            # AttributeError is grpclib's where the other side hung up before the call: its connection has dropped
            # its transport by then.
            why = "it hung up" if isinstance(error, AttributeError) else error
            raise Unavailable(
                f"no server answers on {self._address} ({why}); start one with `ocishim serve`,"
                " or name another by --runtime-endpoint"
            ) from error


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Client]:
    """A client of the server at address, unix:///PATH or /PATH. Raises InvalidArgument for any other."""
    path = address.removeprefix(_UNIX)
    if not path.startswith("/"):
        raise InvalidArgument(f"--runtime-endpoint: {address!r} is neither unix:///PATH nor /PATH")
    channel = Channel(path=path)
    try:
        yield Client(channel, f"{_UNIX}{path}")
    finally:
        channel.close()
