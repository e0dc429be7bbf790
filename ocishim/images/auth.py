"""Credentials of a pull, and the Authorization header that a registry's challenge asks for.

Basic, and Docker's token protocol (distribution's spec/auth/token.md). Secrets are in no message and no repr.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ocishim.errors import InvalidArgument, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocishim.images.hosts import Endpoint
    from ocishim.protocol.challenge import Challenge

_SHORTEST_LIFE: Final = 60.0
_LONGEST_LIFE: Final = 3600.0
_MARGIN: Final = 10.0
_MOST_TOKENS: Final = 1000
_CLIENT: Final = "ocishim"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the CRI's AuthConfig brings for one pull; at most one kind of it is used."""

    username: str = ""
    password: str = field(default="", repr=False)
    auth: str = field(default="", repr=False)
    """base64 of username:password."""
    identity_token: str = field(default="", repr=False)
    """An OAuth2 refresh token."""
    registry_token: str = field(default="", repr=False)
    """A bearer token for the registry itself."""
    server: str = ""
    """The only host they are for; empty: the image's own registry."""

    def login(self) -> tuple[str, str] | None:
        """Username and password. Raises InvalidArgument where `auth` is not what it must be."""
        if self.username:
            return self.username, self.password
        if not self.auth:
            return None
        try:
            name, colon, password = base64.b64decode(self.auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InvalidArgument("auth.auth is not base64 of username:password") from error
        if not colon or not name:
            raise InvalidArgument("auth.auth is not base64 of username:password")
        return name, password.rstrip("\0")


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")

    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = Field(default=None, allow_inf_nan=False)


class Ask(Protocol):
    """Sends a request to a token server and returns its answer's body."""

    async def __call__(
        self, realm: str, query: Mapping[str, str], *, basic: str | None, form: bool, via: Endpoint
    ) -> bytes:
        """GET with the query, or POST it as a form, on behalf of an endpoint."""


@dataclass(frozen=True, slots=True)
class _Token:
    header: str
    expires: float


class Authorizer:
    """Headers for challenges; tokens are kept until they expire, for each realm, service, scope and credentials."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._tokens: dict[tuple[object, ...], _Token] = {}
        self._asking: dict[tuple[object, ...], asyncio.Task[str]] = {}

    async def header(
        self,
        challenges: list[Challenge],
        credentials: Credentials | None,
        scope: str,
        *,
        stale: str | None,
        via: Endpoint,
    ) -> str:
        """The Authorization that answers an endpoint's challenges; never `stale`, the one that was just refused.

        Raises Unauthenticated where there is none.
        """
        by_scheme = {each.scheme: each for each in challenges}
        if credentials is not None and credentials.registry_token:
            return _unless(stale, f"Bearer {credentials.registry_token}")
        bearer = by_scheme.get("bearer")
        if bearer is not None and bearer.parameters.get("realm"):
            return await self._bearer(bearer, credentials, scope, stale=stale, via=via)
        login = credentials.login() if credentials else None
        if "basic" in by_scheme and login is not None:
            return _unless(stale, _basic(login))
        if "basic" in by_scheme:
            raise Unauthenticated("the registry wants a username and a password and none were given")
        offered = ", ".join(sorted(by_scheme)) or "nothing"
        raise Unauthenticated(f"the registry offers {offered} to log in with; this server knows Basic and Bearer")

    async def _bearer(
        self, wanted: Challenge, credentials: Credentials | None, scope: str, *, stale: str | None, via: Endpoint
    ) -> str:
        scope = wanted.parameters.get("scope") or scope
        realm, service = wanted.parameters["realm"], wanted.parameters.get("service", "")
        key = (realm, service, scope, credentials)
        known = self._tokens.get(key)
        if known is not None and known.header != stale and known.expires > time.monotonic():
            return known.header
        task = self._asking.get(key)
        if task is None:
            # The layers of an image are fetched side by side: one of them asks, the others wait for its token.
            query = {"scope": scope} | ({"service": service} if service else {})
            task = asyncio.create_task(self._fetch(key, realm, query, credentials, via))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(task)

    def _asked(self, key: tuple[object, ...], task: asyncio.Task[str]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()

    async def _fetch(
        self, key: tuple[object, ...], realm: str, query: dict[str, str], credentials: Credentials | None, via: Endpoint
    ) -> str:
        if credentials is not None and credentials.identity_token:
            query |= {"grant_type": "refresh_token", "refresh_token": credentials.identity_token, "client_id": _CLIENT}
            body = await self._ask(realm, query, basic=None, form=True, via=via)
        else:
            login = credentials.login() if credentials else None
            if login:
                query["account"] = login[0]
            basic = _basic(login) if login else None
            body = await self._ask(realm, query, basic=basic, form=False, via=via)
        token = _read(body, realm)
        self._forget_expired()
        self._tokens[key] = token
        return token.header

    def _forget_expired(self) -> None:
        now = time.monotonic()
        self._tokens = {key: token for key, token in self._tokens.items() if token.expires > now}
        if len(self._tokens) >= _MOST_TOKENS:
            self._tokens.clear()

    async def close(self) -> None:
        """End what is being asked."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


def _read(body: bytes, realm: str) -> _Token:
    try:
        answer = _Answer.model_validate(json.loads(body))
    except (ValidationError, ValueError, RecursionError) as error:
        raise Unauthenticated(f"{realm} answered with something that is no token") from error
    text = answer.token or answer.access_token or ""
    if not text or not text.isascii() or not text.isprintable():
        raise Unauthenticated(f"{realm} answered without a token")
    life = min(max(answer.expires_in or _SHORTEST_LIFE, _SHORTEST_LIFE), _LONGEST_LIFE)
    return _Token(f"Bearer {text}", time.monotonic() + life - _MARGIN)


def _basic(login: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(f"{login[0]}:{login[1]}".encode()).decode()


def _unless(stale: str | None, header: str) -> str:
    if header == stale:
        raise Unauthenticated("the registry does not take the credentials that were given")
    return header
