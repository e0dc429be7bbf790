"""Image indexes, manifests and configurations: OCI image-spec 1.1 and Docker's schema 2, which is alike.

Lenient where the wild is (null lists, unknown keys), strict in what safety rests on: digests and sizes.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel, to_pascal

from ocishim.errors import InvalidArgument

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
INDEX_TYPES: Final = (OCI_INDEX, DOCKER_LIST)
MANIFEST_TYPES: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
CONFIG_TYPES: Final = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    # Of registries and builders from the first years.
    "application/octet-stream",
    "",
)
LARGEST_MANIFEST: Final = 4 << 20
MOST_LAYERS: Final = 500

T = TypeVar("T", bound=BaseModel)


def _list(value: object) -> object:
    return [] if value is None else value


def _table(value: object) -> object:
    return {} if value is None else value


def _string(value: object) -> object:
    return "" if value is None else value


Strings = Annotated[list[str], BeforeValidator(_list)]
Table = Annotated[dict[str, str], BeforeValidator(_table)]
Text = Annotated[str, BeforeValidator(_string)]
DigestText = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Camel(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel, populate_by_name=True)


class Platform(_Camel):
    """What an index's entry is for."""

    architecture: Text = ""
    os: Text = ""
    variant: Text = ""


class Descriptor(_Camel):
    """A reference to content by digest and size."""

    media_type: Text = ""
    digest: DigestText
    size: Annotated[int, Field(ge=0, le=2**50)]
    annotations: Table = {}
    platform: Platform | None = None


class Index(_Camel):
    """An image index or manifest list."""

    media_type: Text = ""
    manifests: Annotated[list[Descriptor], BeforeValidator(_list)] = []


class Manifest(_Camel):
    """An image manifest."""

    media_type: Text = ""
    config: Descriptor
    layers: Annotated[list[Descriptor], Field(max_length=MOST_LAYERS), BeforeValidator(_list)] = []
    annotations: Table = {}


class _Outline(_Camel):
    """As much of a document as tells what it is."""

    schema_version: object = None
    media_type: Text = ""
    manifests: object = None
    layers: object = None
    config: object = None
    fs_layers: object = None


class RunConfig(BaseModel):
    """The `config` of an image configuration: defaults of its containers."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_pascal, populate_by_name=True)

    user: Text = ""
    env: Strings = []
    entrypoint: Strings = []
    cmd: Strings = []
    working_dir: Text = ""
    stop_signal: Text = ""
    labels: Table = {}
    volumes: Annotated[dict[str, object], BeforeValidator(_table)] = {}


class RootFs(BaseModel):
    """Which layers make up the root filesystem, lowest first, by the digest of their uncompressed tar."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: str = "layers"
    diff_ids: Annotated[list[DigestText], Field(max_length=MOST_LAYERS), BeforeValidator(_list)] = []


class ImageConfig(BaseModel):
    """An image configuration; the digest of its bytes is the image's id."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    architecture: Text = ""
    os: Text = ""
    variant: Text = ""
    config: Annotated[RunConfig, BeforeValidator(_table)] = RunConfig()
    rootfs: RootFs


def parse(model: type[T], content: bytes, what: str) -> T:
    """Read a document. Raises InvalidArgument that says which document and what is wrong with it."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidArgument(f"{what}: {where}: {first['msg']}") from error


def check_digest(content: bytes, descriptor: Descriptor) -> None:
    """Raises InvalidArgument where content is not what the descriptor says."""
    if len(content) != descriptor.size:
        raise InvalidArgument(f"{descriptor.digest} has {len(content)} bytes, its descriptor says {descriptor.size}")
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if found != descriptor.digest:
        raise InvalidArgument(f"{descriptor.digest} has the digest {found}")


def document_type(content: bytes, claimed: str, what: str) -> str:
    """Which of INDEX_TYPES and MANIFEST_TYPES a document is; `claimed` is what its sender or descriptor says.

    Raises InvalidArgument where it is neither or could be read as both (CVE-2021-41190 was such a document).
    """
    outline = parse(_Outline, content, what)
    if outline.schema_version == 1 or outline.fs_layers is not None:
        raise InvalidArgument(f"{what} is a Docker schema 1 manifest, which is no longer read: push the image again")
    if outline.manifests is not None and (outline.layers is not None or outline.config is not None):
        raise InvalidArgument(f"{what} claims to be an index and a manifest at once")
    known = (*INDEX_TYPES, *MANIFEST_TYPES)
    found = outline.media_type or (claimed if claimed in known else "")
    if not found:
        found = OCI_INDEX if outline.manifests is not None else OCI_MANIFEST if outline.config is not None else ""
    if found not in known:
        raise InvalidArgument(f"{what} is of type {found or claimed!r}, not an image manifest or index")
    if claimed in known and claimed != found:
        raise InvalidArgument(f"{what} says it is {found}, and was sent as {claimed}")
    if (found in INDEX_TYPES) != (outline.manifests is not None):
        raise InvalidArgument(f"{what} is of type {found} and does not hold what that must")
    return found


def choose_platform(index: Index, architecture: str, variant: str = "") -> Descriptor | None:
    """The index's entry for Linux on this architecture: the exact variant, else an older one, none named, the first."""
    matches = [
        entry
        for entry in index.manifests
        if entry.platform is not None and entry.platform.os == "linux" and entry.platform.architecture == architecture
    ]
    older = [f"v{number}" for number in range(int(variant[1:]) - 1, 4, -1)] if re.fullmatch(r"v[0-9]", variant) else []
    for wanted in (variant, *older, ""):
        for entry in matches:
            if entry.platform is not None and entry.platform.variant == wanted:
                return entry
    if matches:
        return matches[0]
    unnamed = [entry for entry in index.manifests if entry.platform is None]
    return unnamed[0] if len(unnamed) == 1 and len(index.manifests) == 1 else None
