"""The image store: a record an image, a directory a layer, and who holds which layer.

ROOT/records/HEX.json     an image, HEX of its config digest
ROOT/configs/HEX          its configuration, byte for byte
ROOT/layers/HEX/          a layer, HEX of its diff id: fs/, layer.json, recipe.zst (see recipe.py), replaced/
ROOT/incoming/            layers being unpacked; emptied at start
ROOT/partial/HEX          the beginning of a blob, HEX of its digest (see partial.py)
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ocishim.errors import OcishimError
from ocishim.images import whiteouts
from ocishim.images.limits import Limits
from ocishim.images.partial import Partials
from ocishim.images.rootfs import LayerStack
from ocishim.images.turns import Turns
from ocishim.linux import files
from ocishim.linux.uncancelled import to_the_end
from ocishim.spec import reference
from ocishim.spec.image import ImageConfig, parse
from ocishim.spec.reference import DEFAULT_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T", bound=BaseModel)

log = logging.getLogger(__name__)

_SHORTEST_ID: Final = 6
"""A shorter one is more likely an image's name, such as `cafe`."""
_KEPT: Final = 600.0
"""Seconds that layers of a pull that broke off wait for its retry."""
_LARGEST: Final = 8 << 20


class ImageRecord(BaseModel):
    """An image in the store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[2] = 2
    id: str
    """The configuration's digest."""
    tags: tuple[str, ...]
    """host/name:tag."""
    digests: tuple[str, ...]
    """host/name@sha256:…, of the manifests or indexes it was pulled by."""
    size: int
    """Bytes of its layers, unpacked."""
    checkpoint: str = ""
    """The name of the container that it is a checkpoint of; empty for any other image."""
    config: ImageConfig

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """Its layers, lowest first."""
        return tuple(self.config.rootfs.diff_ids)


class LayerRecord(BaseModel):
    """What unpacking a layer found out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[2] = 2
    size: int
    inodes: int
    tar_size: int
    """Bytes of the tar that it was."""
    whiteouts: whiteouts.Form
    """How it hides names of lower layers."""
    replaced: tuple[str, ...] = ()
    """Files that a later entry of the same tar took the place of, as hex of their names; kept in replaced/."""
    exact: bool = True
    """Whether its tar can be made again."""
    opaque: bool = False
    """Whether it hides all of the layers below it."""


class ImageStore:
    """All images and layers below one directory. Everything it says comes from memory."""

    def __init__(self, root: str, *, limits: Limits | None = None, search: Sequence[str] = (DEFAULT_DOMAIN,)) -> None:
        self.root = root
        self.limits = limits or Limits()
        self.set_aside: list[str] = []
        self.partials = Partials(f"{root}/partial")
        self.whiteouts: whiteouts.Form = "overlay"
        self._search = search
        self._images: dict[str, ImageRecord] = {}
        self._names: dict[str, str] = {}
        self._layers: dict[str, LayerRecord] = {}
        self._holders: dict[str, frozenset[str]] = {}
        self._kept_until: dict[str, float] = {}
        self._doomed: set[str] = set()
        """Layers to remove where nothing uses them, among them those whose removal has failed once."""
        self._turns = Turns()
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Load what is there. What cannot be read is set aside, not deleted, and named in `set_aside`."""
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        for name in ("records", "configs", "layers", "incoming", "partial", "set-aside", "empty"):
            os.makedirs(f"{self.root}/{name}", mode=0o700, exist_ok=True)
        for name in os.listdir(f"{self.root}/incoming"):
            files.remove_tree(f"{self.root}/incoming/{name}")
        self.partials.clear()
        self.whiteouts = whiteouts.form_for(f"{self.root}/incoming")
        for name in sorted(os.listdir(f"{self.root}/layers")):
            layer = self._read(f"layers/{name}", f"layers/{name}/layer.json", LayerRecord)
            if layer is not None:
                self._layers[f"sha256:{name}"] = layer
        for name in sorted(os.listdir(f"{self.root}/records")):
            image = self._read(f"records/{name}", f"records/{name}", ImageRecord)
            if image is not None and name == f"{_hex(image.id)}.json":
                self._remember(image)
        self._judge_images()

    def _judge_images(self) -> None:
        """An image of which something is missing is none; a configuration without an image is a crash's."""
        configs = set(os.listdir(f"{self.root}/configs"))
        for image in list(self._images.values()):
            missing = [f"layer {diff_id}" for diff_id in image.diff_ids if diff_id not in self._layers]
            if _hex(image.id) not in configs:
                missing.append("configuration")
            if missing:
                self._put_aside(f"records/{_hex(image.id)}.json", f"its {missing[0]} is not there")
                self._forget(image)
        for name in configs - {_hex(image_id) for image_id in self._images}:
            files.unlink(f"{self.root}/configs/{name}")

    def _read(self, thing: str, path: str, model: type[T]) -> T | None:
        try:
            with open(f"{self.root}/{path}", "rb") as file:
                return model.model_validate_json(file.read(_LARGEST))
        except (OSError, ValidationError) as error:
            self._put_aside(thing, str(error).splitlines()[0])
            return None

    def _put_aside(self, thing: str, why: str) -> None:
        target = f"{self.root}/set-aside/{thing.replace('/', '-')}-{time.time_ns()}"
        log.error("%s/%s cannot be used (%s): set aside as %s", self.root, thing, why, target)
        os.rename(f"{self.root}/{thing}", target)
        self.set_aside.append(target)

    def records(self) -> list[ImageRecord]:
        """All images."""
        return list(self._images.values())

    def find(self, name: str) -> ImageRecord | None:
        """An image by id (with or without sha256:, or the unambiguous beginning of it), tag or digest."""
        bare = name.removeprefix("sha256:")
        if exact := self._images.get(f"sha256:{bare}"):
            return exact
        try:
            candidates = reference.candidates(name, self._search)
        except OcishimError:
            candidates = []
        for wanted in candidates:
            # A digest says more than the tag beside it.
            key = wanted.digested or wanted.tagged or ""
            if key in self._names:
                return self._images[self._names[key]]
        if len(bare) >= _SHORTEST_ID and all(character in "0123456789abcdef" for character in bare):
            matches = [image for image in self._images.values() if _hex(image.id).startswith(bare)]
            if len(matches) == 1:
                return matches[0]
        return None

    async def commit(
        self, image_id: str, raw: bytes, tag: str | None, digest: str | None, *, checkpoint: str = ""
    ) -> ImageRecord:
        """Enter an image whose layers are all in place, by its configuration, or give one more names.

        A tag that another image had leaves that one; the image stays, perhaps with no tag.
        """
        return await to_the_end(self._commit(image_id, raw, tag, digest, checkpoint))

    async def _commit(
        self, image_id: str, raw: bytes, tag: str | None, digest: str | None, checkpoint: str
    ) -> ImageRecord:
        config = parse(ImageConfig, raw, f"image configuration {image_id}")
        async with self._lock:
            present = self._images.get(image_id)
            diff_ids = frozenset(config.rootfs.diff_ids)
            size = sum(self._layers[diff_id].size for diff_id in diff_ids)
            tags = _with(present.tags if present else (), tag)
            digests = _with(present.digests if present else (), digest)
            was = checkpoint or (present.checkpoint if present else "")
            record = ImageRecord(id=image_id, tags=tags, digests=digests, size=size, checkpoint=was, config=config)
            robbed = self._images.get(self._names.get(tag or "", ""))
            if robbed is not None and robbed.id != image_id:
                robbed = robbed.model_copy(update={"tags": tuple(each for each in robbed.tags if each != tag)})
                await asyncio.to_thread(self._write, robbed)
                self._remember(robbed)
            if present is None:
                await asyncio.to_thread(files.write_atomic, self.config_path(image_id), raw)
            await asyncio.to_thread(self._write, record)
            self._remember(record)
            self._retried(diff_ids)
            return record

    def config_path(self, image_id: str) -> str:
        """Where an image's configuration is, byte for byte."""
        return f"{self.root}/configs/{_hex(image_id)}"

    def _write(self, record: ImageRecord) -> None:
        path = f"{self.root}/records/{_hex(record.id)}.json"
        files.write_atomic(path, record.model_dump_json(by_alias=True).encode())

    def _remember(self, record: ImageRecord) -> None:
        old = self._images.get(record.id)
        if old is not None:
            self._forget(old)
        self._images[record.id] = record
        for name in (*record.tags, *record.digests):
            self._names[name] = record.id

    def _forget(self, record: ImageRecord) -> None:
        self._images.pop(record.id, None)
        for name in (*record.tags, *record.digests):
            if self._names.get(name) == record.id:
                del self._names[name]

    async def remove(self, name: str) -> None:
        """Remove an image with all its names; content where it is not there. Layers in use stay."""
        await to_the_end(self._remove(name))

    async def _remove(self, name: str) -> None:
        async with self._lock:
            record = self.find(name)
            if record is not None:
                # Forgotten when it is gone from the disk: until then a retry must find it.
                await asyncio.to_thread(files.unlink, f"{self.root}/records/{_hex(record.id)}.json")
                await asyncio.to_thread(files.unlink, self.config_path(record.id))
                self._forget(record)
            await self._drop_unused(record.diff_ids if record else ())

    def unpacking(self, diff_id: str) -> AbstractAsyncContextManager[None]:
        """One at a time for each layer: who comes second finds it there, or tries itself."""
        return self._turns.take(diff_id)

    def has_layer(self, diff_id: str) -> bool:
        """Whether the layer is unpacked."""
        return diff_id in self._layers

    def hold(self, holder: str, diff_ids: Iterable[str]) -> None:
        """Keep layers while the holder (a container, a pull) needs them, whatever becomes of the image."""
        self._holders[holder] = self._holders.get(holder, frozenset()) | frozenset(diff_ids)

    async def release(self, holder: str, *, keep: bool = False) -> None:
        """End a hold; layers that nobody needs any more go at once, or wait some minutes for a retry with `keep`."""
        if keep:
            self._kept_until[holder] = time.monotonic() + _KEPT
            return
        await to_the_end(self._release(holder))

    async def _release(self, holder: str) -> None:
        async with self._lock:
            await self._drop_unused(self._holders.pop(holder, frozenset()))

    def _retried(self, diff_ids: frozenset[str]) -> None:
        """The retry has come for which layers were kept: from now on the image has them."""
        for holder in [holder for holder in self._kept_until if self._holders[holder] <= diff_ids]:
            del self._kept_until[holder], self._holders[holder]

    def _overdue(self) -> set[str]:
        """End the waits for retries that did not come; their layers."""
        now = time.monotonic()
        late = [holder for holder, until in self._kept_until.items() if until < now]
        for holder in late:
            del self._kept_until[holder]
        return {diff_id for holder in late for diff_id in self._holders.pop(holder)}

    async def forget_retries(self) -> None:
        """Remove what waits for retries of broken pulls."""
        self._kept_until = dict.fromkeys(self._kept_until, 0.0)
        async with self._lock:
            await self._drop_unused([])

    def reclaimable(self, image_ids: Iterable[str]) -> int:
        """Bytes that removing these images would free."""
        doomed = set(image_ids)
        used = {diff_id for image in self._images.values() if image.id not in doomed for diff_id in image.diff_ids}
        used |= {diff_id for held in self._holders.values() for diff_id in held}
        gone = {diff_id for image_id in doomed for diff_id in self._images[image_id].diff_ids} - used
        return sum(self._layers[diff_id].size for diff_id in gone)

    async def sweep(self) -> None:
        """Remove the layers that no image and no holder has; when all holders are known."""
        async with self._lock:
            await self._drop_unused(list(self._layers))

    async def _drop_unused(self, diff_ids: Iterable[str]) -> None:
        """Raises OSError where one of these stays; who asked for others, which stayed before, has been told."""
        asked = set(diff_ids)
        failure: OSError | None = None
        self._doomed |= asked | self._overdue()
        for diff_id in sorted(self._doomed):
            # Looked at for each anew: a pull may have come to want it while another was being removed.
            if diff_id not in self._used() and (layer := self._layers.pop(diff_id, None)) is not None:
                try:
                    await asyncio.to_thread(self._remove_layer, _hex(diff_id))
                except OSError as error:
                    log.warning(
                        "layer %s cannot be removed: %s: it is tried again with the next removal", diff_id, error
                    )
                    failure = failure or (error if diff_id in asked else None)
                    if os.path.isdir(self.layer_directory(diff_id)):  # noqa: ASYNC240 - one stat
                        self._layers[diff_id] = layer
                    continue
            self._doomed.discard(diff_id)
        if failure is not None:
            raise failure

    def _used(self) -> set[str]:
        used = {diff_id for image in self._images.values() for diff_id in image.diff_ids}
        return used.union(*self._holders.values())

    def _remove_layer(self, name: str) -> None:
        # Out of sight first: a crash in the middle of removing must not leave half a layer under its name.
        doomed = self.incoming(f"removed-{name}")
        files.rename(f"{self.root}/layers/{name}", doomed)
        files.remove_tree(doomed)

    def incoming(self, name: str) -> str:
        """A path on the store's filesystem for something unfinished; emptied at start."""
        return f"{self.root}/incoming/{name}-{time.time_ns()}"

    async def add_layer(self, diff_id: str, directory: str, layer: LayerRecord) -> None:
        """Take a directory that holds a finished, durable fs/ as the layer of that diff id."""
        await to_the_end(self._enter_layer(diff_id, directory, layer))

    async def _enter_layer(self, diff_id: str, directory: str, layer: LayerRecord) -> None:
        async with self._lock:
            if diff_id in self._layers:
                await asyncio.to_thread(files.remove_tree, directory)
                return
            await asyncio.to_thread(self._add_layer, _hex(diff_id), directory, layer)
            self._layers[diff_id] = layer

    def _add_layer(self, name: str, directory: str, layer: LayerRecord) -> None:
        files.write_atomic(f"{directory}/layer.json", layer.model_dump_json().encode())
        files.rename(directory, f"{self.root}/layers/{name}")
        files.sync_directory(f"{self.root}/layers")

    def layer(self, diff_id: str) -> LayerRecord:
        """What is known of a layer that is here."""
        return self._layers[diff_id]

    def layer_directory(self, diff_id: str) -> str:
        """Where a layer and what belongs to it are."""
        return f"{self.root}/layers/{_hex(diff_id)}"

    def layer_paths(self, diff_ids: Sequence[str]) -> list[str]:
        """Directories of the layers that show, in the order given; an empty one for an image without layers.

        overlayfs does not look at the mark of an opaque root: what lies below one is left out here.
        """
        if not diff_ids:
            return [f"{self.root}/empty"]
        lowest = max((place for place, diff_id in enumerate(diff_ids) if self._layers[diff_id].opaque), default=0)
        return [f"{self.layer_directory(diff_id)}/fs" for diff_id in diff_ids[lowest:]]

    def stack(self, diff_ids: Sequence[str]) -> LayerStack:
        """What a root filesystem of these layers is mounted from."""
        forms = frozenset(self._layers[diff_id].whiteouts for diff_id in diff_ids)
        return LayerStack(tuple(self.layer_paths(diff_ids)), forms)

    def usage(self) -> tuple[int, int]:
        """Bytes and inodes of all layers, as counted when they were unpacked."""
        layers = self._layers.values()
        return sum(layer.size for layer in layers), sum(layer.inodes for layer in layers)


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _with(names: tuple[str, ...], name: str | None) -> tuple[str, ...]:
    return names if name is None or name in names else (*names, name)
