"""Images from an OCI image layout: a directory, or a tar of one (image-spec, image-layout.md); or a docker-archive."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import tarfile
import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from ocishim.errors import InvalidArgument, NotFound, ResourceExhausted
from ocishim.images import docker_archive
from ocishim.images.intake import Progress, manifest_of, no_progress, take_in
from ocishim.linux import files
from ocishim.linux.uncancelled import to_the_end
from ocishim.spec import image as spec
from ocishim.spec import reference

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from ocishim.images.store import ImageRecord, ImageStore
    from ocishim.spec.image import Descriptor

_CHUNK: Final = 1 << 20
_NAMES: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class Layout:
    """Blobs and index of a layout directory; every name is resolved below it."""

    is_remote = False

    def __init__(self, directory: str) -> None:
        self.directory = directory

    async def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return await asyncio.to_thread(os.path.isfile, f"{self.directory}/{name}")

    async def document(self, name: str) -> bytes:
        """A small file. Raises InvalidArgument where it is missing or too large."""
        try:
            content = await asyncio.to_thread(files.read_beneath, self.directory, name, limit=spec.LARGEST_MANIFEST)
        except OSError as error:
            raise InvalidArgument(f"{self.directory}: {error}") from error
        if content is None:
            raise InvalidArgument(f"{self.directory} is no OCI image layout: it has no {name}")
        return content

    async def manifest(self, descriptor: Descriptor) -> bytes:
        """A manifest, checked against its digest."""
        return await self.blob(descriptor)

    async def blob(self, descriptor: Descriptor) -> bytes:
        """A small blob, checked against its digest."""
        content = await self.document(_blob_path(descriptor))
        spec.check_digest(content, descriptor)
        return content

    async def chunks(self, descriptor: Descriptor, begin: int = 0) -> AsyncGenerator[bytes, None]:
        """A large blob, piece by piece; whoever takes them checks the digest."""
        fd = await asyncio.to_thread(files.open_beneath, self.directory, _blob_path(descriptor))
        if fd is None:
            raise InvalidArgument(f"{self.directory} has no blob {descriptor.digest}")
        with open(fd, "rb", buffering=0) as file:  # noqa: ASYNC230 - open already; reads are a thread's
            file.seek(begin)
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield chunk


def _blob_path(descriptor: Descriptor) -> str:
    return "blobs/" + descriptor.digest.replace(":", "/")


async def load(store: ImageStore, path: str, name: str | None, progress: Progress = no_progress) -> list[ImageRecord]:
    """Take in every image of the layout; `name` is for one for which the layout has none.

    Raises NotFound where there is nothing at path, InvalidArgument for what is no layout.
    """
    async with _directory(store, path) as directory:
        layout = Layout(directory)
        if not await layout.has("index.json") and await layout.has("manifest.json"):
            records = await _load_archive(store, layout, path, name, progress)
        else:
            records = await _load_layout(store, layout, path, name, progress)
    if not records:
        raise InvalidArgument(f"{path} names no image")
    return records


async def _load_layout(
    store: ImageStore, layout: Layout, path: str, name: str | None, progress: Progress
) -> list[ImageRecord]:
    index = spec.parse(spec.Index, await layout.document("index.json"), f"{path}: index.json")
    records = []
    # Attestations and other artifacts lie beside images.
    entries = [entry for entry in index.manifests if entry.media_type in (*spec.INDEX_TYPES, *spec.MANIFEST_TYPES)]
    for entry in entries:
        wanted = _name(entry, name, path)
        content = await layout.blob(entry)
        manifest, _ = await manifest_of(layout, content, entry.media_type, f"{path}: manifest {entry.digest}")
        digest = f"{wanted.name}@{entry.digest}"
        records.append(await take_in(store, layout, manifest, tag=wanted.tagged, digest=digest, progress=progress))
    return records


async def _load_archive(
    store: ImageStore, layout: Layout, path: str, name: str | None, progress: Progress
) -> list[ImageRecord]:
    records = []
    for image in docker_archive.images(await layout.document("manifest.json"), path):
        tags = image.tags or ([name] if name else [])
        if not tags:
            raise InvalidArgument(f"{path}: the archive has no name for {image.config}; give one with --reference")
        archive = docker_archive.DockerArchive(layout.directory, image)
        manifest = await archive.manifest_of()
        for tag in tags:
            tagged = reference.parse(tag).tagged
            record = await take_in(store, archive, manifest, tag=tagged, digest=None, progress=progress)
        records.append(record)
    return records


def _name(entry: Descriptor, name: str | None, path: str) -> reference.Reference:
    given = next((entry.annotations[key] for key in _NAMES if key in entry.annotations), name)
    if not given:
        raise InvalidArgument(f"{path}: the layout has no name for {entry.digest}; give one with --reference")
    return reference.parse(given)


@asynccontextmanager
async def _directory(store: ImageStore, path: str) -> AsyncIterator[str]:
    """The layout as a directory: itself, or a tar's content for as long as it is needed."""
    if await asyncio.to_thread(os.path.isdir, path):
        yield path
        return
    if not await asyncio.to_thread(os.path.isfile, path):
        raise NotFound(f"{path}: there is no such file or directory")
    scratch = store.incoming(f"layout-{secrets.token_hex(4)}")
    try:
        await to_the_end(asyncio.to_thread(_unpack, path, scratch))
        yield scratch
    finally:
        await to_the_end(asyncio.to_thread(files.remove_tree, scratch))


def _unpack(path: str, scratch: str) -> None:
    os.mkdir(scratch, 0o700)
    try:
        with tarfile.open(path) as archive:
            # Regular files and directories only, below scratch (PEP 706).
            archive.extractall(scratch, filter="data")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(f"{path}: unpacking it into {scratch}: {error.strerror}") from error
        raise InvalidArgument(f"{path} cannot be unpacked: {error}") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InvalidArgument(f"{path} is no tar of an OCI image layout: {error}") from error
