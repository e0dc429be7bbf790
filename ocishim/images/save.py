"""Images written to a file: an OCI image layout as a tar, which is a docker-archive too (image-spec, image-layout.md).

Layers are made again from what was unpacked (recipe.py), uncompressed, and checked against their diff ids as they pass,
so that who loads the file gets images of the same ids.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import secrets
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ocishim.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from ocishim.images.recipe import tar_again
from ocishim.linux import files
from ocishim.spec import image as spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ocishim.images.store import ImageRecord, ImageStore

_LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Export:
    """An image and the names it is to be saved under."""

    image: ImageRecord
    tags: tuple[str, ...]


def layer_tar(store: ImageStore, diff_id: str) -> Iterator[bytes]:
    """A layer's tar, in pieces; complete and right when this ends. Blocks.

    Raises FailedPrecondition where what is on disk is no longer what was unpacked.
    """
    layer = store.layer(diff_id)
    if not layer.exact:
        raise FailedPrecondition(
            f"layer {diff_id} cannot be made again: its tar replaced a directory that it had brought itself"
        )
    replaced = [os.fsdecode(bytes.fromhex(name)) for name in layer.replaced]
    digest = hashlib.sha256()
    for piece in tar_again(store.layer_directory(diff_id), replaced):
        digest.update(piece)
        yield piece
    found = f"sha256:{digest.hexdigest()}"
    if found != diff_id:
        raise FailedPrecondition(
            f"layer {diff_id} was changed on disk: it has the digest {found} now; remove its images and pull them again"
        )


def save(store: ImageStore, exports: Sequence[Export], path: str, went_on: Callable[[int], None]) -> int:
    """Write the images into one file, which appears when it is whole; returns its bytes. Blocks.

    `went_on` is told of bytes as they are written and may raise, which ends it. Raises NotFound where path's directory
    is not there, ResourceExhausted where the disk is full, and what layer_tar raises.
    """
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "xb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                _write(store, exports, archive, went_on)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        os.rename(temporary, path)
        files.sync_directory(os.path.dirname(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(f"{path}: {error.strerror}") from error
        raise InvalidArgument(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(temporary)
    return size


def _write(
    store: ImageStore, exports: Sequence[Export], archive: tarfile.TarFile, went_on: Callable[[int], None]
) -> None:
    written: set[str] = set()
    entries: list[dict[str, Any]] = []
    docker: list[dict[str, Any]] = []
    for export in exports:
        image = export.image
        with open(store.config_path(image.id), "rb") as file:
            config = file.read()
        _check_config(image, config)
        for diff_id in dict.fromkeys(image.diff_ids):
            if diff_id not in written:
                _add(archive, _blob(diff_id), store.layer(diff_id).tar_size, layer_tar(store, diff_id), went_on)
                written.add(diff_id)
        manifest = json.dumps(_manifest(store, image, config)).encode()
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        for name, content in ((_blob(image.id), config), (_blob(digest), manifest)):
            if name not in written:
                _add(archive, name, len(content), iter([content]), went_on)
                written.add(name)
        entry = {"mediaType": spec.OCI_MANIFEST, "digest": digest, "size": len(manifest)}
        entries += [entry | {"annotations": _names(tag)} for tag in export.tags] or [entry]
        docker.append(
            {
                "Config": _blob(image.id),
                "RepoTags": list(export.tags),
                "Layers": [_blob(diff_id) for diff_id in image.diff_ids],
            }
        )
    index = {"schemaVersion": 2, "mediaType": spec.OCI_INDEX, "manifests": entries}
    for name, document in (
        ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
        ("index.json", index),
        ("manifest.json", docker),
    ):
        content = json.dumps(document).encode()
        _add(archive, name, len(content), iter([content]), went_on)


def _check_config(image: ImageRecord, config: bytes) -> None:
    found = f"sha256:{hashlib.sha256(config).hexdigest()}"
    if found != image.id:
        raise FailedPrecondition(f"the configuration of image {image.id} was changed on disk: it is {found} now")


def _manifest(store: ImageStore, image: ImageRecord, config: bytes) -> dict[str, object]:
    return {
        "schemaVersion": 2,
        "mediaType": spec.OCI_MANIFEST,
        "config": {"mediaType": spec.CONFIG_TYPES[0], "digest": image.id, "size": len(config)},
        "layers": [
            {"mediaType": _LAYER_TYPE, "digest": diff_id, "size": store.layer(diff_id).tar_size}
            for diff_id in image.diff_ids
        ],
    }


def _names(tag: str) -> dict[str, str]:
    """As the peers look for it, and as the specification has it."""
    return {"io.containerd.image.name": tag, "org.opencontainers.image.ref.name": tag}


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _add(
    archive: tarfile.TarFile, name: str, size: int, pieces: Iterator[bytes], went_on: Callable[[int], None]
) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    archive.addfile(member, _Pieces(pieces, went_on))
    # Only now has the iterator come to its last word.
    if next(pieces, None) is not None:
        raise FailedPrecondition(f"{name} is longer than the {size} bytes that it had when it was unpacked")


class _Pieces(io.RawIOBase):
    """An iterator as a file."""

    def __init__(self, pieces: Iterator[bytes], went_on: Callable[[int], None]) -> None:
        self._pieces = pieces
        self._went_on = went_on
        self._rest = bytearray()

    def read(self, size: int = -1) -> bytes:
        """Exactly size bytes, fewer at the end only."""
        while len(self._rest) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._rest += piece
        taken = bytes(self._rest[:size])
        del self._rest[:size]
        self._went_on(len(taken))
        return taken
