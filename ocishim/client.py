"""A client of the server's own socket, for the command line."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError

from ocishim.api.ocishim import v1 as own
from ocishim.api.runtime import v1
from ocishim.errors import OperationFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

UNIX = "unix://"


class Client:
    """Calls of a server; each raises OperationFailed in the server's words, Unavailable where none answers."""

    def __init__(self, channel: Channel, address: str) -> None:
        self._address = address
        self._own = own.ImagesStub(channel)
        self._images = v1.ImageServiceStub(channel)

    async def images(self) -> Sequence[v1.Image]:
        """All images."""
        with self._translated("the images"):
            return (await self._images.list_images(v1.ListImagesRequest())).images

    async def image(self, name: str) -> v1.ImageStatusResponse:
        """One image with all that is known of it; an empty answer where it is not there."""
        with self._translated(name):
            request = v1.ImageStatusRequest(image=v1.ImageSpec(image=name), verbose=True)
            return await self._images.image_status(request)

    async def remove(self, name: str) -> None:
        """Remove an image with all its names."""
        with self._translated(name):
            await self._images.remove_image(v1.RemoveImageRequest(image=v1.ImageSpec(image=name)))

    async def pull(self, request: own.PullRequest) -> AsyncIterator[own.Progress]:
        """Pull an image; the last message has it."""
        with self._translated(request.image):
            async for progress in self._own.pull(request):
                yield progress

    async def load(self, request: own.LoadRequest) -> AsyncIterator[own.Progress]:
        """Load a file; the last message has its images."""
        with self._translated(request.path):
            async for progress in self._own.load(request):
                yield progress

    async def save(self, request: own.SaveRequest) -> AsyncIterator[own.Progress]:
        """Write a file; the last message has its images."""
        with self._translated(request.path):
            async for progress in self._own.save(request):
                yield progress

    async def verify(self) -> AsyncIterator[own.Verdict]:
        """Hash again what is there."""
        with self._translated("the images"):
            async for verdict in self._own.verify(own.VerifyRequest()):
                yield verdict

    async def prune(self, request: own.PruneRequest) -> own.PruneResponse:
        """Remove what nothing uses."""
        with self._translated("the images"):
            return await self._own.prune(request)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except GRPCError as error:
            raise OperationFailed(f"{what}: {error.message} ({error.status.name})") from error
        except (OSError, StreamTerminatedError) as error:
            raise Unavailable(
                f"no server answers on {self._address} ({error}); start one with `ocishim serve`"
            ) from error


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Client]:
    """A client of the server at address, unix:///PATH."""
    channel = Channel(path=address.removeprefix(UNIX))
    try:
        yield Client(channel, address)
    finally:
        channel.close()
