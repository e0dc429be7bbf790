"""Docker's config.json: credentials of registries, or the programs that know them (docker's cli/config/configfile)."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ocishim.errors import InvalidArgument

_HUB: Final = "docker.io"
_HUB_NAMES: Final = frozenset({_HUB, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_HUB_SERVER: Final = "https://index.docker.io/v1/"
_HELPER: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_TOKEN_USER: Final = "<token>"  # noqa: S105 - a mark, no secret


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a registry."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """An OAuth2 refresh token."""
    registry_token: str = field(default="", repr=False)
    """A bearer token for the registry itself."""


@dataclass(frozen=True, slots=True)
class Helper:
    """A program that knows: docker-credential-NAME, asked for a server."""

    name: str
    server: str


def _text(value: object) -> object:
    return "" if value is None else value


def _table(value: object) -> object:
    return {} if value is None else value


Text = Annotated[str, BeforeValidator(_text)]


class _Auth(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    auth: Text = ""
    username: Text = ""
    password: Text = ""
    identity_token: Annotated[Text, Field(alias="identitytoken")] = ""
    registry_token: Annotated[Text, Field(alias="registrytoken")] = ""


class _Config(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    auths: Annotated[dict[str, Annotated[_Auth, BeforeValidator(_table)]], BeforeValidator(_table)] = {}
    helpers: Annotated[dict[str, str], BeforeValidator(_table), Field(alias="credHelpers")] = {}
    store: Annotated[Text, Field(alias="credsStore")] = ""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    username: Annotated[Text, Field(alias="Username")] = ""
    secret: Annotated[Text, Field(alias="Secret")] = ""


class AuthFile:
    """Whom to be for which registry."""

    def __init__(self, entries: dict[str, Entry], helpers: dict[str, str], store: str) -> None:
        self._entries = entries
        self._helpers = helpers
        self._store = store

    def lookup(self, domain: str, path: str) -> Entry | Helper | None:
        """What to log in with for an image host/path: the longest key that it lies below, else the store of all."""
        names = _HUB_NAMES if domain == _HUB else frozenset({domain})
        for name in sorted(names):
            if name in self._helpers:
                return Helper(self._helpers[name], _server(domain))
        parts = path.split("/")
        for depth in range(len(parts), -1, -1):
            for name in sorted(names):
                found = self._entries.get("/".join((name, *parts[:depth])))
                if found is not None and found != Entry():
                    return found
        return Helper(self._store, _server(domain)) if self._store else None


def parse(content: bytes, what: str) -> AuthFile:
    """Read a file. Raises InvalidArgument that names the key and never its value."""
    try:
        config = _Config.model_validate(json.loads(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidArgument(f"{what}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    except (ValueError, RecursionError):
        # The decoder's own error would quote the file.
        raise InvalidArgument(f"{what} is not JSON") from None
    for key, name in (
        *((f"credHelpers.{host}", name) for host, name in config.helpers.items()),
        ("credsStore", config.store),
    ):
        if name and not _HELPER.match(name):
            raise InvalidArgument(f"{what}: {key}: {name!r} is no name of a docker-credential program")
    entries = {_normal(key): _entry(auth, f"{what}: auths.{key}") for key, auth in config.auths.items()}
    helpers = {_normal(key): name for key, name in config.helpers.items() if name}
    return AuthFile(entries, helpers, config.store)


def is_same_registry(one: str, other: str) -> bool:
    """Whether two ways to write a registry's address mean the same one."""
    first, second = (_normal(text).partition("/")[0] for text in (one, other))
    return first == second or {first, second} <= _HUB_NAMES


def _entry(auth: _Auth, what: str) -> Entry:
    username, password = auth.username, auth.password
    if auth.auth:
        try:
            username, colon, password = base64.b64decode(auth.auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidArgument(f"{what}.auth is not base64 of username:password") from None
        if not colon:
            raise InvalidArgument(f"{what}.auth is not base64 of username:password")
        password = password.rstrip("\0")
    identity_token = auth.identity_token
    if username == _TOKEN_USER:
        username, password, identity_token = "", "", identity_token or password
    return Entry(username, password, identity_token, auth.registry_token)


def _normal(key: str) -> str:
    """A key without what is older than images with paths: a scheme, and the API's version."""
    text = re.sub(r"^https?://", "", key).rstrip("/")
    return re.sub(r"/v[12]\Z", "", text)


def _server(domain: str) -> str:
    return _HUB_SERVER if domain == _HUB else domain


def parse_helper(output: bytes, what: str) -> Entry:
    """What a docker-credential program said. Raises InvalidArgument without quoting it."""
    try:
        answer = _Answer.model_validate(json.loads(output))
    except (ValidationError, ValueError, RecursionError):
        raise InvalidArgument(f"{what} did not answer with a username and a secret") from None
    if answer.username == _TOKEN_USER:
        return Entry(identity_token=answer.secret)
    return Entry(answer.username, answer.secret)
