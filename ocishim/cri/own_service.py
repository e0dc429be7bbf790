"""ocishim's own image service: what its command line does and the CRI has no words for."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeVar

from ocishim.api.ocishim import v1 as own
from ocishim.images.verify import verify
from ocishim.lifecycle.image import load_images, prune_images, save_images
from ocishim.lifecycle.progress import Progress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

    from ocishim.images.store import ImageRecord
    from ocishim.lifecycle.image import Registries
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.progress import Part

T = TypeVar("T")


class OwnImageService(own.ImagesBase):
    """An RPC a method."""

    def __init__(self, node: Node, registries: Registries) -> None:
        self._node = node
        self._registries = registries

    async def pull(self, pull_request: own.PullRequest) -> AsyncIterator[own.Progress]:
        """Pull an image, or watch the pull of it that is under way."""
        credentials = None
        if pull_request.username:
            from ocishim.images.auth import Credentials  # noqa: PLC0415 - with the HTTP client, at the first pull

            credentials = Credentials(pull_request.username, pull_request.password)
        progress = self._registries.progress(pull_request.image, credentials)
        pulling = self._registries.pull(pull_request.image, credentials)
        async for step in _steps(progress, pulling, lambda record: [_loaded(record)]):
            yield step

    async def load(self, load_request: own.LoadRequest) -> AsyncIterator[own.Progress]:
        """Load every image of a layout."""
        progress = Progress()
        loading = load_images(self._node, load_request.path, load_request.reference or None, progress)
        async for step in _steps(progress, loading, _all_loaded):
            yield step

    async def save(self, save_request: own.SaveRequest) -> AsyncIterator[own.Progress]:
        """Write images into one file."""
        progress = Progress()
        saving = save_images(self._node, save_request.images, save_request.path, progress)
        async for step in _steps(
            progress,
            saving,
            lambda exports: [own.LoadedImage(export.image.id, list(export.tags)) for export in exports],
        ):
            yield step

    async def verify(self, verify_request: own.VerifyRequest) -> AsyncIterator[own.Verdict]:  # noqa: ARG002 - empty
        """Hash again all that images use."""
        users: defaultdict[str, list[str]] = defaultdict(list)
        for image in self._node.images.records():
            for digest in dict.fromkeys((image.id, *image.diff_ids)):
                users[digest].append(image.id)
        async for found in verify(self._node.images):
            yield own.Verdict(found.digest, found.kind, found.size, found.problem, users[found.digest])

    async def prune(self, prune_request: own.PruneRequest) -> own.PruneResponse:
        """Remove the images that nothing uses."""
        request = prune_request
        pruned = await prune_images(self._node, untagged_only=request.untagged_only, dry_run=request.dry_run)
        return own.PruneResponse(images=_all_loaded(pruned.images), freed=pruned.freed)


async def _steps(
    progress: Progress, operation: Coroutine[Any, Any, T], images: Callable[[T], list[own.LoadedImage]]
) -> AsyncIterator[own.Progress]:
    task = asyncio.ensure_future(operation)
    try:
        async for parts in progress.until(task):
            yield own.Progress(parts=_parts(parts))
        yield own.Progress(parts=_parts(progress.parts()), images=images(await task))
    finally:
        # Only this client's waiting: the operation itself goes on.
        task.cancel()
        await asyncio.wait([task])


def _parts(parts: Iterable[Part]) -> list[own.Part]:
    return [own.Part(part.name, part.state, part.done, part.size) for part in parts]


def _loaded(record: ImageRecord) -> own.LoadedImage:
    return own.LoadedImage(record.id, [*record.tags, *record.digests])


def _all_loaded(records: Iterable[ImageRecord]) -> list[own.LoadedImage]:
    return [_loaded(record) for record in records]
