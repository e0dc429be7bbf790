"""Layers, images and layouts made on the spot."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import zstandard

from ocishim.images import hosts
from ocishim.spec import image as spec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **attributes: object) -> Member:
    """A tar's entry; attributes are TarInfo's."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(data)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.mtime = 1_000_000_000
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


def directory(name: str, **attributes: object) -> Member:
    """A directory."""
    return member(name, tarfile.DIRTYPE, b"", **attributes)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    """A symbolic link, or a hard one."""
    return member(name, kind, linkname=target)


def tar(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002 - tarfile's name for it
    """A tar of members in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def digest(content: bytes) -> str:
    """As registries write it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Image:
    """Documents and blobs of an image."""

    manifest: bytes
    config: bytes
    layers: list[bytes]
    diff_ids: list[str]
    media_type: str = spec.OCI_MANIFEST
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The manifest's."""
        return digest(self.manifest)

    @property
    def id(self) -> str:
        """The configuration's digest."""
        return digest(self.config)


_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda content: gzip.compress(content, mtime=0),
    "zstd": lambda content: zstandard.ZstdCompressor().compress(content),
    "none": bytes,
}
_SUFFIX = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}


def image(*tars: bytes, compression: str = "gzip", cmd: str = "sh", diff_ids: list[str] | None = None) -> Image:
    """An image of those layers, lowest first."""
    layers = [_COMPRESS[compression](content) for content in tars]
    diff_ids = [digest(content) for content in tars] if diff_ids is None else diff_ids
    config = json.dumps(
        {
            "architecture": hosts.architecture()[0],
            "os": "linux",
            "config": {"Cmd": [cmd]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    ).encode()
    layer_type = f"application/vnd.oci.image.layer.v1.tar{_SUFFIX[compression]}"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": spec.OCI_MANIFEST,
            "config": descriptor(config, spec.CONFIG_TYPES[0]),
            "layers": [descriptor(layer, layer_type) for layer in layers],
        }
    ).encode()
    blobs = {digest(content): content for content in (config, manifest, *layers)}
    return Image(manifest, config, layers, diff_ids, blobs=blobs)


def descriptor(content: bytes, media_type: str) -> dict[str, object]:
    """What points to the content."""
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}


def index(*images: tuple[Image, str, str]) -> bytes:
    """An index of images, each with its architecture and variant."""
    entries = [
        descriptor(each.manifest, each.media_type)
        | {"platform": {"os": "linux", "architecture": architecture, "variant": variant}}
        for each, architecture, variant in images
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": spec.OCI_INDEX, "manifests": entries}).encode()


def write_layout(path: Path, made: Image, name: str | None = None) -> Path:
    """An OCI layout directory of one image."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for key, content in made.blobs.items():
        (blobs / key.removeprefix("sha256:")).write_bytes(content)
    entry = descriptor(made.manifest, made.media_type)
    if name is not None:
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return path


def tree(root: str) -> dict[str, str]:
    """Every name below root with its kind and content."""
    found = {}
    for parent, directories, names in os.walk(root):
        for each in (*directories, *names):
            path = f"{parent}/{each}"
            if os.path.islink(path):
                what = f"-> {os.readlink(path)}"
            elif os.path.isdir(path):
                what = "/"
            elif os.path.isfile(path):
                with open(path, encoding="utf-8", errors="replace") as file:
                    what = f"= {file.read()}"
            elif not os.path.lexists(path):
                continue  # overlayfs lists a whiteout where no layer below has the directory
            else:
                what = f"{os.lstat(path).st_mode:o}"
            found[os.path.relpath(path, root)] = what
    return found


def content(path: str) -> bytes:
    """A file's."""
    with open(path, "rb") as file:
        return file.read()
