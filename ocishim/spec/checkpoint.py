"""What lies in a checkpoint, by the names and in the form that CRI-O and checkpointctl know.

A container's checkpoint is a tar, or the root of an image, with config.dump and spec.dump (what it was),
rootfs-diff.tar and deleted.files (what it has changed of its image), bind.mounts (what it needs of its host),
checkpoint/ (the processes, by CRIU) and logs. A pod's is a directory with pod.options, pod.dump and a tar a container.
"""

from __future__ import annotations

import posixpath
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from ocishim.errors import InvalidArgument

CONFIG: Final = "config.dump"
SPEC: Final = "spec.dump"
BIND_MOUNTS: Final = "bind.mounts"
DELETED: Final = "deleted.files"
ROOTFS: Final = "rootfs-diff.tar"
IMAGES: Final = "checkpoint"
"""The directory of CRIU's own files."""
DUMP_LOG: Final = "dump.log"
STATS: Final = "stats-dump"
LOG: Final = "io.kubernetes.cri-o.LogPath"
"""The container's log until then."""
POD_OPTIONS: Final = "pod.options"
POD: Final = "pod.dump"
ANNOTATIONS: Final = ("org.criu.checkpoint.container.name", "io.kubernetes.cri-o.annotations.checkpoint.name")
"""An image with one of these is a checkpoint of the container of that name."""
LARGEST_DOCUMENT: Final = 16 << 20

T = TypeVar("T")


def _list(value: object) -> object:
    return [] if value is None else value


def _table(value: object) -> object:
    return {} if value is None else value


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class ConfigDump(_Lenient):
    """config.dump: which container it was, and which image its root filesystem is of."""

    id: str
    name: str
    rootfs_image: str = Field(default="", alias="rootfsImage")
    """As the user wrote it."""
    rootfs_image_ref: str = Field(default="", alias="rootfsImageRef")
    """The image's id."""
    rootfs_image_name: str = Field(default="", alias="rootfsImageName")
    runtime: str = ""
    created: str = Field(default="", alias="createdTime")
    """RFC 3339, like the next."""
    checkpointed: str = Field(default="", alias="checkpointedTime")
    restored: bool = False


class DumpedProcess(_Lenient):
    """process of spec.dump."""

    terminal: bool = False
    args: Annotated[list[str], BeforeValidator(_list)] = []
    env: Annotated[list[str], BeforeValidator(_list)] = []
    cwd: str = "/"


class DumpedMount(_Lenient):
    """mounts[] of spec.dump."""

    destination: str
    type: str = ""
    source: str = ""


class SpecDump(_Lenient):
    """spec.dump: the config.json it ran by, as much of it as is looked at."""

    process: DumpedProcess
    mounts: Annotated[list[DumpedMount], BeforeValidator(_list)] = []
    annotations: Annotated[dict[str, str], BeforeValidator(_table)] = {}


class BindMount(_Lenient):
    """bind.mounts[]: something of the host, which must be of the same kind where it is restored."""

    source: str
    destination: str
    file_type: str
    """directory or file."""
    permissions: int


class PodOptions(_Lenient):
    """pod.options: the pod's containers, by name the file that holds each one's checkpoint."""

    version: int = 1
    containers: dict[str, str]


_CONFIG: Final = TypeAdapter(ConfigDump)
_SPEC: Final = TypeAdapter(SpecDump)
_DELETED: Final = TypeAdapter(list[str])
_POD_OPTIONS: Final = TypeAdapter(PodOptions)


class Dumps(BaseModel):
    """The two documents without which nothing is restored."""

    model_config = ConfigDict(frozen=True)

    config: ConfigDump
    spec: SpecDump


def parse_dumps(config: bytes | None, spec: bytes | None, what: str) -> Dumps:
    """Read config.dump and spec.dump. Raises InvalidArgument that names `what` and what is wrong with it."""
    missing = [name for name, content in ((CONFIG, config), (SPEC, spec)) if content is None]
    if config is None or spec is None:
        raise InvalidArgument(f"{what} is no checkpoint of a container: it has no {' and no '.join(missing)}")
    return Dumps(config=_parse(_CONFIG, config, f"{what}: {CONFIG}"), spec=_parse(_SPEC, spec, f"{what}: {SPEC}"))


def parse_deleted(content: bytes, what: str) -> list[str]:
    """Read deleted.files. Raises InvalidArgument."""
    return [inside(path, f"{what}: {DELETED}") for path in _parse(_DELETED, content, f"{what}: {DELETED}")]


def parse_pod_options(content: bytes, what: str) -> PodOptions:
    """Read pod.options. Raises InvalidArgument, also for a container's file that is not beside it."""
    options = _parse(_POD_OPTIONS, content, f"{what}: {POD_OPTIONS}")
    if options.version != 1:
        raise InvalidArgument(f"{what}: {POD_OPTIONS}: version {options.version} is not known")
    for file in options.containers.values():
        if not file or "/" in file or file in (".", ".."):
            raise InvalidArgument(f"{what}: {POD_OPTIONS}: {file!r} is no name of a file")
    return options


def _parse(adapter: TypeAdapter[T], content: bytes, what: str) -> T:
    try:
        return adapter.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidArgument(f"{what}: {where}: {first['msg']}" if where else f"{what}: {first['msg']}") from error


def inside(name: str, what: str) -> str:
    """A name relative to the top, normalised; empty for the top itself. Raises InvalidArgument where it leads out."""
    normal = posixpath.normpath(name.lstrip("/")) if name.strip("/") else "."
    if normal.split("/")[0] == ".." or "\0" in name:
        raise InvalidArgument(f"{what}: {name!r} leads out of it")
    return "" if normal == "." else normal
