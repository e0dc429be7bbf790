"""Indexes, manifests and configurations: what is read, what is chosen, what is refused."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.errors import InvalidArgument
from ocishim.spec import image

EMPTY = {"mediaType": "x", "digest": "sha256:" + "0" * 64, "size": 0}


def index(*platforms: tuple[str, str, str] | None) -> image.Index:
    """Entries told apart by their digests' last digit."""
    manifests = []
    for number, platform in enumerate(platforms):
        entry: dict[str, object] = EMPTY | {"digest": f"sha256:{number:064}"}
        if platform is not None:
            entry["platform"] = dict(zip(("os", "architecture", "variant"), platform, strict=True))
        manifests.append(entry)
    return image.Index.model_validate({"manifests": manifests})


@pytest.mark.parametrize(
    ("platforms", "wanted", "chosen"),
    [
        ([("windows", "amd64", ""), ("linux", "amd64", "")], ("amd64", ""), 1),
        ([("linux", "arm", "v5"), ("linux", "arm", "v6"), ("linux", "arm", "v7")], ("arm", "v7"), 2),
        ([("linux", "arm", "v5"), ("linux", "arm", "v6"), ("linux", "arm", "v8")], ("arm", "v7"), 1),
        ([("linux", "arm64", "v9"), ("linux", "arm64", "")], ("arm64", "v8"), 1),
        ([("linux", "amd64", "v3"), ("linux", "amd64", "")], ("amd64", ""), 1),
        ([("unknown", "unknown", ""), ("linux", "amd64", "")], ("amd64", ""), 1),
        ([None], ("amd64", ""), 0),
    ],
)
def test_the_entry_that_fits_this_machine_best_is_chosen(
    platforms: list[tuple[str, str, str] | None], wanted: tuple[str, str], chosen: int
) -> None:
    found = image.choose_platform(index(*platforms), *wanted)
    assert found is not None
    assert found.digest == f"sha256:{chosen:064}"


def test_no_entry_is_chosen_where_none_fits() -> None:
    assert image.choose_platform(index(("linux", "s390x", "")), "amd64") is None
    assert image.choose_platform(index(None, None), "amd64") is None
    assert image.choose_platform(index(), "amd64") is None


@pytest.mark.parametrize(
    ("document", "claimed", "kind"),
    [
        ({"mediaType": image.OCI_INDEX, "manifests": []}, "", image.OCI_INDEX),
        ({"manifests": []}, image.DOCKER_LIST, image.DOCKER_LIST),
        ({"manifests": []}, "application/json", image.OCI_INDEX),
        ({"config": EMPTY, "layers": []}, "text/plain", image.OCI_MANIFEST),
        ({"mediaType": image.DOCKER_MANIFEST, "config": EMPTY, "layers": []}, "", image.DOCKER_MANIFEST),
    ],
)
def test_a_document_tells_what_it_is(document: dict[str, object], claimed: str, kind: str) -> None:
    assert image.document_type(json.dumps(document).encode(), claimed, "it") == kind


@pytest.mark.parametrize(
    ("document", "claimed", "words"),
    [
        ({"schemaVersion": 1}, "", "schema 1"),
        ({"manifests": [], "layers": []}, "", "at once"),
        ({"manifests": [], "config": {}}, "", "at once"),
        ({"manifests": []}, image.OCI_MANIFEST, "does not hold"),
        ({"config": {}}, image.OCI_INDEX, "does not hold"),
        ({"mediaType": image.OCI_INDEX, "manifests": []}, image.OCI_MANIFEST, "was sent as"),
        ({"mediaType": "application/vnd.cncf.helm"}, "", "helm"),
        ({}, "", "not an image"),
        ([], "", "it: "),
    ],
)
def test_a_document_of_two_minds_is_refused(document: object, claimed: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        image.document_type(json.dumps(document).encode(), claimed, "it")


@given(st.binary(max_size=200))
def test_garbage_is_refused_in_our_words(content: bytes) -> None:
    for model in (image.Index, image.Manifest, image.ImageConfig):
        try:
            image.parse(model, content, "garbage")
        except InvalidArgument as error:
            assert str(error).startswith("garbage")  # noqa: PT017 - most garbage is refused, not all


def test_null_is_read_as_empty_where_builders_write_it() -> None:
    content = b'{"config": {"Env": null, "Cmd": null, "Labels": null, "User": null}, "rootfs": {"diff_ids": null}}'
    config = image.parse(image.ImageConfig, content, "it")
    assert (config.config.env, config.config.cmd, config.config.labels, config.config.user) == ([], [], {}, "")
    assert config.rootfs.diff_ids == []


def test_content_is_held_against_digest_and_size() -> None:
    digest = f"sha256:{hashlib.sha256(b'content').hexdigest()}"
    image.check_digest(b"content", image.Descriptor(digest=digest, size=7))
    for content, size in ((b"content", 8), (b"CONTENT", 7)):
        with pytest.raises(InvalidArgument, match=digest):
            image.check_digest(content, image.Descriptor(digest=digest, size=size))


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "A" * 64, "sha256:../../etc/passwd", "md5:" + "0" * 64])
def test_a_digest_that_is_none_is_refused(digest: str) -> None:
    with pytest.raises(InvalidArgument, match="digest"):
        image.parse(image.Manifest, json.dumps({"config": EMPTY | {"digest": digest}}).encode(), "it")
