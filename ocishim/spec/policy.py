"""Signature policies: which images are taken, and whose signatures they need (containers-policy.json(5)).

Strict where most files are read leniently: a policy that is half understood is no policy.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from ocishim.errors import InvalidArgument
from ocishim.spec import reference

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from ocishim.spec.reference import Reference

_DOMAIN: Final = r"(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[A-Fa-f0-9:]+\])(?::[0-9]{1,5})?"
_PATH: Final = r"(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)"
_EXACT: Final = r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|@sha256:[0-9a-f]{64})"
_SCOPE: Final = re.compile(rf"^(?P<domain>{_DOMAIN})(?:{_PATH}+{_EXACT}?)?\Z")
_SUBDOMAINS: Final = re.compile(r"^\*(?:\.[A-Za-z0-9-]+)+\Z")
_PREFIX: Final = re.compile(rf"^{_DOMAIN}{_PATH}*\Z")
_UNVERIFIED: Final = re.compile(r"^(?:fulcio|pki|rekor.*)\Z")
"""Keys of sigstoreSigned that ask for certificates or a transparency log."""
_KEYS_ONLY: Final = "this server verifies sigstore signatures with public keys only"


_MEMBERS: Final = frozenset(
    {"reject", "insecureAcceptAnything", "sigstoreSigned", "matchRepoDigestOrExact", "matchRepository"}
    | {"matchExact", "exactReference", "exactRepository", "remapIdentity", "[key]"}
)
"""What pydantic puts among the names of keys and is in no file: members of unions, and that a key is meant."""
_WORDS: Final = {
    "missing": "the key is missing",
    "too_short": "the list is empty",
    "tuple_type": "this must be a list",
    "dict_type": "this must be an object",
    "model_type": "this must be an object",
    "model_attributes_type": "this must be an object",
    "union_tag_not_found": "the key 'type' is missing",
}
"""Of pydantic's errors, those that it words for programmers."""


def _encoded(value: str) -> str:
    # Encoders that break lines are common, and Go's decoder passes over the breaks.
    try:
        base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64 of a public key in PEM") from None
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/") or "\0" in value:
        raise ValueError(f"{value!r} is no absolute path")
    return value


def _prefix(value: str) -> str:
    if not _PREFIX.match(value):
        raise ValueError(f"{value!r} is not of the form HOST[:PORT][/NAME], without a tag")
    return value


def _full(value: str) -> str:
    if is_bare(value):
        raise ValueError(f"{value!r} has neither a tag nor a digest")
    _readable(value)
    return value


def _bare(value: str) -> str:
    if not is_bare(value):
        raise ValueError(f"{value!r} is a repository with a tag or a digest: leave that out")
    _readable(value)
    return value


def _readable(value: str) -> Reference:
    try:
        return reference.parse(value)
    except InvalidArgument as error:
        raise ValueError(str(error)) from None


def is_bare(text: str) -> bool:
    """Whether a reference has neither a tag nor a digest."""
    return "@" not in text and ":" not in text.rpartition("/")[2]


KeyFile = Annotated[str, AfterValidator(_absolute)]
KeyData = Annotated[str, StringConstraints(min_length=1), AfterValidator(_encoded)]
Prefix = Annotated[str, AfterValidator(_prefix)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


class MatchRepoDigestOrExact(_Part):
    """The reference that was asked for; for one by digest, any tag of its repository."""

    type: Literal["matchRepoDigestOrExact"] = "matchRepoDigestOrExact"


class MatchRepository(_Part):
    """Any reference to the repository that was asked for."""

    type: Literal["matchRepository"]


class MatchExact(_Part):
    """The reference that was asked for, letter by letter once normalised."""

    type: Literal["matchExact"]


class ExactReference(_Part):
    """This reference, whatever was asked for."""

    type: Literal["exactReference"]
    docker_reference: Annotated[str, AfterValidator(_full)]


class ExactRepository(_Part):
    """Any reference to this repository, whatever was asked for."""

    type: Literal["exactRepository"]
    docker_repository: Annotated[str, AfterValidator(_bare)]


class RemapIdentity(_Part):
    """As MatchRepoDigestOrExact, once `prefix` of what was asked for is replaced by `signed_prefix`."""

    type: Literal["remapIdentity"]
    prefix: Prefix
    signed_prefix: Prefix


Identity = Annotated[
    MatchRepoDigestOrExact | MatchRepository | MatchExact | ExactReference | ExactRepository | RemapIdentity,
    Field(discriminator="type"),
]


class Reject(_Part):
    """No image is taken."""

    type: Literal["reject"]


class InsecureAcceptAnything(_Part):
    """Every image is taken."""

    type: Literal["insecureAcceptAnything"]


class SigstoreSigned(_Part):
    """A signature by one of the keys, for an identity."""

    type: Literal["sigstoreSigned"]
    key_path: KeyFile = ""
    key_paths: Annotated[tuple[KeyFile, ...], Field(min_length=1)] = ()
    key_data: KeyData = ""
    key_datas: Annotated[tuple[KeyData, ...], Field(min_length=1)] = ()
    signed_identity: Identity = MatchRepoDigestOrExact()

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> Self:
        if sum(map(bool, (self.key_path, self.key_paths, self.key_data, self.key_datas))) != 1:
            raise ValueError("exactly one of keyPath, keyPaths, keyData and keyDatas is needed")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """Files with a public key in PEM each."""
        return (self.key_path,) if self.key_path else self.key_paths

    @property
    def inline(self) -> tuple[bytes, ...]:
        """Public keys in PEM that the policy itself holds."""
        return tuple(base64.b64decode(data) for data in ((self.key_data,) if self.key_data else self.key_datas))


Requirement = Annotated[Reject | InsecureAcceptAnything | SigstoreSigned, Field(discriminator="type")]
Requirements = Annotated[tuple[Requirement, ...], Field(min_length=1)]


def _scope(value: object) -> object:
    """Refuses what no image can ever be in: what it is meant to protect would go unprotected."""
    if not isinstance(value, str) or not value or _SUBDOMAINS.match(value):
        return value
    found = _SCOPE.match(value)
    if not found:
        raise ValueError("a scope is HOST[:PORT][/NAME[:TAG|@DIGEST]], *.DOMAIN or empty; no image can be in this one")
    if _readable(f"{found['domain']}/team/app").domain != found["domain"]:
        raise ValueError("no image can be in this scope: begin with the registry, as in docker.io/library/busybox")
    return value


Scope = Annotated[str, BeforeValidator(_scope)]


class _Transports(BaseModel):
    # An image comes to this server by the registry protocol; what is said of other ways does not concern it.
    model_config = ConfigDict(extra="ignore", frozen=True)

    docker: dict[Scope, Requirements] = {}


class Policy(_Part):
    """A policy file."""

    default: Requirements
    transports: _Transports = _Transports()

    def requirements(self, wanted: Reference) -> tuple[Requirement, ...]:
        """What an image must meet, all of it: the requirements of the most specific scope that it is in."""
        found = next((scope for scope in scopes(wanted) if scope in self.transports.docker), None)
        return self.default if found is None else self.transports.docker[found]


def scopes(wanted: Reference) -> list[str]:
    """The scopes that a reference is in, the most specific first; the last, "", is every registry's.

    A digest goes before a tag: with both, nothing says that the tag's image has that digest.
    """
    found = [exact] if (exact := wanted.digested or wanted.tagged) else []
    name = wanted.name
    while name != wanted.domain:
        found.append(name)
        name = name.rpartition("/")[0]
    found.append(name)
    host = "" if name.startswith("[") else name.partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        found.append(f"*.{host}")
    return [*found, ""]


def identity_matches(  # noqa: PLR0911 - a decision table
    identity: Identity, wanted: Reference, claimed: str
) -> bool:
    """Whether a signature made for `claimed` counts for an image that was asked for as `wanted`."""
    try:
        signed = reference.parse(claimed)
    except InvalidArgument:
        return False
    exact = not is_bare(claimed)
    match identity:
        case MatchRepository():
            return signed.name == wanted.name
        case MatchExact():
            return exact and signed == wanted
        case ExactReference():
            return exact and signed == reference.parse(identity.docker_reference)
        case ExactRepository():
            return signed.name == reference.parse(identity.docker_repository).name
        case RemapIdentity():
            remapped = _remapped(identity, wanted)
            return exact and remapped is not None and _same_or_digest(remapped, signed)
        case MatchRepoDigestOrExact():
            return exact and _same_or_digest(wanted, signed)


def _same_or_digest(wanted: Reference, signed: Reference) -> bool:
    return signed.name == wanted.name if wanted.digest else signed == wanted


def _remapped(identity: RemapIdentity, wanted: Reference) -> Reference | None:
    """None where what comes out is no image's name."""
    rest = wanted.name.removeprefix(identity.prefix)
    if rest == wanted.name or (rest and not rest.startswith("/")):
        return wanted
    name = f"{identity.signed_prefix}{rest}"
    try:
        remapped = reference.parse(f"{name}{str(wanted).removeprefix(wanted.name)}")
    except InvalidArgument:
        return None
    return remapped if remapped.name == name else None


def parse(content: bytes, what: str) -> Policy:
    """Read a policy. Raises InvalidArgument that names the key."""
    try:
        return Policy.model_validate(json.loads(content, object_pairs_hook=without_repeats))
    except ValidationError as error:
        raise InvalidArgument(f"{what}: {_problem(error.errors(include_url=False)[0])}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what} is not a JSON document: {error}") from error


def without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """For json's object_pairs_hook: raises ValueError where a key is there twice, as one reader may see either."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def _problem(error: ErrorDetails) -> str:
    path, kind, context = list(error["loc"]), error["type"], error.get("ctx", {})
    unknown = path.pop() if kind == "extra_forbidden" else None
    parts = [str(part) for part in path if part not in _MEMBERS]
    where = ".".join(parts if unknown is None else [*parts, str(unknown)]) or "the document"
    if unknown is not None:
        return f"{where}: unknown key" + (f"; {_KEYS_ONLY}" if _UNVERIFIED.match(str(unknown)) else "")
    if kind == "union_tag_invalid":
        hint = "" if parts[-1] == "signedIdentity" else f"; {_KEYS_ONLY}"
        return f"{where}: type {context['tag']!r} is none of {context['expected_tags']}{hint}"
    if kind == "value_error":
        return f"{where}: {context['error']}"
    return f"{where}: {_WORDS.get(kind, error['msg'])}"
