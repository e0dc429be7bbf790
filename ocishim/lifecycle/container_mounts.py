"""A container's root filesystem and image volumes: which images they are of, mounted, and taken away."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ocishim.api.runtime import v1
from ocishim.errors import FailedPrecondition, InvalidArgument, NotFound
from ocishim.images.rootfs import Shift
from ocishim.linux import files, libc, mount
from ocishim.linux.userns import inside
from ocishim.model import ImageVolume
from ocishim.translate import userns
from ocishim.translate.facts import MountSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.store.layout import ContainerPaths
    from ocishim.translate.userns import IdMappings


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


def shift_of(node: Node, sandbox: Sandbox) -> Shift | None:
    """What makes the owners of a pod's files those of its user namespace; None without one of its own."""
    mappings = userns.of_pod(sandbox.config)
    return Shift(mappings, f"{node.layout.sandbox(sandbox.metadata.id).namespaces}/user") if mappings else None


async def mount_all(node: Node, container: Container, shift: Shift | None) -> None:
    """Mount the root filesystem and the image volumes; `unmount_all` undoes it, also where it failed half way."""
    metadata = container.metadata
    paths = node.layout.container(metadata.id)
    layers = node.images.stack(metadata.diff_ids)
    await asyncio.to_thread(_make_directories, paths, layers.paths[-1], len(metadata.volumes), shift)
    await node.rootfs.mount(layers, upper=paths.upper, work=paths.work, target=paths.rootfs, shift=shift)
    for number, volume in enumerate(metadata.volumes):
        stack, scratch, target = node.images.stack(volume.diff_ids), paths.volume_scratch(number), paths.volume(number)
        await node.rootfs.mount_readonly(stack, scratch=scratch, target=target, shift=shift)


def _make_directories(paths: ContainerPaths, topmost: str, volumes: int, shift: Shift | None) -> None:
    for directory, mode in ((paths.upper, 0o755), (paths.work, 0o700), (paths.state, 0o700), (paths.rootfs, 0o755)):
        os.makedirs(directory, mode, exist_ok=True)
    for number in range(volumes):
        os.makedirs(paths.volume_scratch(number), 0o755, exist_ok=True)
        os.makedirs(paths.volume(number), 0o755, exist_ok=True)
    # The root directory itself is the writable layer's: it must look as the image's does.
    files.copy_attributes(topmost, paths.upper)
    if shift is not None:
        found = os.stat(topmost)
        os.chown(paths.upper, shift.mappings.uid(found.st_uid), shift.mappings.gid(found.st_gid))
        files.admit(paths.state, shift.mappings.gid(0))


def unmount_all(paths: ContainerPaths, volumes: int) -> None:
    """Take away what mount_all and sources have mounted, any number of times. Blocks."""
    mount.unmount_all(paths.rootfs)
    for number in range(volumes):
        mount.unmount_all(paths.volume(number))
    with suppress(FileNotFoundError):
        for name in os.listdir(paths.mapped):
            mount.unmount_all(f"{paths.mapped}/{name}")


def sources(paths: ContainerPaths, config: v1.ContainerConfig, shift: Shift | None) -> list[MountSource]:
    """The request's mounts with their sources on the host, links resolved and ids mapped. Blocks.

    Raises NotFound for a path that an image volume does not have, FailedPrecondition where ids cannot be mapped or
    mounts cannot propagate from a source as asked.
    """
    found, volume = [], 0
    for number, request in enumerate(config.mounts):
        if request.image.image:
            found.append(MountSource(request, _inside(paths.volume(volume), request, config.metadata.name)))
            volume += 1
            continue
        source = _host_path(f"config.mounts[{number}].host_path", request)
        _check_propagation(f"config.mounts[{number}].propagation", request, source)
        if (mappings := userns.of_mount(request)) is not None:
            target = f"{paths.mapped}/{number}"
            try:
                _bind_mapped(request, source, target, mappings, shift)
            except OSError as error:
                what = f"container {config.metadata.name}: config.mounts[{number}]"
                raise _not_mapped(what, source, error) from error
            source = target
        found.append(MountSource(request, source))
    if shift is not None:
        asked = {os.path.normpath(request.container_path) for request in config.mounts}
        found += [each for each in _below(found) if each.request.container_path not in asked]
    return found


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


def _below(found: list[MountSource]) -> Iterator[MountSource]:
    """What is mounted in sources, each a mount of its own: in a user namespace crun (1.8) binds without them."""
    requests = [(os.path.realpath(each.source), each.request) for each in found if not each.request.image.image]
    submounts = mount.submounts({source for source, _ in requests})
    for source, request in requests:
        for path in submounts.get(source, ()):
            where = os.path.normpath(f"{request.container_path}/{path.removeprefix(source)}")
            below = replace(request, container_path=where, readonly=request.recursive_read_only, host_path=path)
            yield MountSource(below, path)


def _not_mapped(what: str, source: str, error: OSError) -> FailedPrecondition:
    return FailedPrecondition(
        f"{what}: the ids of {source} ({mount.filesystem_of(source)}) cannot be mapped: {error.strerror}; its "
        "filesystem, or one that is mounted in it, cannot do it on this kernel, or its ids are mapped already"
    )


def _bind_mapped(request: v1.Mount, source: str, target: str, mappings: IdMappings, shift: Shift | None) -> None:
    # By us and not by the runtime: some runtimes ignore a mount's mappings silently.
    if os.path.isdir(source):
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_CLOEXEC, 0o600))
    slave = request.propagation == v1.MountPropagation.PROPAGATION_HOST_TO_CONTAINER

    def bind(namespace: str) -> None:
        mount.bind_idmapped(source, target, namespace, recursive=True, slave=slave)

    if shift is not None and mappings == shift.mappings:
        bind(shift.userns)
    else:
        inside(mappings, 0, lambda pid: bind(f"/proc/{pid}/ns/user"))


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
