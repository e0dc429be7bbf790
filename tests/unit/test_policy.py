"""A signature policy is understood whole or refused, and its most specific scope counts."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ocishim.errors import InvalidArgument
from ocishim.spec import policy, reference

DIGEST = "sha256:" + "a" * 64
REJECT = [{"type": "reject"}]
ACCEPT = [{"type": "insecureAcceptAnything"}]
PEM = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"


def signed(**more: object) -> dict[str, object]:
    return {"type": "sigstoreSigned", "keyPath": "/keys/a.pub", **more}


def read(document: object) -> policy.Policy:
    return policy.parse(json.dumps(document).encode(), "/etc/policy.json")


def identity(**keys: str) -> policy.Identity:
    found: policy.Identity = TypeAdapter(policy.Identity).validate_python(keys)
    return found


def scoped(*scopes: str) -> policy.Policy:
    """A policy whose requirements tell their scope by the name of their key."""
    return read(
        {"default": REJECT, "transports": {"docker": {scope: [signed(keyPath=f"/{scope}")] for scope in scopes}}}
    )


def scope_of(found: policy.Policy, image: str) -> str | None:
    [requirement] = found.requirements(reference.parse(image))
    return requirement.files[0][1:] if isinstance(requirement, policy.SigstoreSigned) else None


SCOPES = [
    f"host.sub.example.com:5000/team/app@{DIGEST}",
    "host.sub.example.com:5000/team/app:v1",
    "host.sub.example.com:5000/team/app",
    "host.sub.example.com:5000/team",
    "host.sub.example.com:5000",
    "*.sub.example.com",
    "*.example.com",
    "*.com",
    "",
]


@pytest.mark.parametrize("first", range(2, len(SCOPES)))
@pytest.mark.parametrize(("exact", "image"), [(0, f"@{DIGEST}"), (1, ":v1"), (0, f":v1@{DIGEST}")])
def test_the_most_specific_scope_counts(exact: int, image: str, first: int) -> None:
    name = f"host.sub.example.com:5000/team/app{image}"
    assert scope_of(scoped(*reversed(SCOPES)), name) == SCOPES[exact]
    assert scope_of(scoped(*reversed(SCOPES[first:])), name) == SCOPES[first]


def test_a_tags_scope_does_not_count_for_a_digest_beside_that_tag() -> None:
    assert scope_of(scoped("host.example/a:v1"), f"host.example/a:v1@{DIGEST}") is None


@pytest.mark.parametrize(
    ("scope", "image"),
    [
        ("host.example/te", "host.example/team/app"),
        ("host.example", "host.example:5000/app"),
        ("host.example/app:v1", "host.example/app:v10"),
        ("host.example/app:v1", "host.example/app"),
        ("*.example.com", "example.com/app"),
        ("*.example.com", "badexample.com/app"),
        ("*.example.com", "host.example.com.evil.test/app"),
        ("docker.io/busybox", "busybox"),
        ("*.0.0.1", "[::1]:5000/app"),
    ],
)
def test_a_scope_that_only_looks_alike_does_not_count(scope: str, image: str) -> None:
    assert scope_of(scoped(scope), image) is None


def test_short_names_are_looked_up_in_full() -> None:
    assert scope_of(scoped("docker.io/library"), "busybox") == "docker.io/library"
    assert scope_of(scoped("docker.io"), "busybox") == "docker.io"


def test_the_default_counts_where_no_scope_does() -> None:
    found = read({"default": ACCEPT, "transports": {"docker": {"host.example": REJECT}}})
    [default] = found.requirements(reference.parse("busybox"))
    [scope] = found.requirements(reference.parse("host.example/app"))
    assert isinstance(default, policy.InsecureAcceptAnything)
    assert isinstance(scope, policy.Reject)


def test_other_transports_are_passed_over() -> None:
    document = {"default": ACCEPT, "transports": {"docker-daemon": {"": ACCEPT}, "dir": {"/x": [{"type": "signedBy"}]}}}
    assert read(document).transports.docker == {}


def test_keys_come_from_files_or_the_policy_itself() -> None:
    data = base64.b64encode(PEM).decode()
    broken = "\n".join(data[at : at + 20] for at in range(0, len(data), 20))

    def only(**keys: object) -> policy.SigstoreSigned:
        [found] = read({"default": [{"type": "sigstoreSigned", **keys}]}).default
        assert isinstance(found, policy.SigstoreSigned)
        return found

    assert only(keyPath="/a").files == ("/a",)
    assert only(keyPaths=["/a", "/b"]).files == ("/a", "/b")
    assert only(keyData=broken).inline == (PEM,)
    assert only(keyDatas=[data, data]).inline == (PEM, PEM)
    assert only(keyData=data).files == ()


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        ({"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}, "default.0: type 'signedBy' .*public keys only"),
        ({"type": "sigstoreSigned"}, "default.0: exactly one of keyPath"),
        (signed(keyPaths=["/b"]), "default.0: exactly one of keyPath"),
        (signed(keyPath=None), "default.0.keyPath: "),
        (signed(keyPath="relative.pub"), "default.0.keyPath: 'relative.pub' is no absolute path"),
        (signed(keyPath=""), "default.0.keyPath: '' is no absolute path"),
        ({"type": "sigstoreSigned", "keyPaths": []}, "default.0.keyPaths: the list is empty"),
        ({"type": "sigstoreSigned", "keyData": "%%%"}, "default.0.keyData: not base64"),
        ({"type": "sigstoreSigned", "keyData": "é"}, "default.0.keyData: not base64"),
        ({"type": "sigstoreSigned", "keyDatas": ["QQ==", "QQ"]}, "default.0.keyDatas.1: not base64"),
        (signed(fulcio={"caPath": "/ca"}), "default.0.fulcio: unknown key; this server verifies .*public keys only"),
        (signed(rekorPublicKeyPath="/r"), "default.0.rekorPublicKeyPath: unknown key; .*public keys only"),
        (signed(rekorPublicKeyDatas=["QQ=="]), "default.0.rekorPublicKeyDatas: unknown key; .*public keys only"),
        (signed(pki={}), "default.0.pki: unknown key; .*public keys only"),
        (signed(key_path="/a"), "default.0.key_path: unknown key$"),
        ({"type": "reject", "reason": "x"}, "default.0.reason: unknown key$"),
        ({"keyPath": "/a"}, "default.0: the key 'type' is missing"),
        ("reject", "default.0: this must be an object"),
        (signed(signedIdentity={"type": "any"}), "default.0.signedIdentity: type 'any' is none of 'matchRepo"),
        (signed(signedIdentity={"type": "matchExact", "x": 1}), "default.0.signedIdentity.x: unknown key"),
        (
            signed(signedIdentity={"type": "exactReference", "dockerReference": "host.example/a"}),
            "signedIdentity.dockerReference: 'host.example/a' has neither a tag nor a digest",
        ),
        (
            signed(signedIdentity={"type": "exactReference", "dockerReference": "NO:1"}),
            "signedIdentity.dockerReference: image reference 'NO:1' is not",
        ),
        (
            signed(signedIdentity={"type": "exactRepository", "dockerRepository": "host.example/a:1"}),
            "signedIdentity.dockerRepository: .* leave that out",
        ),
        (
            signed(signedIdentity={"type": "remapIdentity", "prefix": "host.example/a:1", "signedPrefix": "h.example"}),
            "signedIdentity.prefix: 'host.example/a:1' is not of the form",
        ),
        (
            signed(signedIdentity={"type": "remapIdentity", "prefix": "host.example"}),
            "signedIdentity.signedPrefix: the key is missing",
        ),
    ],
)
def test_a_requirement_that_is_not_understood_is_refused_by_name(requirement: object, message: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^/etc/policy.json: .*{message}"):
        read({"default": [requirement]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a JSON document"),
        (b"\xff\xff", "is not a JSON document"),
        (b"[" * 200_000, "is not a JSON document"),
        (b"[]", ": the document: this must be an object"),
        (b"{}", ": default: the key is missing"),
        (b'{"default": []}', ": default: the list is empty"),
        (b'{"default": {}}', ": default: this must be a list"),
        (b'{"default": REJECT, "defaults": 1}', ": defaults: unknown key"),
        (b'{"default": REJECT, "default": [{"type": "insecureAcceptAnything"}]}', "'default' is there twice"),
        (b'{"default": REJECT, "transports": []}', ": transports: this must be an object"),
        (b'{"default": REJECT, "transports": {"docker": []}}', ": transports.docker: this must be an object"),
        (b'{"default": REJECT, "transports": {"docker": {"a.b": []}}}', ": transports.docker.a.b: the list is empty"),
    ],
)
def test_a_document_that_is_no_policy_is_refused_by_name(content: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^/etc/policy.json.*{message}"):
        policy.parse(content.replace(b"REJECT", b'[{"type": "reject"}]'), "/etc/policy.json")


@pytest.mark.parametrize(
    "scope",
    [
        "busybox",
        "library/busybox",
        "index.docker.io/team",
        "https://host.example/a",
        "host.example/",
        "host.example//a",
        "host.example/A",
        "host.example/a:",
        "host.example/a:v1@" + DIGEST,
        "host.example/a@sha256:abc",
        "host.example:port",
        "-a.example",
        "*",
        "*.example.com/team",
        "*.example.com:5000",
        "a*.example.com",
        "host.*.com",
        " host.example",
        "host.example\n",
    ],
)
def test_a_scope_that_no_image_can_be_in_is_refused(scope: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^/etc/policy\.json: transports\.docker\.(.|\n)*: ") as caught:
        scoped(scope)
    assert scope in str(caught.value)


WANTED = "host.example:5000/team/app:v1"
PINNED = f"host.example:5000/team/app@{DIGEST}"
DEFAULT = {"type": "matchRepoDigestOrExact"}
REPOSITORY = {"type": "matchRepository"}
EXACT = {"type": "matchExact"}
REFERENCE = {"type": "exactReference", "dockerReference": "public.example/app:v1"}
OTHER = {"type": "exactRepository", "dockerRepository": "public.example/app"}
REMAP = {"type": "remapIdentity", "prefix": "host.example:5000/team", "signedPrefix": "public.example"}


@pytest.mark.parametrize(
    ("kind", "wanted", "claimed", "matches"),
    [
        (DEFAULT, WANTED, WANTED, True),
        (DEFAULT, WANTED, "host.example:5000/team/app:v2", False),
        (DEFAULT, WANTED, "host.example:5000/team/app", False),
        (DEFAULT, WANTED, "host.example/team/app:v1", False),
        (DEFAULT, WANTED, PINNED, False),
        (DEFAULT, "host.example/app:latest", "host.example/app", False),
        (DEFAULT, "busybox", "docker.io/library/busybox:latest", True),
        (DEFAULT, "busybox", "busybox:latest", True),
        (DEFAULT, PINNED, WANTED, True),
        (DEFAULT, PINNED, "host.example:5000/team/app", False),
        (DEFAULT, PINNED, "host.example:5000/team/other:v1", False),
        (DEFAULT, f"{WANTED}@{DIGEST}", "host.example:5000/team/app:v2", True),
        (REPOSITORY, WANTED, "host.example:5000/team/app", True),
        (REPOSITORY, WANTED, "host.example:5000/team/app:v2", True),
        (REPOSITORY, PINNED, "host.example:5000/team/app", True),
        (REPOSITORY, WANTED, "host.example:5000/team", False),
        (REPOSITORY, WANTED, "host.example:5000/team/app/more", False),
        (EXACT, WANTED, WANTED, True),
        (EXACT, WANTED, "host.example:5000/team/app:v2", False),
        (EXACT, PINNED, PINNED, True),
        (EXACT, PINNED, WANTED, False),
        (EXACT, "host.example/app:latest", "host.example/app", False),
        (REFERENCE, WANTED, "public.example/app:v1", True),
        (REFERENCE, WANTED, "public.example/app:v2", False),
        (REFERENCE, WANTED, WANTED, False),
        (OTHER, WANTED, "public.example/app", True),
        (OTHER, WANTED, "public.example/app:v9", True),
        (OTHER, WANTED, "public.example/app2", False),
        (REMAP, WANTED, "public.example/app:v1", True),
        (REMAP, WANTED, "public.example/app:v2", False),
        (REMAP, WANTED, "public.example/app", False),
        (REMAP, WANTED, WANTED, False),
        (REMAP, PINNED, "public.example/app:v2", True),
        (REMAP, "host.example:5000/teams/app:v1", "public.example/app:v1", False),
        (REMAP, "host.example:5000/teams/app:v1", "host.example:5000/teams/app:v1", True),
        (REMAP | {"prefix": "host.example"}, WANTED, WANTED, True),
        (REMAP | {"prefix": "host.example:5000/team/app"}, WANTED, WANTED, False),
        (
            REMAP | {"prefix": "host.example:5000/team/app", "signedPrefix": "public.example/a"},
            WANTED,
            "public.example/a:v1",
            True,
        ),
        (REMAP | {"signedPrefix": "docker.io"}, WANTED, "docker.io/library/app:v1", False),
    ],
)
def test_an_identity_matches_what_it_says(kind: dict[str, str], wanted: str, claimed: str, matches: bool) -> None:
    assert policy.identity_matches(identity(**kind), reference.parse(wanted), claimed) is matches


@given(st.sampled_from([DEFAULT, REPOSITORY, EXACT, REFERENCE, OTHER, REMAP]), st.text(max_size=80))
def test_a_claim_of_garbage_matches_nothing(kind: dict[str, str], claimed: str) -> None:
    assert not policy.identity_matches(identity(**kind), reference.parse(WANTED), claimed)


def test_the_identity_that_is_not_written_is_the_strict_one() -> None:
    [requirement] = read({"default": [signed()]}).default
    assert isinstance(requirement, policy.SigstoreSigned)
    assert isinstance(requirement.signed_identity, policy.MatchRepoDigestOrExact)


KEYS = ("default", "transports", "docker", "type", "keyPath", "keyPaths", "keyData", "signedIdentity", "prefix", "")
VALUES = (
    "reject",
    "sigstoreSigned",
    "insecureAcceptAnything",
    "matchExact",
    "remapIdentity",
    "/k",
    "QQ==",
    "a.example",
)
WORDS = st.sampled_from(KEYS + VALUES)
DOCUMENTS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
REQUIREMENTS = st.lists(
    st.sampled_from([*REJECT, *ACCEPT, signed(), signed(signedIdentity=REMAP)]) | DOCUMENTS, max_size=3
)
POLICIES = st.fixed_dictionaries(
    {"default": REQUIREMENTS},
    optional={"transports": st.dictionaries(WORDS, st.dictionaries(WORDS | st.text(), REQUIREMENTS), max_size=3)},
)


@given(DOCUMENTS | POLICIES)
def test_any_document_is_a_policy_or_refused_by_name(document: object) -> None:
    try:
        found = read(document)
    except InvalidArgument as refused:
        message = str(refused)
    else:
        message = "/etc/policy.json"
        assert found.requirements(reference.parse("host.example/team/app:v1"))
    assert message.startswith("/etc/policy.json")


@given(st.binary(max_size=200))
def test_bytes_of_garbage_are_refused_by_name(content: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"^/etc/policy\.json"):
        policy.parse(content, "/etc/policy.json")
