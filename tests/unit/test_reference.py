"""Image references are read as the ecosystem reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.errors import InvalidArgument
from ocishim.spec import reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/team/app:v1", "docker.io/team/app:v1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
        ("Registry/app", "Registry/app:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}"),
        ("a__b/c---d.e", "docker.io/a__b/c---d.e:latest"),
    ],
)
def test_a_reference_is_normalised(text: str, normal: str) -> None:
    assert str(reference.parse(text)) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "@",
        "/",
        "Busybox",
        "busybox:",
        "busybox:tag with space",
        "busybox:" + "t" * 129,
        "busybox@sha256:abc",
        "busybox@md5:" + "a" * 32,
        f"@{DIGEST}",
        "../etc/passwd",
        "localhost/../a",
        "a//b",
        "a/b/",
        "-a/b",
        "host.example:99999999/a",
        "a" * 256,
        "busybox\n",
        "busybox:latest\n",
        "https://host.example/a",
        "host.example/a?b",
        "a..b",
        "a_-b",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="image reference"):
        reference.parse(text)


@given(st.text(max_size=300))
def test_anything_is_either_refused_or_normal_once_and_for_all(text: str) -> None:
    try:
        parsed = reference.parse(text)
    except InvalidArgument:
        return
    assert reference.parse(str(parsed)) == parsed
    assert ".." not in str(parsed).split("/")


def test_names_of_a_reference() -> None:
    both = reference.parse(f"busybox:1@{DIGEST}")
    assert (both.name, both.tagged, both.digested) == (
        "docker.io/library/busybox",
        "docker.io/library/busybox:1",
        f"docker.io/library/busybox@{DIGEST}",
    )
    assert reference.parse(f"busybox@{DIGEST}").tagged is None
    assert reference.parse("busybox").digested is None
