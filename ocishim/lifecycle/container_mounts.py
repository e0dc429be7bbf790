"""A container's root filesystem and image volumes: which images they are of, mounted, and taken away."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING

from ocishim.api.runtime import v1
from ocishim.errors import FailedPrecondition, InvalidArgument, NotFound
from ocishim.linux import files, libc, mount
from ocishim.model import ImageVolume
from ocishim.translate.facts import MountSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node
    from ocishim.store.layout import ContainerPaths


def image_volumes(node: Node, config: v1.ContainerConfig) -> tuple[ImageVolume, ...]:
    """The images that the request's mounts name. Raises NotFound for one that is not here."""
    found = []
    for request in config.mounts:
        if not request.image.image:
            continue
        image = node.images.find(request.image.image)
        if image is None:
            raise NotFound(
                f"ImageVolumeMountFailed: container {config.metadata.name}: {request.container_path}: "
                f"image {request.image.image!r} is not here; pull it first"
            )
        found.append(
            ImageVolume(
                container_path=request.container_path,
                image_id=image.id,
                image_ref=image.digests[0] if image.digests else image.id,
                diff_ids=image.diff_ids,
            )
        )
    return tuple(found)


async def mount_all(node: Node, container: Container) -> None:
    """Mount the root filesystem and the image volumes; `unmount_all` undoes it, also where it failed half way."""
    metadata = container.metadata
    paths = node.layout.container(metadata.id)
    layers = node.images.stack(metadata.diff_ids)
    await asyncio.to_thread(_make_directories, paths, layers.paths[-1], len(metadata.volumes))
    await node.rootfs.mount(layers, upper=paths.upper, work=paths.work, target=paths.rootfs)
    for number, volume in enumerate(metadata.volumes):
        await node.rootfs.mount_readonly(
            node.images.stack(volume.diff_ids), scratch=paths.volume_scratch(number), target=paths.volume(number)
        )


def _make_directories(paths: ContainerPaths, topmost: str, volumes: int) -> None:
    for directory, mode in ((paths.upper, 0o755), (paths.work, 0o700), (paths.state, 0o700), (paths.rootfs, 0o755)):
        os.makedirs(directory, mode, exist_ok=True)
    for number in range(volumes):
        os.makedirs(paths.volume_scratch(number), 0o755, exist_ok=True)
        os.makedirs(paths.volume(number), 0o755, exist_ok=True)
    # The root directory itself is the writable layer's: it must look as the image's does.
    files.copy_attributes(topmost, paths.upper)


def unmount_all(paths: ContainerPaths, volumes: int) -> None:
    """Take away what mount_all has mounted, any number of times. Blocks."""
    mount.unmount_all(paths.rootfs)
    for number in range(volumes):
        mount.unmount_all(paths.volume(number))


def sources(paths: ContainerPaths, config: v1.ContainerConfig) -> Iterator[MountSource]:
    """The request's mounts with their sources on the host, links resolved. Blocks.

    Raises NotFound for a path that an image volume does not have, FailedPrecondition for a source from which mounts
    cannot propagate as asked.
    """
    number = 0
    for index, request in enumerate(config.mounts):
        if request.image.image:
            yield MountSource(request, _inside(paths.volume(number), request, config.metadata.name))
            number += 1
        else:
            source = _host_path(f"config.mounts[{index}].host_path", request)
            _check_propagation(f"config.mounts[{index}].propagation", request, source)
            yield MountSource(request, source)


def _check_propagation(path: str, request: v1.Mount, source: str) -> None:
    """What is mounted later reaches the other side only over a mount that takes part (mount_namespaces(7))."""
    asked = request.propagation
    if asked == v1.MountPropagation.PROPAGATION_PRIVATE:
        return
    mountpoint, modes = mount.propagation(source)
    enough = {"shared"} if asked == v1.MountPropagation.PROPAGATION_BIDIRECTIONAL else {"shared", "master"}
    if not modes & enough:
        raise FailedPrecondition(
            f"{path}: {asked.name}: {request.host_path} lies on the mount {mountpoint}, which is private; "
            f"mount --make-rshared {mountpoint}"
        )


def _inside(volume: str, request: v1.Mount, name: str) -> str:
    """A path of an image, resolved as a process chrooted into it would: no link of the image leads to the host's files.

    The volume is read-only, so that what is resolved now is what the runtime mounts.
    """
    if not request.image_sub_path:
        return volume
    what = f"ImageVolumeMountFailed: container {name}: {request.container_path}: image {request.image.image}"
    root = os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = libc.openat2(
            root,
            request.image_sub_path.lstrip("/") or ".",
            os.O_PATH,
            resolve=libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS,
        )
    except OSError as error:
        raise NotFound(f"{what} has no {request.image_sub_path!r}: {error.strerror}") from error
    finally:
        os.close(root)
    try:
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind not in (stat.S_IFDIR, stat.S_IFREG):
            raise InvalidArgument(f"{what}: {request.image_sub_path!r} is neither a directory nor a file")
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _host_path(path: str, request: v1.Mount) -> str:
    """A missing one is made as a directory, as both peers do."""
    try:
        source = os.path.realpath(request.host_path, strict=False)
        if not os.path.lexists(source):
            os.makedirs(source, 0o755, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        raise InvalidArgument(
            f"{path}: {request.host_path!r} cannot be made as a directory: {error.strerror}"
        ) from error
    return source
