"""Image indexes, manifests and configurations: OCI image-spec 1.1 and Docker's schema 2, which is alike.

Lenient where the wild is (null lists, unknown keys), strict in what safety rests on: digests and sizes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel, to_pascal

from ocishim.errors import InvalidArgument

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
INDEX_TYPES: Final = (OCI_INDEX, DOCKER_LIST)
MANIFEST_TYPES: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
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


def kind(content: bytes, media_type: str, what: str) -> Literal["index", "manifest"]:
    """Which of the two a document is. Raises InvalidArgument for neither, or for one that claims to be both.

    The type is said twice, by the registry and in the document; where the two differ, the one digest stands for
    two images (CVE-2021-41190).
    """
    try:
        document = json.loads(content)
    except ValueError as error:
        raise InvalidArgument(f"{what}: the registry's answer is no manifest: {content[:80]!r}") from error
    if not isinstance(document, dict):
        raise InvalidArgument(f"{what}: the registry's answer is no manifest: {content[:80]!r}")
    said = document.get("mediaType") or media_type
    if said not in (*INDEX_TYPES, *MANIFEST_TYPES):
        said = OCI_INDEX if "manifests" in document else OCI_MANIFEST if "layers" in document else said
    if said not in (*INDEX_TYPES, *MANIFEST_TYPES):
        raise InvalidArgument(f"{what}: manifests of type {said!r} are not supported")
    is_index = said in INDEX_TYPES
    if (is_index and "layers" in document) or (not is_index and "manifests" in document):
        raise InvalidArgument(f"{what}: the manifest claims to be an index and an image at once")
    return "index" if is_index else "manifest"


def check_digest(content: bytes, descriptor: Descriptor) -> None:
    """Raises InvalidArgument where content is not what the descriptor says."""
    if len(content) != descriptor.size:
        raise InvalidArgument(f"{descriptor.digest} has {len(content)} bytes, its descriptor says {descriptor.size}")
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if found != descriptor.digest:
        raise InvalidArgument(f"{descriptor.digest} has the digest {found}")


def choose_platform(index: Index, architecture: str, variant: str = "") -> Descriptor | None:
    """The index's entry for Linux on this architecture: the exact variant, else none named, else the first."""
    matches = [
        entry
        for entry in index.manifests
        if entry.platform is not None and entry.platform.os == "linux" and entry.platform.architecture == architecture
    ]
    for wanted in (variant, ""):
        for entry in matches:
            if entry.platform is not None and entry.platform.variant == wanted:
                return entry
    if matches:
        return matches[0]
    unnamed = [entry for entry in index.manifests if entry.platform is None]
    return unnamed[0] if len(unnamed) == 1 and len(index.manifests) == 1 else None
