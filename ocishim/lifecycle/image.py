"""Images as clients see them: pulled once however many ask, loaded, saved, removed with all their tags, pruned."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ocishim.errors import FailedPrecondition, InvalidArgument, NotFound, OcishimError
from ocishim.images.layout import load
from ocishim.images.save import Export, save
from ocishim.lifecycle.progress import Progress
from ocishim.linux.uncancelled import to_the_end
from ocishim.spec import reference

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from ocishim.images.pull import Puller
    from ocishim.images.registry import Credentials
    from ocishim.images.store import ImageRecord
    from ocishim.lifecycle.node import Node


class Registries:
    """The registry client, made by the first pull: a server that pulls nothing need not load an HTTP client."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._puller: Puller | None = None
        self._progress: dict[Hashable, Progress] = {}

    def puller(self) -> Puller:
        """The client."""
        if self._puller is None:
            from ocishim.images.pull import Puller  # noqa: PLC0415 - a third of the start-up time

            self._puller = Puller(self._node.images, self._node.settings.images)
        return self._puller

    async def pull(self, name: str, credentials: Credentials | None) -> ImageRecord:
        """Fetch an image, or join the pull of it that is under way with the same credentials."""
        key, what = self._key(name, credentials)
        operation = functools.partial(self._pull, key, name, credentials)
        return await self._node.jobs.run(key, what, None, operation, resumes=True)

    def progress(self, name: str, credentials: Credentials | None) -> Progress:
        """How far the pull that `pull` would start or join is."""
        key, _ = self._key(name, credentials)
        return self._progress.setdefault(key, Progress())

    def _key(self, name: str, credentials: Credentials | None) -> tuple[Hashable, str]:
        if not name:
            raise InvalidArgument("image.image is required")
        candidates = reference.candidates(name, self._node.settings.images.short_names)
        wanted = " or ".join(str(each) for each in candidates)
        return ("pull", wanted, credentials), f"PullImage {wanted}"

    async def _pull(self, key: Hashable, name: str, credentials: Credentials | None) -> ImageRecord:
        progress = self._progress.setdefault(key, Progress())
        began, failed = time.monotonic(), True
        try:
            record = await self.puller().pull(name, credentials, progress)
            failed = False
            return record
        finally:
            self._node.meter.pull(progress.fetched(), time.monotonic() - began, failed=failed)
            self._progress.pop(key, None)

    async def close(self) -> None:
        """End its connections."""
        if self._puller is not None:
            await self._puller.close()


async def load_images(node: Node, path: str, name: str | None, progress: Progress) -> list[ImageRecord]:
    """Take in every image of an OCI layout or docker-archive on this host."""
    if not path.startswith("/"):
        raise InvalidArgument(f"path: {path!r} is not absolute")
    return await node.jobs.run(
        ("load", path, name), f"Load {path}", None, lambda: load(node.images, path, name, progress)
    )


async def save_images(node: Node, names: Sequence[str], path: str, progress: Progress) -> list[Export]:
    """Write images into a file on this host; one that is named by its tag is saved under that tag only.

    Raises NotFound for an image that is not here, and what images.save raises.
    """
    if not path.startswith("/"):
        raise InvalidArgument(f"path: {path!r} is not absolute")
    if not names:
        raise InvalidArgument("images: at least one is required")
    exports = [_export(node, name) for name in names]
    return await node.jobs.run(
        ("save", path), f"Save {path}", tuple(names), lambda: _save(node, exports, path, progress)
    )


def _export(node: Node, name: str) -> Export:
    record = node.images.find(name)
    if record is None:
        raise NotFound(f"image {name!r} is not here")
    try:
        candidates = reference.candidates(name, node.settings.images.short_names)
    except InvalidArgument:
        candidates = []
    tags = tuple(each.tagged for each in candidates if each.tagged in record.tags and each.tagged is not None)
    return Export(record, tags or record.tags)


async def _save(node: Node, exports: list[Export], path: str, progress: Progress) -> list[Export]:
    diff_ids = {diff_id for export in exports for diff_id in export.image.diff_ids}
    size = sum(node.images.layer(diff_id).tar_size for diff_id in diff_ids)
    stop, holder = threading.Event(), f"save-{path}"

    def went_on(written: int) -> None:
        if stop.is_set():
            raise OcishimError(f"{path}: the server is stopping")
        progress.note(path, "writing", written, size)

    node.images.hold(holder, diff_ids)
    work = asyncio.create_task(asyncio.to_thread(save, node.images, exports, path, went_on))
    try:
        await asyncio.shield(work)
    finally:
        stop.set()
        await to_the_end(_ended(work))
        await node.images.release(holder)
    return exports


async def _ended(work: asyncio.Task[int]) -> None:
    await asyncio.wait([work])


def is_pinned(node: Node, record: ImageRecord) -> bool:
    """Whether the settings keep an image, by a name as it is pulled or by one with asterisks for its full names."""
    names = (*record.tags, *record.digests)
    return any(fnmatchcase(name, pattern) for pattern in node.settings.images.pinned for name in names) or any(
        node.images.find(pattern) is record for pattern in node.settings.images.pinned if "*" not in pattern
    )


async def remove_image(node: Node, name: str) -> None:
    """Remove an image with all its tags; content where it is not there. Containers keep the layers they use.

    Raises FailedPrecondition for one that is pinned.
    """
    if not name:
        raise InvalidArgument("image.image is required")
    record = node.images.find(name)
    if record is not None and is_pinned(node, record):
        raise FailedPrecondition(f"image {name} ({record.id}) is pinned by the server's images.pinned")
    await node.jobs.run(("remove-image", name), f"RemoveImage {name}", None, lambda: node.images.remove(name))


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning removed."""

    images: list[ImageRecord]
    freed: int
    """Bytes."""


async def prune_images(node: Node, *, untagged_only: bool, dry_run: bool) -> Pruned:
    """Remove the images that no container uses and that are not pinned, and what broken pulls left."""
    used = {image_id for container in node.containers for image_id in container.metadata.image_ids}
    doomed = [
        record
        for record in node.images.records()
        if record.id not in used and not is_pinned(node, record) and not (untagged_only and record.tags)
    ]
    if dry_run:
        return Pruned(doomed, node.images.reclaimable(record.id for record in doomed))
    before, _ = node.images.usage()
    for record in doomed:
        await node.images.remove(record.id)
    await node.images.forget_retries()
    freed = await asyncio.to_thread(node.images.partials.clear, 0.0)
    after, _ = node.images.usage()
    return Pruned(doomed, before - after + freed)
