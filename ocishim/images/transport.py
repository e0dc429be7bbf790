"""HTTP to registries: one request with its redirects, and what can go wrong with it in this server's words.

Retrying, logging in and the registry's API are registry.py's. What a stranger's server says is bounded and quoted.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, NoReturn

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from ocishim import __version__
from ocishim.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from ocishim.images import hosts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping

    from ocishim.images.hosts import Endpoint

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS: Final = 5
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONNECT_TIMEOUT: Final = 20.0
_READ_BUFFER: Final = 256 << 10
_LONGEST_WAIT: Final = 60.0
_LARGEST_PROBLEM: Final = 8 << 10
_LONGEST_QUOTE: Final = 300


class Transient(Unavailable):
    """A failure that another attempt may mend, `wait` seconds later if the registry said so."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class Transport:
    """A pool of connections. Credentials never follow a redirect to another origin."""

    def __init__(self, progress_timeout: float) -> None:
        self._progress_timeout = progress_timeout
        self._session: aiohttp.ClientSession | None = None

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"User-Agent": f"ocishim/{__version__}"},
                cookie_jar=aiohttp.DummyCookieJar(),
                # What is hashed is what was sent.
                auto_decompress=False,
                read_bufsize=_READ_BUFFER,
                # trust_env would also read a .netrc: credentials are the request's and nobody else's.
                trust_env=False,
            )
        return self._session

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def get(
        self, url: str, headers: Mapping[str, str], authorization: str | None, via: Endpoint
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET, redirects followed; the answer has any other status. Raises Transient, Unavailable, DeadlineExceeded.

        `via` is the endpoint on whose behalf it is: how it is to be spoken to, and whom it may send us to.
        """
        target = check_url(URL(url, encoded=True), None, via)
        for _ in range(_MOST_REDIRECTS + 1):
            async with self._once("GET", target, headers, authorization, via) as response:
                location = response.headers.get("Location") if response.status in _REDIRECTS else None
                if location is None:
                    yield response
                    return
            following = check_url(_join(target, location), target, via)
            if following.origin() != target.origin():
                authorization = None
            target = following
        raise Unavailable(f"RegistryUnavailable: {_shown(url)}: more than {_MOST_REDIRECTS} redirects")

    async def ask(self, realm: str, query: Mapping[str, str], *, basic: str | None, form: bool, via: Endpoint) -> bytes:
        """Ask a token server, by GET or with a form. Raises Unauthenticated where it refuses."""
        target = check_url(URL(realm), None, via)
        if form:
            async with self._once("POST", target, {}, None, via, form=query) as response:
                return await self._token(response, realm)
        async with self.get(str(target.update_query(query)), {}, basic, via) as response:
            return await self._token(response, realm)

    async def _token(self, response: aiohttp.ClientResponse, realm: str) -> bytes:
        if response.status == 200:  # noqa: PLR2004 - HTTP's OK
            return await self.body(response, 1 << 20)
        if response.status in _TRANSIENT:
            await self.fail(response, realm)
        words = await self._words(response)
        raise Unauthenticated(f"{_shown(realm)} gives no token for these credentials: {response.status} {words}")

    @asynccontextmanager
    async def _once(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        authorization: str | None,
        via: Endpoint,
        *,
        form: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        sent = CIMultiDict({**headers, "Accept-Encoding": "identity"})
        itself = url.origin() == URL(via.url).origin()
        if itself:
            for name, value in via.host.headers:
                sent.add(name, value)
        if authorization is not None:
            sent["Authorization"] = authorization
        context = via.tls if url.host == URL(via.url).host else via.trust
        timeout = via.host.dial_timeout if itself and via.host.dial_timeout else _CONNECT_TIMEOUT
        proxy = _proxy(url)
        with self._translated(url, proxy):
            async with asyncio.timeout(self._progress_timeout):
                response = await self._open_session().request(
                    method,
                    url,
                    headers=sent,
                    data=form,
                    allow_redirects=False,
                    proxy=proxy,
                    ssl=True if context is None else context,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout),
                )
        try:
            yield response
        finally:
            # A connection whose answer was not read to its end is not used again.
            response.release()

    async def chunks(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises Transient where the connection breaks, DeadlineExceeded where nothing comes."""
        while True:
            with self._translated(response.url):
                async with asyncio.timeout(self._progress_timeout):
                    chunk = await response.content.readany()
            if not chunk:
                return
            yield chunk

    async def body(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        """The whole body. Raises InvalidArgument where it is longer than limit."""
        content = bytearray()
        async for chunk in self.chunks(response):
            content += chunk
            if len(content) > limit:
                raise InvalidArgument(f"{_shown(response.url)} answers with more than {limit} bytes")
        return bytes(content)

    async def fail(self, response: aiohttp.ClientResponse, what: str) -> NoReturn:
        """Raise what the status means, with the registry's own words."""
        status, words = response.status, await self._words(response)
        said = f"{what}: {_shown(response.url)} answers {status} {words}"
        if status == 401:  # noqa: PLR2004
            raise Unauthenticated(said)
        if status == 403:  # noqa: PLR2004
            raise PermissionDenied(said)
        if status == 404:  # noqa: PLR2004
            raise NotFound(said)
        if status in _TRANSIENT:
            raise Transient(f"RegistryUnavailable: {said}", _retry_after(response.headers.get("Retry-After")))
        if status == 416:  # noqa: PLR2004
            raise InvalidArgument(f"{said}: the registry has fewer bytes than the manifest says")
        raise Unavailable(f"RegistryUnavailable: {said}")

    async def _words(self, response: aiohttp.ClientResponse) -> str:
        """The registry's explanation, one line of it."""
        try:
            text = (await self.body(response, _LARGEST_PROBLEM)).decode(errors="replace")
        except (InvalidArgument, Unavailable, DeadlineExceeded):
            return response.reason or ""
        try:
            first = json.loads(text)["errors"][0]
            text = f"{first['code']}: {first['message']}"
        except (ValueError, LookupError, TypeError, RecursionError):
            text = text if "html" not in response.content_type else ""
        text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
        return text[:_LONGEST_QUOTE] or response.reason or ""

    @contextmanager
    def _translated(self, url: URL, proxy: URL | None = None) -> Iterator[None]:
        # Its user and password are nobody's business.
        by = f" through the proxy {proxy.origin()}" if proxy else ""
        where = f"RegistryUnavailable: {_shown(url)}{by}"
        try:
            yield
        except aiohttp.ServerTimeoutError as error:
            raise Transient(f"{where}: no connection within the time for it") from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"{_shown(url)}: nothing came for {self._progress_timeout:g} s") from error
        except aiohttp.ClientHttpProxyError as error:
            raise Unavailable(f"{where}: it answers {error.status} {error.message[:_LONGEST_QUOTE]}") from error
        except aiohttp.ClientSSLError as error:
            raise Unavailable(f"{where}: TLS: {error}") from error
        except aiohttp.ClientConnectorError as error:
            raise Transient(f"{where}: {error.os_error.strerror or error.os_error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Transient(f"{where}: {str(error)[:_LONGEST_QUOTE] or type(error).__name__}") from error


def check_url(url: URL, come_from: URL | None, via: Endpoint) -> URL:
    """The URL, if a registry may send us there: TLS, or plain HTTP on this machine or to the host configured for it.

    Raises Unavailable for all else, so that no redirect and no realm takes bytes or credentials into the open.
    """
    host = url.host or ""
    configured = URL(via.url)
    plain = url.scheme == "http" and (
        (hosts.is_loopback(host) and (come_from is None or come_from.scheme == "http"))
        or (configured.scheme == "http" and configured.host == host)
    )
    if not host or url.user is not None or not (url.scheme == "https" or plain):
        raise Unavailable(f"RegistryUnavailable: the registry sends us to {_shown(url)}, which is not https")
    return url


def _proxy(url: URL) -> URL | None:
    """Raises FailedPrecondition where the environment names one that is no use."""
    named = hosts.proxy(url.scheme, url.host or "", url.port or 0)
    if named is None:
        return None
    try:
        proxy = URL(named)
        proxy.origin()
    except ValueError as error:
        raise FailedPrecondition(f"the environment's proxy for {_shown(url)} is no URL of a server") from error
    return proxy


def _join(base: URL, location: str) -> URL:
    try:
        # Signed query strings must stay as they are.
        return base.join(URL(location, encoded=True))
    except ValueError as error:
        raise Unavailable(f"RegistryUnavailable: {_shown(base)} redirects to {location[:200]!r}") from error


def _shown(url: URL | str) -> str:
    """A URL without its query, in which storage servers carry secrets."""
    return str(url).partition("?")[0][:_LONGEST_QUOTE]


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, within reason; None where it says nothing usable."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), _LONGEST_WAIT)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)
    return min(max(seconds.total_seconds(), 0.0), _LONGEST_WAIT)
