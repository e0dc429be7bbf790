"""Pulling an image: resolve its name, choose the platform, ask the policy, take its layers in, enter its record."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ocishim.errors import InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from ocishim.images import signature
from ocishim.images.intake import Progress, manifest_of, no_progress, take_in
from ocishim.images.registry import Patience, Registry
from ocishim.spec import image as spec
from ocishim.spec import reference

if TYPE_CHECKING:
    from ocishim.config import ImageSettings
    from ocishim.errors import OcishimError
    from ocishim.images.registry import Credentials, Source
    from ocishim.images.signature import SignedPayload
    from ocishim.images.store import ImageRecord, ImageStore
    from ocishim.spec.reference import Reference


class Puller:
    """Pulls into one store. Pulls that share layers fetch each of them once."""

    def __init__(self, store: ImageStore, settings: ImageSettings, patience: Patience | None = None) -> None:
        self._store = store
        self._settings = settings
        self._registry = Registry(
            progress_timeout=settings.pull_progress_timeout,
            certs_dir=settings.certs_dir,
            auth_file=settings.auth_file,
            patience=patience,
        )

    async def pull(self, name: str, credentials: Credentials | None, progress: Progress = no_progress) -> ImageRecord:
        """Fetch an image and enter it under its tag and digest; under its digest only if that is how it was named.

        A short name is looked for in the registries that the settings list, one after the other. Raises NotFound,
        Unauthenticated, PermissionDenied (also by the signature policy: its message begins with
        SignatureValidationFailed), Unavailable (its message begins with RegistryUnavailable), DeadlineExceeded
        where nothing comes, ResourceExhausted where the disk is full, FailedPrecondition where this host's settings
        are no use, and InvalidArgument for content that is not what its name or its manifest says.
        """
        refusals: list[OcishimError] = []
        for wanted in reference.candidates(name, self._settings.short_names):
            try:
                return await self._pull(wanted, credentials, progress)
            except (NotFound, Unauthenticated, PermissionDenied) as error:
                # Registries answer all three for what they do not have. One that cannot be reached ends the search:
                # who can take a registry down must not choose which image is run.
                refusals.append(error)
        if len(refusals) == 1:
            raise refusals[0]
        raise NotFound(f"{name} is in none of the registries of images.short_names: {'; '.join(map(str, refusals))}")

    async def _pull(self, wanted: Reference, credentials: Credentials | None, progress: Progress) -> ImageRecord:
        source = await self._registry.source(wanted, credentials)
        document = await source.resolve()
        manifest, digests = await manifest_of(source, document.content, document.media_type, f"image {wanted}")
        if self._settings.policy:
            policy = await asyncio.to_thread(signature.load_policy, self._settings.policy)
            await signature.check(policy, wanted, digests, lambda digest: _signatures(source, digest))
        return await take_in(
            self._store,
            source,
            manifest,
            tag=None if wanted.digest else wanted.tagged,
            digest=f"{wanted.name}@{document.digest}",
            parallel=self._settings.parallel_layers,
            progress=progress,
        )

    async def close(self) -> None:
        """End all connections."""
        await self._registry.close()


async def _signatures(source: Source, digest: str) -> list[SignedPayload]:
    """What the image's own repository has of signatures for a digest."""
    try:
        document = await source.tagged(signature.signature_tag(digest))
    except NotFound:
        return []
    try:
        manifest = spec.parse(spec.Manifest, document.content, f"the signatures of {digest}")
    except InvalidArgument as error:
        raise PermissionDenied(f"SignatureValidationFailed: {error}") from error
    return [
        signature.SignedPayload(await source.blob(payload), text)
        for payload, text in signature.signature_layers(manifest)
    ]
