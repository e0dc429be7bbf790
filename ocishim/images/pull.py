"""PullImage: from a reference to an image in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim.errors import InvalidArgument, NotFound
from ocishim.images import platform
from ocishim.images.intake import take_in
from ocishim.images.registry import Repository, open_session
from ocishim.spec import image as spec
from ocishim.spec import reference

if TYPE_CHECKING:
    import aiohttp

    from ocishim.config import ImageSettings
    from ocishim.images.auth import Credentials
    from ocishim.images.store import ImageRecord, ImageStore


class Puller:
    """Pulls images; its connections are kept between pulls."""

    def __init__(self, store: ImageStore, settings: ImageSettings) -> None:
        self._store = store
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def pull(self, name: str, credentials: Credentials | None) -> ImageRecord:
        """Fetch an image. Pulled by digest it gets no tag, as kubelet expects.

        Raises NotFound, Unauthenticated, PermissionDenied, Unavailable, DeadlineExceeded for the registry's
        answers, InvalidArgument for an image that contradicts itself.
        """
        wanted = reference.parse(name)
        if self._session is None:
            self._session = open_session(self._settings.pull_progress_timeout)
        repository = Repository(self._session, wanted, credentials)
        content, media_type, digest = await repository.manifest(wanted.digest or wanted.tag or "")
        manifest = await self._manifest(repository, content, media_type, wanted)
        return await take_in(
            self._store,
            repository,
            manifest,
            tag=None if wanted.digest else wanted.tagged,
            digest=f"{wanted.name}@{digest}",
            parallel=self._settings.parallel_layers,
        )

    async def _manifest(
        self, repository: Repository, content: bytes, media_type: str, wanted: reference.Reference
    ) -> spec.Manifest:
        kind = spec.kind(content, media_type, str(wanted))
        if kind == "manifest":
            return spec.parse(spec.Manifest, content, f"manifest of {wanted}")
        index = spec.parse(spec.Index, content, f"index of {wanted}")
        entry = spec.choose_platform(index, platform.architecture(), platform.variant())
        if entry is None:
            raise NotFound(f"{wanted} has no image for linux/{platform.architecture()}")
        content, media_type, _ = await repository.manifest(entry.digest)
        if spec.kind(content, media_type, str(wanted)) != "manifest":
            raise InvalidArgument(f"{wanted}: its index names another index for linux/{platform.architecture()}")
        return spec.parse(spec.Manifest, content, f"manifest {entry.digest} of {wanted}")

    async def close(self) -> None:
        """End the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
