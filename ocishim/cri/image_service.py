"""ImageService."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Final

from ocishim.api.runtime import v1
from ocishim.cri import listing
from ocishim.errors import InvalidArgument
from ocishim.lifecycle.image import is_pinned, remove_image
from ocishim.lifecycle.usage import Sample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocishim.cri.wire import Encoded
    from ocishim.images.registry import Credentials
    from ocishim.images.store import ImageRecord
    from ocishim.lifecycle.image import Registries
    from ocishim.lifecycle.node import Node

_IMAGES_FIELD: Final = 1


class ImageService(v1.ImageServiceBase):
    """An RPC a method; those that are missing answer UNIMPLEMENTED by name."""

    def __init__(self, node: Node, registries: Registries) -> None:
        self._node = node
        self._registries = registries

    async def list_images(self, list_images_request: v1.ListImagesRequest) -> v1.ListImagesResponse:
        """All images, or the one that the filter names."""
        wanted = list_images_request.filter.image.image
        if not wanted:
            return v1.ListImagesResponse(images=[self._image(record) for record in self._node.images.records()])
        found = self._node.images.find(wanted)
        return v1.ListImagesResponse(images=[self._image(found)] if found else [])

    async def stream_images(self, stream_images_request: v1.StreamImagesRequest) -> AsyncIterator[Encoded]:  # type: ignore[override] # the responses, encoded already
        """The same in pieces."""
        listed = await self.list_images(v1.ListImagesRequest(filter=stream_images_request.filter))
        for chunk in listing.chunks([bytes(each) for each in listed.images]):
            yield listing.join(chunk, _IMAGES_FIELD)

    async def image_status(self, image_status_request: v1.ImageStatusRequest) -> v1.ImageStatusResponse:
        """One image; an empty answer where it is not here."""
        request = image_status_request
        if not request.image.image:
            raise InvalidArgument("image.image is required")
        found = self._node.images.find(request.image.image)
        if found is None:
            return v1.ImageStatusResponse()
        response = v1.ImageStatusResponse(image=self._image(found))
        if request.verbose:
            response.info = await asyncio.to_thread(self._info, found)
        return response

    def _image(self, record: ImageRecord) -> v1.Image:
        answer = image(record)
        answer.pinned = is_pinned(self._node, record)
        return answer

    def _info(self, record: ImageRecord) -> dict[str, str]:
        """What `crictl inspecti` shows: the configuration as it was pulled, and where the layers are."""
        store = self._node.images
        with open(store.config_path(record.id), encoding="utf-8", errors="replace") as file:
            spec = file.read()
        layers = [
            {
                "diffID": diff_id,
                "path": f"{store.layer_directory(diff_id)}/fs",
                **store.layer(diff_id).model_dump(include={"size", "inodes", "tar_size"}),
            }
            for diff_id in record.diff_ids
        ]
        return {"imageSpec": spec, "layers": json.dumps(layers)}

    async def pull_image(self, pull_image_request: v1.PullImageRequest) -> v1.PullImageResponse:
        """Fetch an image."""
        request = pull_image_request
        record = await self._registries.pull(request.image.image, _credentials(request.auth))
        return v1.PullImageResponse(image_ref=record.id)

    async def remove_image(self, remove_image_request: v1.RemoveImageRequest) -> v1.RemoveImageResponse:
        """Remove an image with all its tags."""
        await remove_image(self._node, remove_image_request.image.image)
        return v1.RemoveImageResponse()

    async def image_fs_info(self, image_fs_info_request: v1.ImageFsInfoRequest) -> v1.ImageFsInfoResponse:  # noqa: ARG002
        """What layers take, as counted when they were unpacked, and what containers have written."""
        used, inodes = self._node.images.usage()
        images = _usage(self._node.layout.images, Sample(used, inodes, time.time_ns()))
        containers = _usage(self._node.layout.containers, await self._node.written.sample())
        return v1.ImageFsInfoResponse(image_filesystems=[images], container_filesystems=[containers])


def _usage(directory: str, sample: Sample) -> v1.FilesystemUsage:
    return v1.FilesystemUsage(
        timestamp=sample.at,
        fs_id=v1.FilesystemIdentifier(mountpoint=directory),
        used_bytes=v1.UInt64Value(value=sample.used),
        inodes_used=v1.UInt64Value(value=sample.inodes),
    )


def image(record: ImageRecord) -> v1.Image:
    """An image in the CRI's words: a numeric user is uid, any other username, never both."""
    answer = v1.Image(
        id=record.id,
        repo_tags=list(record.tags),
        repo_digests=list(record.digests),
        size=record.size,
        spec=v1.ImageSpec(image=record.id),
    )
    user = record.config.config.user.partition(":")[0]
    if user.isascii() and user.isdigit():
        answer.uid = v1.Int64Value(value=int(user))
    else:
        answer.username = user
    return answer


def _credentials(auth: v1.AuthConfig) -> Credentials | None:
    given = (auth.username, auth.password, auth.auth, auth.identity_token, auth.registry_token)
    if not any(given):
        return None
    from ocishim.images.registry import Credentials  # noqa: PLC0415 - with the HTTP client, at the first pull

    return Credentials(*given, auth.server_address)
