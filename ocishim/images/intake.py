"""An image taken in, wherever its blobs come from: configuration, layers side by side, then its record."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from typing import TYPE_CHECKING, Any, Final, Protocol

from ocishim import tracing
from ocishim.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from ocishim.images import hosts, layer
from ocishim.spec import image as spec
from ocishim.spec.checkpoint import ANNOTATIONS

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ocishim.images.blobs import Blobs
    from ocishim.images.store import ImageRecord, ImageStore
    from ocishim.spec.image import Descriptor


_DEEPEST: Final = 4


class Progress(Protocol):
    """Told what becomes of layers: `present`, `waiting`, `fetching` (with the bytes that came) or `done`."""

    def __call__(self, blob: spec.Descriptor, state: str, size: int = 0, /) -> None:
        """Must not block."""


def no_progress(blob: spec.Descriptor, state: str, size: int = 0, /) -> None:
    """For who does not look."""


async def manifest_of(
    blobs: Blobs, content: bytes, media_type: str, what: str
) -> tuple[spec.Manifest, tuple[str, ...]]:
    """The manifest that a document is or leads to: of an index, the entry for this machine.

    With it come the digests of all documents on the way, the given one's first. Raises NotFound where there is none for
    this machine, InvalidArgument for what is no image.
    """
    architecture, variant = hosts.architecture()
    digests: tuple[str, ...] = ()
    for _ in range(_DEEPEST):
        digests = (*digests, f"sha256:{hashlib.sha256(content).hexdigest()}")
        kind = spec.document_type(content, media_type, what)
        if kind in spec.MANIFEST_TYPES:
            manifest = spec.parse(spec.Manifest, content, what)
            if manifest.config.media_type not in spec.CONFIG_TYPES:
                raise InvalidArgument(f"{what} is an artifact of type {manifest.config.media_type!r}, not an image")
            return manifest, digests
        chosen = spec.choose_platform(spec.parse(spec.Index, content, what), architecture, variant)
        if chosen is None:
            raise NotFound(f"{what} has no image for linux/{architecture}{variant and '/'}{variant}")
        content, media_type, what = await blobs.manifest(chosen), chosen.media_type, f"manifest {chosen.digest}"
    raise InvalidArgument(f"{what} is nested too deeply")


async def take_in(
    store: ImageStore,
    blobs: Blobs,
    manifest: spec.Manifest,
    *,
    tag: str | None,
    digest: str | None,
    parallel: int = 3,
    progress: Progress = no_progress,
) -> ImageRecord:
    """Bring the image's layers in and enter it under its names.

    Raises InvalidArgument where configuration, manifest and layers contradict each other. Layers that are whole
    stay some minutes for the retry where it failed only to reach the registry.
    """
    with tracing.span("image configuration", digest=manifest.config.digest):
        raw = await blobs.blob(manifest.config)
    diff_ids = spec.parse(spec.ImageConfig, raw, f"image configuration {manifest.config.digest}").rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise InvalidArgument(
            f"image {manifest.config.digest} has {len(manifest.layers)} layers and {len(diff_ids)} diff ids"
        )
    for blob in manifest.layers:
        layer.compression(blob.media_type)
    holder = f"intake-{secrets.token_hex(8)}"
    store.hold(holder, diff_ids)
    keep = False
    try:
        slots = asyncio.Semaphore(parallel)
        wanted = dict(zip(diff_ids, manifest.layers, strict=True))
        await _all(
            [_layer(store, blobs, diff_id, blob, slots=slots, progress=progress) for diff_id, blob in wanted.items()]
        )
        return await store.commit(manifest.config.digest, raw, tag, digest, checkpoint=_checkpoint(manifest))
    except (Unavailable, DeadlineExceeded):
        keep = True
        raise
    finally:
        await store.release(holder, keep=keep)


def _checkpoint(manifest: spec.Manifest) -> str:
    return next((manifest.annotations[key] for key in ANNOTATIONS if key in manifest.annotations), "")


async def _layer(
    store: ImageStore,
    blobs: Blobs,
    diff_id: str,
    blob: Descriptor,
    *,
    slots: asyncio.Semaphore,
    progress: Progress,
) -> None:
    progress(blob, "waiting")
    async with slots, store.unpacking(diff_id):
        # Another intake may have brought it while this one waited its turn.
        if store.has_layer(diff_id):
            progress(blob, "present")
            return
        with tracing.span("image layer", digest=blob.digest, size=str(blob.size)):
            await layer.unpack(store, blobs, blob, diff_id, taken=lambda size: progress(blob, "fetching", size))
        progress(blob, "done")


async def _all(layers: list[Coroutine[Any, Any, None]]) -> None:
    """All of them, or the first failure once the others have been told to stop and have cleaned up."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in layers:
                group.create_task(each)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
