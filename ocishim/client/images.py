"""Calls about images: the CRI's, and those of this server's own service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim.api.ocishim import v1 as own
from ocishim.api.runtime import v1

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractContextManager


class Images:
    """What can be asked about images; `translated` gives failures their names."""

    def __init__(
        self,
        service: v1.ImageServiceStub,
        own_service: own.ImagesStub,
        translated: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._service = service
        self._own = own_service
        self._translated = translated

    async def list(self) -> Sequence[v1.Image]:
        """All images."""
        with self._translated("the images"):
            return (await self._service.list_images(v1.ListImagesRequest())).images

    async def status(self, name: str) -> v1.ImageStatusResponse:
        """One image with all that is known of it; an empty answer where it is not there."""
        with self._translated(name):
            request = v1.ImageStatusRequest(image=v1.ImageSpec(image=name), verbose=True)
            return await self._service.image_status(request)

    async def remove(self, name: str) -> None:
        """Remove an image with all its names."""
        with self._translated(name):
            await self._service.remove_image(v1.RemoveImageRequest(image=v1.ImageSpec(image=name)))

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
