"""Credentials for one pull, and the tokens that registries give for them.

They live in memory only, go to the registry's own host and to the token server it names, and are in no log.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
from pydantic import BaseModel, ConfigDict, ValidationError

from ocishim.errors import InvalidArgument, Unauthenticated, Unavailable
from ocishim.protocol import challenge

if TYPE_CHECKING:
    from ocishim.protocol.challenge import Challenge

_DEFAULT_LIFE: Final = 60.0
_MARGIN: Final = 10.0
_LARGEST_ANSWER: Final = 1 << 20


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What a PullImage request brings, in any of the CRI's forms; the order is AuthConfig's."""

    username: str = ""
    password: str = ""
    auth: str = ""
    """base64 of username:password."""
    identity_token: str = ""
    registry_token: str = ""

    def pair(self) -> tuple[str, str] | None:
        """User name and password, None where there are none. Raises InvalidArgument for an `auth` that is none."""
        if self.username:
            return self.username, self.password
        if not self.auth:
            return None
        try:
            user, colon, password = base64.b64decode(self.auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            colon = ""
        if not colon:
            raise InvalidArgument("auth.auth is no base64 of username:password")
        return user, password.strip("\0")


class _Token(BaseModel):
    model_config = ConfigDict(extra="ignore")

    token: str = ""
    access_token: str = ""
    expires_in: float = _DEFAULT_LIFE


class Authorizer:
    """What goes into the Authorization header for one registry host, renewed when it is refused or old."""

    def __init__(self, session: aiohttp.ClientSession, host: str, scope: str, credentials: Credentials | None) -> None:
        self._session = session
        self._host = host
        self._scope = scope
        self._credentials = credentials or Credentials()
        self._header = f"Bearer {self._credentials.registry_token}" if self._credentials.registry_token else ""
        self._until = float("inf")

    def header(self) -> str:
        """The header's value, empty where none is known to be wanted."""
        return self._header if time.monotonic() < self._until else ""

    async def answer(self, wanted: str) -> bool:
        """Meet a WWW-Authenticate header; False where nothing more can be offered."""
        for asked in challenge.parse(wanted):
            if asked.scheme == "bearer" and not self._credentials.registry_token:
                await self._fetch_token(asked)
                return True
            if asked.scheme == "basic" and (pair := self._credentials.pair()) is not None:
                header = aiohttp.BasicAuth(*pair, encoding="utf-8").encode()
                if header == self._header:
                    return False
                self._header, self._until = header, float("inf")
                return True
        return False

    async def _fetch_token(self, asked: Challenge) -> None:
        realm = asked.parameters.get("realm", "")
        self._check_realm(realm)
        service = asked.parameters.get("service", "")
        scope = asked.parameters.get("scope", self._scope)
        credentials = self._credentials
        if credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "service": service,
                "scope": scope,
                "client_id": "ocishim",
            }
            request = self._session.post(realm, data=form, allow_redirects=False)
        else:
            pair = credentials.pair()
            basic = aiohttp.BasicAuth(*pair, encoding="utf-8") if pair else None
            query = {"service": service, "scope": scope}
            request = self._session.get(realm, params=query, auth=basic, allow_redirects=False)
        try:
            async with request as response:
                body = await response.content.read(_LARGEST_ANSWER)
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"RegistryUnavailable: token server {realm}: {error}") from error
        if status in (400, 401, 403):
            raise Unauthenticated(f"{self._host}: the token server {realm} refuses the credentials (HTTP {status})")
        if status != 200:  # noqa: PLR2004 - OK
            raise Unavailable(f"RegistryUnavailable: token server {realm} answers HTTP {status}")
        self._keep(body, realm)

    def _keep(self, body: bytes, realm: str) -> None:
        try:
            token = _Token.model_validate_json(body)
        except ValidationError as error:
            raise Unavailable(f"RegistryUnavailable: token server {realm} answers no token") from error
        text = token.token or token.access_token
        if not text or not text.isascii() or not text.isprintable():
            raise Unavailable(f"RegistryUnavailable: token server {realm} answers no token")
        self._header = f"Bearer {text}"
        self._until = time.monotonic() + max(token.expires_in - _MARGIN, _MARGIN)

    def _check_realm(self, realm: str) -> None:
        """Credentials go over TLS, except to a loopback host from a registry that is one itself."""
        parts = urlsplit(realm)
        if parts.scheme == "https" and parts.hostname:
            return
        if parts.scheme == "http" and is_loopback(parts.hostname or "") and is_loopback(_hostname(self._host)):
            return
        raise Unauthenticated(
            f"{self._host}: its token server {realm!r} is not reached over TLS and gets no credentials"
        )


def _hostname(host: str) -> str:
    return urlsplit(f"//{host}").hostname or ""


def is_loopback(hostname: str) -> bool:
    """Whether a host name is this machine's own: localhost, or a loopback address."""
    if hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return False
