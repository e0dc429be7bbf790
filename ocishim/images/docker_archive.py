"""Images from what `docker save` wrote before it wrote OCI layouts: manifest.json, a configuration and tars of layers.

(moby's image/tarexport; the form is also known as docker-archive.) Nothing in it names digests of layers: they are
computed, and the diff ids of the configuration say whether they are right.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from ocishim.errors import InvalidArgument
from ocishim.linux import files
from ocishim.spec import image as spec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_CHUNK: Final = 1 << 20
_TAR: Final = "application/vnd.docker.image.rootfs.diff.tar"
_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_GZIP_MAGIC: Final = b"\x1f\x8b"


def _list(value: object) -> object:
    return [] if value is None else value


class ArchivedImage(BaseModel):
    """An entry of manifest.json."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    config: Annotated[str, Field(alias="Config")]
    tags: Annotated[list[str], Field(alias="RepoTags"), BeforeValidator(_list)] = []
    layers: Annotated[list[str], Field(alias="Layers", max_length=spec.MOST_LAYERS), BeforeValidator(_list)] = []


_IMAGES: Final = TypeAdapter(list[ArchivedImage])


def images(content: bytes, what: str) -> list[ArchivedImage]:
    """The images that manifest.json lists. Raises InvalidArgument."""
    try:
        return _IMAGES.validate_python(json.loads(content))
    except (ValidationError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what}: manifest.json: {str(error).splitlines()[0]}") from error


class DockerArchive:
    """The parts of one image in an unpacked archive; every name is resolved below its directory."""

    is_remote = False

    def __init__(self, directory: str, image: ArchivedImage) -> None:
        self._directory = directory
        self._image = image
        self._paths: dict[str, str] = {}

    async def manifest_of(self) -> spec.Manifest:
        """A manifest that says what the archive does not."""
        layers = [await self._describe(path, None) for path in self._image.layers]
        config = await self._describe(self._image.config, spec.CONFIG_TYPES[1])
        return spec.Manifest(media_type=spec.DOCKER_MANIFEST, config=config, layers=layers)

    async def _describe(self, path: str, media_type: str | None) -> spec.Descriptor:
        digest, size, begin = await asyncio.to_thread(self._hash, path)
        self._paths[digest] = path
        kind = media_type or (_GZIP if begin == _GZIP_MAGIC else _TAR)
        return spec.Descriptor(media_type=kind, digest=digest, size=size)

    def _open(self, path: str) -> int:
        try:
            fd = files.open_beneath(self._directory, path)
        except OSError as error:
            raise InvalidArgument(f"the archive's {path}: {error.strerror or error}") from error
        if fd is None:
            raise InvalidArgument(f"the archive has no {path}, which its manifest.json names")
        return fd

    def _hash(self, path: str) -> tuple[str, int, bytes]:
        with open(self._open(path), "rb", buffering=0) as file:
            begin = file.read(len(_GZIP_MAGIC))
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return f"sha256:{digest}", file.tell(), begin

    async def manifest(self, descriptor: spec.Descriptor) -> bytes:
        """There are no indexes in such archives."""
        raise InvalidArgument(f"the archive has no manifest {descriptor.digest}")

    async def blob(self, descriptor: spec.Descriptor) -> bytes:
        """The configuration."""
        if descriptor.size > spec.LARGEST_MANIFEST:
            raise InvalidArgument(f"the archive's configuration {descriptor.digest} has {descriptor.size} bytes")
        content = b"".join([chunk async for chunk in self.chunks(descriptor)])
        spec.check_digest(content, descriptor)
        return content

    async def chunks(self, descriptor: spec.Descriptor, begin: int = 0) -> AsyncGenerator[bytes, None]:
        """A layer, piece by piece; whoever takes them checks the digest."""
        fd = await asyncio.to_thread(self._open, self._paths[descriptor.digest])
        with open(fd, "rb", buffering=0) as file:  # noqa: ASYNC230 - open already; reads are a thread's
            file.seek(begin)
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield chunk
