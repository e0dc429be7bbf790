"""Pulling an image: resolve its name, choose the platform, take its layers in side by side, enter its record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim.images.intake import manifest_of, take_in
from ocishim.images.registry import Patience, Registry
from ocishim.spec import reference

if TYPE_CHECKING:
    from ocishim.config import ImageSettings
    from ocishim.images.registry import Credentials
    from ocishim.images.store import ImageRecord, ImageStore


class Puller:
    """Pulls into one store. Pulls that share layers fetch each of them once."""

    def __init__(self, store: ImageStore, settings: ImageSettings, patience: Patience | None = None) -> None:
        self._store = store
        self._settings = settings
        self._registry = Registry(progress_timeout=settings.pull_progress_timeout, patience=patience)

    async def pull(self, name: str, credentials: Credentials | None) -> ImageRecord:
        """Fetch an image and enter it under its tag and digest; under its digest only if that is how it was named.

        Raises NotFound, Unauthenticated, PermissionDenied, Unavailable (its message begins with RegistryUnavailable),
        DeadlineExceeded where nothing comes, ResourceExhausted where the disk is full, and InvalidArgument for
        content that is not what its name or its manifest says.
        """
        wanted = reference.parse(name)
        repository, document = await self._registry.resolve(wanted, credentials)
        manifest = await manifest_of(repository, document.content, document.media_type, f"image {wanted}")
        return await take_in(
            self._store,
            repository,
            manifest,
            tag=None if wanted.digest else wanted.tagged,
            digest=f"{wanted.name}@{document.digest}",
            parallel=self._settings.parallel_layers,
        )

    async def close(self) -> None:
        """End all connections."""
        await self._registry.close()
