"""Docker's config.json, and that no secret of it is ever quoted."""

from __future__ import annotations

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.errors import InvalidArgument
from ocishim.spec.auth_file import Entry, Helper, is_same_registry, parse, parse_helper


def _auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def _parse(document: object) -> object:
    return parse(json.dumps(document).encode(), "config.json")


FILE = parse(
    json.dumps(
        {
            "auths": {
                "a.example": _auth("host:1"),
                "a.example/team": _auth("team:2"),
                "a.example/team/image": _auth("image:3"),
                "https://b.example:5000/v2/": _auth("url:4"),
                "https://index.docker.io/v1/": _auth("hub:5"),
                "token.example": {"auth": base64.b64encode(b"<token>:refresh").decode()},
                "identity.example": {**_auth("name:pw"), "identitytoken": "id"},
                "registry.example": {"registrytoken": "bearer"},
                "plain.example": {"username": "u", "password": "p", "email": "e"},
                "empty.example": {},
                "null.example": None,
            },
            "credHelpers": {"helped.example": "ecr-login", "a.example/other": "never"},
            "credsStore": "pass",
            "psFormat": "table",
        }
    ).encode(),
    "config.json",
)


@pytest.mark.parametrize(
    ("domain", "path", "found"),
    [
        ("a.example", "x", Entry("host", "1")),
        ("a.example", "team/x", Entry("team", "2")),
        ("a.example", "teamwork", Entry("host", "1")),
        ("a.example", "team/image", Entry("image", "3")),
        ("a.example", "team/image/deeper", Entry("image", "3")),
        ("b.example:5000", "x", Entry("url", "4")),
        ("docker.io", "library/busybox", Entry("hub", "5")),
        ("token.example", "x", Entry(identity_token="refresh")),
        ("identity.example", "x", Entry("name", "pw", "id")),
        ("registry.example", "x", Entry(registry_token="bearer")),
        ("plain.example", "x", Entry("u", "p")),
        ("helped.example", "x", Helper("ecr-login", "helped.example")),
        ("empty.example", "x", Helper("pass", "empty.example")),
        ("null.example", "x", Helper("pass", "null.example")),
        ("b.example", "x", Helper("pass", "b.example")),
    ],
)
def test_the_longest_key_counts_then_the_store(domain: str, path: str, found: object) -> None:
    assert FILE.lookup(domain, path) == found


def test_the_hub_is_asked_for_as_docker_asks() -> None:
    file = parse(b'{"credHelpers": {"index.docker.io": "one"}}', "config.json")
    assert file.lookup("docker.io", "x") == Helper("one", "https://index.docker.io/v1/")
    assert parse(b"{}", "config.json").lookup("docker.io", "x") is None


@pytest.mark.parametrize(
    "document",
    [
        {"auths": {"a": {"auth": "sesame"}}},
        {"auths": {"a": {"auth": base64.b64encode(b"sesame").decode()}}},
        {"auths": {"a": {"password": ["sesame"]}}},
        {"auths": "sesame"},
        {"credsStore": "/bin/evil"},
        {"credHelpers": {"a": "../evil"}},
        ["sesame"],
    ],
)
def test_what_is_wrong_is_named_and_not_quoted(document: object) -> None:
    with pytest.raises(InvalidArgument, match=r"config\.json") as caught:
        _parse(document)
    assert "sesame" not in str(caught.value)
    assert base64.b64encode(b"sesame").decode() not in str(caught.value)


def test_no_secret_is_in_a_repr() -> None:
    assert "s3cret" not in repr(Entry("user", "s3cret", "s3cret", "s3cret"))


@given(st.binary(max_size=200))
def test_anything_is_read_or_refused(content: bytes) -> None:
    for read in (parse, parse_helper):
        with suppress(InvalidArgument):
            read(content, "config.json")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["auths", "auth", "a", "credHelpers", "credsStore"]), inner, max_size=3)
        ),
    )
)
def test_any_document_is_read_or_refused(document: object) -> None:
    try:
        file = parse(json.dumps(document).encode(), "config.json")
    except InvalidArgument:
        return
    file.lookup("a", "b")


def test_a_helpers_answer_is_read() -> None:
    assert parse_helper(b'{"ServerURL":"a","Username":"u","Secret":"s"}', "x") == Entry("u", "s")
    assert parse_helper(b'{"Username":"<token>","Secret":"s"}', "x") == Entry(identity_token="s")


def test_addresses_of_one_registry_are_known_as_such() -> None:
    assert is_same_registry("https://index.docker.io/v1/", "docker.io")
    assert is_same_registry("http://a.example:5000/v2/", "a.example:5000")
    assert not is_same_registry("a.example:5000", "a.example")
    assert not is_same_registry("docker.io.example", "docker.io")
