"""A repository of a registry: manifests and blobs over HTTP (OCI distribution-spec 1.1, Docker's v2 API).

aiohttp is imported with this module, so the module is imported by the first pull only.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp

from ocishim import __version__
from ocishim.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OcishimError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from ocishim.images.auth import Authorizer, Credentials, is_loopback
from ocishim.spec import image as spec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ocishim.spec.image import Descriptor
    from ocishim.spec.reference import Reference

T = TypeVar("T")

__all__ = ["Credentials", "Repository", "open_session"]

_ACCEPT: Final = ", ".join((*spec.INDEX_TYPES, *spec.MANIFEST_TYPES))
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_MOST_REDIRECTS: Final = 5
_ATTEMPTS: Final = 5
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 30.0
_CHUNK: Final = 256 << 10
_HOSTS: Final = {"docker.io": "registry-1.docker.io"}
_RETRIED: Final = (408, 429, 500, 502, 503, 504)
_PARTIAL: Final = 206
_OK: Final = 200
_QUOTED: Final = 300


class _TryAgainError(Exception):
    """The connection broke, or the registry asked for patience."""

    def __init__(self, why: str, pause: float | None = None) -> None:
        super().__init__(why)
        self.pause = pause


def open_session(progress_timeout: float) -> aiohttp.ClientSession:
    """A client whose reads fail after that many seconds without a byte."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=progress_timeout)
    headers = {"User-Agent": f"ocishim/{__version__}"}
    # Bodies are hashed as they come: nothing may decode them on the way.
    return aiohttp.ClientSession(timeout=timeout, headers=headers, auto_decompress=False, trust_env=True)


class Repository:
    """One repository, with one set of credentials."""

    def __init__(self, session: aiohttp.ClientSession, wanted: Reference, credentials: Credentials | None) -> None:
        self._session = session
        self._reference = wanted
        host = _HOSTS.get(wanted.domain, wanted.domain)
        hostname = urlsplit(f"//{host}").hostname or ""
        self._base = f"{'http' if is_loopback(hostname) else 'https'}://{host}/v2/{wanted.path}"
        scope = f"repository:{wanted.path}:pull"
        self._authorizer = Authorizer(session, host, scope, credentials)

    async def manifest(self, name: str) -> tuple[bytes, str, str]:
        """A manifest or index by tag or digest: its bytes, media type and digest.

        Raises InvalidArgument where it is too large, or is not what the digest says.
        """
        url = f"{self._base}/manifests/{name}"
        content, media_type = await self._retried(lambda: self._small(url, spec.LARGEST_MANIFEST, {"Accept": _ACCEPT}))
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if ":" in name and digest != name:
            raise InvalidArgument(f"{self._reference}: the registry's manifest has the digest {digest}, not {name}")
        return content, media_type, digest

    async def blob(self, descriptor: Descriptor) -> bytes:
        """A small blob, checked."""
        if descriptor.size > spec.LARGEST_MANIFEST:
            raise ResourceExhausted(f"{self._reference}: {descriptor.digest} has {descriptor.size} bytes, too many")
        url = f"{self._base}/blobs/{descriptor.digest}"
        content, _ = await self._retried(lambda: self._small(url, descriptor.size, {}))
        spec.check_digest(content, descriptor)
        return content

    async def chunks(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        """A large blob as it comes; a broken connection goes on where it stopped. The taker checks the digest."""
        url = f"{self._base}/blobs/{descriptor.digest}"
        done, attempt = 0, 0
        while done < descriptor.size:
            try:
                async for chunk in self._from(url, done, descriptor.size):
                    done += len(chunk)
                    attempt = 0
                    yield chunk
            except _TryAgainError as error:
                broken = error
            else:
                broken = _TryAgainError(f"it ended after {done} of {descriptor.size} bytes")
            if done < descriptor.size:
                attempt += 1
                await self._pause(attempt, broken)

    async def _from(self, url: str, offset: int, size: int) -> AsyncIterator[bytes]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._get(url, headers) as response:
            skip = offset if offset and response.status != _PARTIAL else 0  # a registry that knows no ranges
            if offset and not skip and not _starts_at(response, offset):
                raise InvalidArgument(f"{self._reference}: the registry answers another range than was asked for")
            left = size - offset
            try:
                async for chunk in response.content.iter_chunked(_CHUNK):
                    if skip:
                        dropped = min(skip, len(chunk))
                        skip -= dropped
                        chunk = chunk[dropped:]  # noqa: PLW2901 - what is left of it
                    if len(chunk) > left:
                        raise InvalidArgument(f"{self._reference}: {url} has more than the {size} bytes announced")
                    left -= len(chunk)
                    if chunk:
                        yield chunk
            except aiohttp.SocketTimeoutError as error:
                raise DeadlineExceeded(
                    f"{self._reference}: no byte came for {self._session.timeout.sock_read:g} s"
                ) from error
            except (aiohttp.ClientError, ConnectionError) as error:
                raise _TryAgainError(str(error) or type(error).__name__) from error

    async def _small(self, url: str, limit: int, headers: dict[str, str]) -> tuple[bytes, str]:
        async with self._get(url, headers) as response:
            content = bytearray()
            try:
                async for chunk in response.content.iter_chunked(_CHUNK):
                    content += chunk
                    if len(content) > limit:
                        raise InvalidArgument(f"{self._reference}: {url} has more than {limit} bytes")
            except aiohttp.SocketTimeoutError as error:
                raise DeadlineExceeded(
                    f"{self._reference}: no byte came for {self._session.timeout.sock_read:g} s"
                ) from error
            except (aiohttp.ClientError, ConnectionError) as error:
                raise _TryAgainError(str(error) or type(error).__name__) from error
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            return bytes(content), media_type

    async def _retried(self, request: Callable[[], Awaitable[T]]) -> T:
        attempt = 0
        while True:
            try:
                return await request()
            except _TryAgainError as error:
                attempt += 1
                await self._pause(attempt, error)

    async def _pause(self, attempt: int, error: _TryAgainError) -> None:
        """Wait before the next attempt. Raises Unavailable when there have been enough."""
        if attempt >= _ATTEMPTS:
            raise Unavailable(f"RegistryUnavailable: {self._reference}: {error} ({attempt} attempts)") from error
        pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE) * (0.5 + random.random())  # noqa: S311 - spreads retries
        await asyncio.sleep(pause if error.pause is None else min(error.pause, _LONGEST_PAUSE))

    @asynccontextmanager
    async def _get(self, url: str, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """A GET that was answered well: challenges met, redirects followed, other answers raised."""
        challenged = False
        while True:
            async with self._follow(url, headers) as response:
                wanted = response.headers.getall("WWW-Authenticate", [])
                if response.status != 401 or challenged or not await self._authorizer.answer(", ".join(wanted)):  # noqa: PLR2004
                    await self._judge(response)
                    yield response
                    return
            challenged = True

    @asynccontextmanager
    async def _follow(self, url: str, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Redirects are followed here, so that what authorizes us at the registry goes to no other host."""
        origin = urlsplit(url)
        for _ in range(_MOST_REDIRECTS + 1):
            here = urlsplit(url)
            sent = dict(headers)
            if (here.scheme, here.netloc) == (origin.scheme, origin.netloc) and self._authorizer.header():
                sent["Authorization"] = self._authorizer.header()
            try:
                response = await self._session.get(url, headers=sent, allow_redirects=False)
            except (aiohttp.ClientError, OSError) as error:
                raise self._unreachable(here.netloc, error) from error
            async with response:
                if response.status not in _REDIRECTS:
                    yield response
                    return
                url = urljoin(url, response.headers.get("Location", ""))
                if origin.scheme == "https" and urlsplit(url).scheme != "https":
                    raise Unavailable(f"{self._reference}: the registry redirects from TLS to {url}")
        raise Unavailable(f"RegistryUnavailable: {self._reference}: more than {_MOST_REDIRECTS} redirects")

    def _unreachable(self, host: str, error: Exception) -> Exception:
        if isinstance(error, aiohttp.SocketTimeoutError):
            return DeadlineExceeded(f"{self._reference}: {host} did not answer in time")
        if isinstance(error, aiohttp.ServerDisconnectedError):
            return _TryAgainError(f"{host}: {error}")
        return Unavailable(f"RegistryUnavailable: {self._reference}: {host}: {error}")

    async def _judge(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status in (_OK, _PARTIAL):
            return
        if status in _RETRIED:
            patience = response.headers.get("Retry-After", "")
            raise _TryAgainError(f"HTTP {status}", float(patience) if patience.isdigit() else None)
        words = (await response.content.read(_QUOTED)).decode("utf-8", "replace").replace("\n", " ")
        raise _refusal(status, f"{self._reference}: the registry answers HTTP {status}: {words}")


def _refusal(status: int, message: str) -> OcishimError:
    kinds: dict[int, type[OcishimError]] = {401: Unauthenticated, 403: PermissionDenied, 404: NotFound}
    return kinds.get(status, Unavailable)(message)


def _starts_at(response: aiohttp.ClientResponse, offset: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
