"""One repository at one endpoint: manifests and blobs over the distribution API (OCI distribution-spec 1.1).

One attempt at a thing; trying again, and elsewhere, is registry.py's.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from yarl import URL

from ocishim.errors import InvalidArgument, Unauthenticated
from ocishim.protocol import challenge
from ocishim.spec import image as spec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    import aiohttp

    from ocishim.images.auth import Authorizer, Credentials
    from ocishim.images.hosts import Endpoint
    from ocishim.images.transport import Transport
    from ocishim.spec.image import Descriptor
    from ocishim.spec.reference import Reference

_ACCEPT: Final = ", ".join((*spec.INDEX_TYPES, *spec.MANIFEST_TYPES))
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]+/")
_PARTIAL: Final = 206
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index as it came."""

    media_type: str
    content: bytes
    digest: str


class Repository:
    """One repository at one endpoint, with the credentials of one pull."""

    def __init__(
        self,
        transport: Transport,
        authorizer: Authorizer,
        endpoint: Endpoint,
        *,
        wanted: Reference,
        credentials: Credentials | None,
    ) -> None:
        self.endpoint = endpoint
        self._transport = transport
        self._authorizer = authorizer
        self._wanted = wanted
        self._credentials = credentials
        self._authorization: str | None = None
        # A mirror of several registries is told which one is meant (containerd's docs/hosts.md).
        self._query = f"?ns={quote(wanted.domain)}" if endpoint.is_mirror else ""

    async def document(self, name: str) -> Document:
        """The document of a tag or digest; its digest is found out, and held against the name if that is one."""
        async with self._get(f"manifests/{name}", {"Accept": _ACCEPT}) as response:
            if "html" in response.content_type:
                raise InvalidArgument(f"{self._wanted}: {response.url} answers with a web page, not with a manifest")
            content = await self._transport.body(response, spec.LARGEST_MANIFEST)
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            claimed = response.headers.get("Docker-Content-Digest", "")
            if claimed.startswith("sha256:") and claimed != digest:
                raise InvalidArgument(f"{self._wanted}: the manifest has the digest {digest}, not {claimed} as claimed")
            if name.startswith("sha256:") and digest != name:
                raise InvalidArgument(f"{self._wanted}: what the registry has as {name} has the digest {digest}")
            return Document(response.content_type, content, digest)

    async def rest(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes, None]:
        """A blob from an offset on. Who takes it checks its digest, and its end: the connection may break.

        Raises Transient, Unavailable, NotFound, Unauthenticated, PermissionDenied, DeadlineExceeded, InvalidArgument.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._get(f"blobs/{descriptor.digest}", headers) as response:
            skip = self._skipped(response, descriptor, offset)
            position = offset - skip
            async with aclosing(self._transport.chunks(response)) as chunks:
                async for chunk in chunks:
                    position += len(chunk)
                    if position > descriptor.size:
                        raise InvalidArgument(
                            f"{self._wanted}: blob {descriptor.digest} has more than the {descriptor.size} bytes "
                            "that the manifest says"
                        )
                    if skip < len(chunk):
                        yield chunk[skip:]
                    skip = max(skip - len(chunk), 0)

    def _skipped(self, response: aiohttp.ClientResponse, descriptor: Descriptor, offset: int) -> int:
        """Bytes at the answer's beginning that are here already. Raises InvalidArgument where the answer cannot fit."""
        length, begin = response.content_length, 0
        if response.status == _PARTIAL:
            content_range = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            begin = int(content_range[1]) if content_range else -1
            if not 0 <= begin <= offset:
                raise InvalidArgument(
                    f"{self._wanted}: blob {descriptor.digest}: asked from {offset}, sent from {begin}"
                )
        elif length is not None and length != descriptor.size:
            raise InvalidArgument(
                f"{self._wanted}: blob {descriptor.digest} has {length} bytes, its manifest says {descriptor.size}"
            )
        return offset - begin

    @asynccontextmanager
    async def _get(self, path: str, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """One attempt, logged in if the registry wants that."""
        url = f"{self.endpoint.url}/{self._wanted.path}/{path}{self._query}"
        async with AsyncExitStack() as stack:
            sent = self._authorization
            response = await stack.enter_async_context(self._transport.get(url, headers, sent, self.endpoint))
            if response.status == 401 and self._is_ours(response):  # noqa: PLR2004
                authorization = await self._log_in(response, sent)
                await stack.aclose()
                response = await stack.enter_async_context(
                    self._transport.get(url, headers, authorization, self.endpoint)
                )
                if response.status in (_OK, _PARTIAL):
                    self._authorization = authorization
            if response.status not in (_OK, _PARTIAL):
                await self._transport.fail(response, str(self._wanted))
            yield response

    def _is_ours(self, response: aiohttp.ClientResponse) -> bool:
        """Whether the registry itself answers: a challenge of one it redirects to would collect credentials."""
        return response.url.origin() == URL(self.endpoint.url).origin()

    async def _log_in(self, response: aiohttp.ClientResponse, sent: str | None) -> str:
        headers = response.headers.getall("WWW-Authenticate", [])
        try:
            challenges = [each for header in headers for each in challenge.parse(header)]
        except ValueError as error:
            raise Unauthenticated(f"{self._wanted}: the registry's challenge cannot be read: {error}") from error
        scope = f"repository:{self._wanted.path}:pull"
        try:
            return await self._authorizer.header(challenges, self._credentials, scope, stale=sent, via=self.endpoint)
        except Unauthenticated as error:
            raise Unauthenticated(f"{self._wanted}: {error}") from error
