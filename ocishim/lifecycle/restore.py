"""Containers and pods made from checkpoints: what to make them of, their files, and in the end their processes.

CreateContainer of an image that is a checkpoint, by the path of an archive or as an image, makes a container that
StartContainer restores.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
from typing import TYPE_CHECKING

import betterproto

from ocishim.api.runtime import v1
from ocishim.errors import FailedPrecondition, InvalidArgument, NotFound
from ocishim.linux import files
from ocishim.linux.namespace import in_fresh_thread
from ocishim.linux.uncancelled import to_the_end
from ocishim.spec import checkpoint as spec
from ocishim.translate.restore import check_mounts, restored_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocishim.images.store import ImageRecord
    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node
    from ocishim.spec.runtime import RuntimeSpec
    from ocishim.translate.userns import IdMappings


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a container is restored from."""

    dumps: spec.Dumps
    image: ImageRecord
    """The one that its root filesystem is of."""
    what: str
    """As errors call it."""
    archive: str = ""
    layer: str = ""
    """The directory with its files, where it is an image."""
    holds: tuple[str, ...] = ()
    """Layers that must stay until its files are laid out."""

    def config(self, asked: v1.ContainerConfig) -> v1.ContainerConfig:
        """The request with the checkpoint's process. Raises FailedPrecondition where they do not fit."""
        return restored_config(asked, self.dumps, self.what)

    def check_mounts(self, made: RuntimeSpec) -> None:
        """Raises FailedPrecondition where the container lacks a mount that the checkpoint's processes expect."""
        check_mounts(made.mounts, self.dumps, self.what)

    async def lay_out(self, node: Node, container: Container, mappings: IdMappings | None) -> None:
        """Bring the checkpoint's files into the container's directory, and its changes into the mounted root."""
        paths = node.layout.container(container.metadata.id)
        keep_free = node.settings.images.keep_free
        await to_the_end(asyncio.to_thread(self._unpack, paths.restore, keep_free))
        await in_fresh_thread(functools.partial(self._change, paths.restore, paths.rootfs, mappings), "lay-over")

    def _unpack(self, directory: str, keep_free: int) -> None:
        from ocishim.images import checkpoint  # noqa: PLC0415 - brings libarchive

        os.mkdir(directory, 0o700)
        if self.archive:
            checkpoint.unpack(self.archive, directory, keep_free=keep_free)
        else:
            checkpoint.copy_tree(self.layer, directory)
        if not os.path.isdir(f"{directory}/{spec.IMAGES}"):
            raise InvalidArgument(f"{self.what} has no {spec.IMAGES}/: its processes are not in it")

    def _change(self, directory: str, rootfs: str, mappings: IdMappings | None) -> None:
        from ocishim.images import changes, checkpoint  # noqa: PLC0415 - as above

        tar = f"{directory}/{spec.ROOTFS}"
        gone = checkpoint.deleted(directory, self.what)
        changes.lay_over(rootfs, tar if os.path.lexists(tar) else None, gone, self.what, mappings)


async def checkpoint_of(node: Node, name: str) -> Checkpoint | None:
    """The checkpoint that an image's name means: an archive's path or a checkpoint image; None for any other image.

    Raises InvalidArgument for an archive that is none, NotFound for one, or the image it is of, that is not here.
    """
    if name.startswith("/"):
        dumps = await asyncio.to_thread(_archive_dumps, name)
        what = f"checkpoint {name}"
        return Checkpoint(dumps, _base(node, dumps, what), what, archive=name)
    image = node.images.find(name)
    if image is None or not (image.checkpoint or any(key in image.config.config.labels for key in spec.ANNOTATIONS)):
        return None
    what = f"checkpoint image {name}"
    layer, dumps = await asyncio.to_thread(_layer_dumps, node.images.layer_paths(image.diff_ids), what)
    return Checkpoint(dumps, _base(node, dumps, what), what, layer=layer, holds=image.diff_ids)


def _archive_dumps(path: str) -> spec.Dumps:
    from ocishim.images import checkpoint  # noqa: PLC0415 - brings libarchive

    return checkpoint.dumps(path)


def _layer_dumps(layers: Sequence[str], what: str) -> tuple[str, spec.Dumps]:
    """The topmost layer that has one, and what it says."""
    from ocishim.images import checkpoint  # noqa: PLC0415 - as above

    layer = next((path for path in reversed(layers) if os.path.lexists(f"{path}/{spec.CONFIG}")), layers[-1])
    return layer, checkpoint.tree_dumps(layer, what)


def _base(node: Node, dumps: spec.Dumps, what: str) -> ImageRecord:
    config = dumps.config
    names = [name for name in (config.rootfs_image_ref, config.rootfs_image_name, config.rootfs_image) if name]
    found = next((image for name in names if (image := node.images.find(name))), None)
    if found is None:
        wanted = config.rootfs_image_name or config.rootfs_image or config.rootfs_image_ref or "no image"
        raise NotFound(f"{what} is of {wanted}, which is not here; pull it first")
    return found


async def forget_checkpoint(node: Node, container: Container) -> None:
    """Remove the checkpoint's files: once its processes run they have no more use, and they hold all their memory."""
    await asyncio.to_thread(files.remove_tree, node.layout.container(container.metadata.id).restore)


@dataclasses.dataclass(frozen=True, slots=True)
class PodCheckpoint:
    """A pod's checkpoint, as RestorePod takes it."""

    path: str
    containers: dict[str, str]
    """Archives by containers' names."""
    config: v1.PodSandboxConfig

    def config_of(self, name: str, given: dict[str, v1.ContainerConfig]) -> v1.ContainerConfig:
        """The container's configuration with its archive as its image. Raises InvalidArgument where there is none."""
        if name not in given:
            raise InvalidArgument(f"container_configs: none is for container {name!r} of checkpoint {self.path}")
        config = given[name]
        user_specified = config.image.user_specified_image or config.image.image
        image = v1.ImageSpec(image=f"{self.path}/{self.containers[name]}", user_specified_image=user_specified)
        return dataclasses.replace(config, image=image)


async def read_pod_checkpoint(path: str, config: v1.PodSandboxConfig) -> PodCheckpoint:
    """What a directory that CheckpointPod wrote holds; its pod's configuration counts where the request has none."""
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"checkpoint_path: {path!r} is not an absolute path")
    options = spec.parse_pod_options(await asyncio.to_thread(_document, path, spec.POD_OPTIONS), path)
    if not betterproto.serialized_on_wire(config):
        content = await asyncio.to_thread(_document, path, spec.POD)
        try:
            config = v1.PodSandboxConfig().from_json(content)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise InvalidArgument(f"{path}: {spec.POD} is no pod's configuration: {error}") from error
    return PodCheckpoint(path, options.containers, config)


def _document(directory: str, name: str) -> bytes:
    try:
        content = files.read_beneath(directory, name, limit=spec.LARGEST_DOCUMENT)
    except FileNotFoundError as error:
        raise NotFound(f"checkpoint_path: {directory} is not there") from error
    except OSError as error:
        raise FailedPrecondition(f"checkpoint_path: {directory}: {error.strerror or error}") from error
    if content is None:
        raise InvalidArgument(f"checkpoint_path: {directory} is no checkpoint of a pod: it has no {name}")
    return content
