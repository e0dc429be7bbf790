"""What taking an image in needs of the place it comes from: a layout, an archive, a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ocishim.spec.image import Descriptor


class Blobs(Protocol):
    """A place that has an image's documents and layers."""

    @property
    def is_remote(self) -> bool:
        """Whether it is worth keeping what came, for when the rest does not."""

    async def manifest(self, descriptor: Descriptor) -> bytes:
        """A manifest or index that an index names, checked against its digest."""

    async def blob(self, descriptor: Descriptor) -> bytes:
        """A small blob, checked against its digest."""

    def chunks(self, descriptor: Descriptor, begin: int = 0) -> AsyncGenerator[bytes, None]:
        """A large blob from byte `begin` on, piece by piece."""
