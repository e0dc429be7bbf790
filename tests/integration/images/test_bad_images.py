"""Images whose documents are no use are refused, with nothing of them left."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from ocishim.config import ImageSettings
from ocishim.errors import InvalidArgument
from ocishim.images.pull import Puller
from ocishim.images.registry import Patience
from ocishim.spec import image as spec

from .making import Image, descriptor, digest, image, member, tar
from .registries import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocishim.images.store import ImageStore

ONE = tar(member("one", data=b"1"))


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry().serving() as serving:
        yield serving


@pytest.fixture
async def puller(store: ImageStore) -> AsyncIterator[Puller]:
    made = Puller(store, ImageSettings(pull_progress_timeout=5), Patience(attempts=2, first=0.01))
    yield made
    await made.close()


def rewritten(made: Image, old: bytes, new: bytes) -> Image:
    """The image with another manifest."""
    assert old in made.manifest
    made.manifest = made.manifest.replace(old, new)
    return made


def with_config(made: Image, config: dict[str, object]) -> Image:
    """The image with another configuration."""
    content = json.dumps(config).encode()
    old = json.dumps(descriptor(made.config, spec.CONFIG_TYPES[0])).encode()
    made = rewritten(made, old, json.dumps(descriptor(content, spec.CONFIG_TYPES[0])).encode())
    made.config = content
    made.blobs[digest(content)] = content
    return made


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architecture": "amd64", "os": "linux"}, "rootfs: Field required"),
        ({"rootfs": None}, "rootfs"),
        ({"rootfs": {"diff_ids": [digest(ONE)] * 10_000}}, "rootfs.diff_ids: .*at most 500"),
        ({"rootfs": {"diff_ids": []}}, "1 layers and 0 diff ids"),
        ({"rootfs": {"diff_ids": ["sha256:../../x"]}}, "rootfs.diff_ids.0"),
    ],
)
async def test_a_configuration_that_describes_no_root_is_refused(
    registry: FakeRegistry, puller: Puller, store: ImageStore, config: dict[str, object], words: str
) -> None:
    made = with_config(image(ONE), config)
    with pytest.raises(InvalidArgument, match=words):
        await puller.pull(registry.add("a", made), None)
    assert (store.records(), store.usage()) == ([], (0, 0))


async def test_a_manifest_of_ten_thousand_layers_is_refused(registry: FakeRegistry, puller: Puller) -> None:
    made = image(ONE)
    manifest = json.loads(made.manifest)
    manifest["layers"] *= 10_000
    made.manifest = json.dumps(manifest).encode()
    with pytest.raises(InvalidArgument, match=r"layers: .*at most 500"):
        await puller.pull(registry.add("a", made), None)


@pytest.mark.parametrize(
    ("media_type", "words"),
    [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "foreign"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "foreign"),
        ("application/vnd.example.layer", "no kind this server knows"),
    ],
)
async def test_a_layer_that_is_kept_elsewhere_or_of_unknown_kind_is_refused_before_any_is_fetched(
    registry: FakeRegistry, puller: Puller, media_type: str, words: str
) -> None:
    made = rewritten(image(ONE), b"application/vnd.oci.image.layer.v1.tar+gzip", media_type.encode())
    with pytest.raises(InvalidArgument, match=words):
        await puller.pull(registry.add("a", made), None)
    assert registry.fetched()[digest(made.layers[0])] == 0


async def test_a_document_without_end_is_cut_off(registry: FakeRegistry, puller: Puller) -> None:
    sent = 0

    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": spec.OCI_MANIFEST, "Content-Length": str(1 << 30)})
        await response.prepare(request)
        while request.transport is not None:
            await response.write(b" " * (1 << 20))
            sent += 1 << 20
        return response

    registry.misbehave = misbehave
    with pytest.raises(InvalidArgument, match="more than"):
        await puller.pull(f"{registry.host}/a", None)
    assert sent < 64 << 20
