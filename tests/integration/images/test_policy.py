"""Signature policies where they count: in a pull, before anything of the image is taken in."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ocishim.config import ImageSettings
from ocishim.errors import FailedPrecondition, OcishimError, PermissionDenied
from ocishim.images import hosts
from ocishim.images.pull import Puller
from ocishim.images.registry import Patience
from ocishim.spec import image as spec

from . import making
from .registries import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ocishim.images.store import ImageStore

KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
MADE = making.image(making.tar(making.member("a", data=b"content")))


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    """One that has the image, unsigned."""
    async with FakeRegistry().serving() as made:
        made.add("made", MADE)
        yield made


def _sign(registry: FakeRegistry, digest: str, key: ec.EllipticCurvePrivateKey = KEY) -> None:
    """As `cosign sign` does."""
    critical = {
        "identity": {"docker-reference": f"{registry.host}/made"},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    payload = json.dumps({"critical": critical, "optional": None}).encode()
    signature = base64.b64encode(key.sign(payload, ec.ECDSA(hashes.SHA256()))).decode()
    layer = making.descriptor(payload, "application/vnd.dev.cosign.simplesigning.v1+json")
    config = b"{}"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": spec.OCI_MANIFEST,
            "config": making.descriptor(config, spec.CONFIG_TYPES[0]),
            "layers": [layer | {"annotations": {"dev.cosignproject.cosign/signature": signature}}],
        }
    ).encode()
    registry.manifests[digest.replace(":", "-") + ".sig"] = (manifest, spec.OCI_MANIFEST)
    registry.blobs[making.digest(payload)] = payload


async def _pull(registry: FakeRegistry, store: ImageStore, place: Path, *rules: dict[str, object]) -> None:
    policy = place / "policy.json"
    policy.write_text(
        json.dumps({"default": [{"type": "reject"}], "transports": {"docker": {f"{registry.host}/made": rules}}})
    )
    puller = Puller(store, ImageSettings(policy=str(policy)), Patience(attempts=1))
    try:
        await puller.pull(f"{registry.host}/made:latest", None)
    finally:
        await puller.close()


SIGNED: dict[str, object] = {
    "type": "sigstoreSigned",
    "keyData": base64.b64encode(PEM).decode(),
    "signedIdentity": {"type": "matchRepository"},
}


async def test_a_signed_image_is_taken(registry: FakeRegistry, store: ImageStore, place: Path) -> None:
    _sign(registry, MADE.digest)
    await _pull(registry, store, place, SIGNED)
    assert store.find(f"{registry.host}/made:latest") is not None


async def test_a_signature_of_the_index_counts_for_its_images(
    registry: FakeRegistry, store: ImageStore, place: Path
) -> None:
    index = making.index((MADE, *hosts.architecture()))
    registry.manifests["latest"] = (index, spec.OCI_INDEX)
    with pytest.raises(PermissionDenied):
        await _pull(registry, store, place, SIGNED)
    _sign(registry, making.digest(index))
    await _pull(registry, store, place, SIGNED)


def _unsigned(_: FakeRegistry) -> None:
    pass


def _by_another_key(registry: FakeRegistry) -> None:
    _sign(registry, MADE.digest, ec.generate_private_key(ec.SECP256R1()))


def _of_another_image(registry: FakeRegistry) -> None:
    _sign(registry, "sha256:" + "0" * 64)
    registry.manifests[MADE.digest.replace(":", "-") + ".sig"] = registry.manifests[f"sha256-{'0' * 64}.sig"]


def _garbage(registry: FakeRegistry) -> None:
    registry.manifests[MADE.digest.replace(":", "-") + ".sig"] = (b'{"layers": 7}', spec.OCI_MANIFEST)


@pytest.mark.parametrize("sign", [_unsigned, _by_another_key, _of_another_image, _garbage])
async def test_an_image_without_a_right_signature_is_refused_and_nothing_of_it_stays(
    registry: FakeRegistry,
    store: ImageStore,
    place: Path,
    sign: Callable[[FakeRegistry], None],
    assert_nothing_stays: Callable[[ImageStore], None],
) -> None:
    sign(registry)
    with pytest.raises(OcishimError, match=r"^SignatureValidationFailed: "):
        await _pull(registry, store, place, SIGNED)
    assert_nothing_stays(store)
    assert not any(making.digest(MADE.layers[0]) in request.path for request in registry.requests)


async def test_rejected_and_accepted_images(registry: FakeRegistry, store: ImageStore, place: Path) -> None:
    with pytest.raises(PermissionDenied, match=f"SignatureValidationFailed: {registry.host}/made:latest"):
        await _pull(registry, store, place, {"type": "reject"})
    await _pull(registry, store, place, {"type": "insecureAcceptAnything"})


async def test_a_policy_that_cannot_be_read_lets_nothing_in(
    registry: FakeRegistry, store: ImageStore, place: Path
) -> None:
    with pytest.raises(FailedPrecondition, match=r"SignatureValidationFailed: .*policy\.json"):
        await _pull(registry, store, place, {"type": "unheard"})
    assert store.records() == []
