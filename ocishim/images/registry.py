"""Registries: manifests and blobs over the distribution API (OCI distribution-spec 1.1, Docker's registry v2)."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from yarl import URL

from ocishim.errors import InvalidArgument, Unauthenticated, Unavailable
from ocishim.images import hosts
from ocishim.images.auth import Authorizer, Credentials
from ocishim.images.transport import Transient, Transport
from ocishim.protocol import challenge
from ocishim.spec import image as spec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    import aiohttp

    from ocishim.images.hosts import Endpoint
    from ocishim.spec.image import Descriptor
    from ocishim.spec.reference import Reference

__all__ = ["Credentials", "Document", "Patience", "Registry", "Repository"]

_ACCEPT: Final = ", ".join((*spec.INDEX_TYPES, *spec.MANIFEST_TYPES))
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]+/")
_MOST_BREAKS: Final = 100
_PARTIAL: Final = 206
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a thing is tried and how long is waited between: first, twice that, four times, with some jitter."""

    attempts: int = 5
    first: float = 0.4
    longest: float = 10.0

    def delay(self, failures: int, error: Transient) -> float:
        """Seconds to wait after so many failures in a row; the registry's own wish goes first."""
        if error.wait is not None:
            return error.wait
        return min(self.first * 2.0 ** (failures - 1), self.longest) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index as it came."""

    media_type: str
    content: bytes
    digest: str


class Registry:
    """All registries: connections and tokens shared by every pull."""

    def __init__(self, *, progress_timeout: float, patience: Patience | None = None) -> None:
        self._transport = Transport(progress_timeout)
        self._authorizer = Authorizer(self._transport.ask)
        self._patience = patience or Patience()

    async def close(self) -> None:
        """End all connections."""
        await self._authorizer.close()
        await self._transport.close()

    async def resolve(self, wanted: Reference, credentials: Credentials | None) -> tuple[Repository, Document]:
        """What a reference stands for, and where the rest of it is: the first endpoint that has it.

        Raises NotFound, Unauthenticated, PermissionDenied, Unavailable, DeadlineExceeded or InvalidArgument.
        """
        repositories = [
            Repository(
                self._transport,
                self._authorizer,
                endpoint,
                wanted=wanted,
                credentials=credentials,
                patience=self._patience,
            )
            for endpoint in hosts.endpoints(wanted.domain)
        ]
        failures = 0
        while True:
            unreachable: list[Unavailable] = []
            for repository in repositories:
                try:
                    return repository, await repository.resolve()
                except Unavailable as error:
                    unreachable.append(error)
            failures += 1
            transient = next((error for error in unreachable if isinstance(error, Transient)), None)
            if transient is None or failures >= self._patience.attempts:
                raise unreachable[0]
            await asyncio.sleep(self._patience.delay(failures, transient))


class Repository:
    """One repository at one endpoint, with the credentials of one pull."""

    is_remote = True

    def __init__(
        self,
        transport: Transport,
        authorizer: Authorizer,
        endpoint: Endpoint,
        *,
        wanted: Reference,
        credentials: Credentials | None,
        patience: Patience,
    ) -> None:
        self._transport = transport
        self._authorizer = authorizer
        self._endpoint = endpoint
        self._wanted = wanted
        self._credentials = credentials
        self._patience = patience
        self._authorization: str | None = None

    async def resolve(self) -> Document:
        """The document that the reference names, one attempt; its digest is checked, or found out for a tag."""
        wanted = self._wanted
        document = await self._document(wanted.digest or wanted.tag or "")
        if wanted.digest is not None and document.digest != wanted.digest:
            raise InvalidArgument(f"{wanted}: what the registry has under that name has the digest {document.digest}")
        return document

    async def manifest(self, descriptor: Descriptor) -> bytes:
        """A manifest that an index names, checked against its descriptor."""
        document = await self._patiently(descriptor.digest)
        spec.check_digest(document.content, descriptor)
        return document.content

    async def _patiently(self, name: str) -> Document:
        failures = 0
        while True:
            try:
                return await self._document(name)
            except Transient as error:
                failures += 1
                if failures >= self._patience.attempts:
                    raise
                await asyncio.sleep(self._patience.delay(failures, error))

    async def _document(self, name: str) -> Document:
        async with self._get(f"manifests/{name}", {"Accept": _ACCEPT}) as response:
            if "html" in response.content_type:
                raise InvalidArgument(f"{self._wanted}: {response.url} answers with a web page, not with a manifest")
            content = await self._transport.body(response, spec.LARGEST_MANIFEST)
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            claimed = response.headers.get("Docker-Content-Digest", "")
            if claimed.startswith("sha256:") and claimed != digest:
                raise InvalidArgument(f"{self._wanted}: the manifest has the digest {digest}, not {claimed} as claimed")
            return Document(response.content_type, content, digest)

    async def blob(self, descriptor: Descriptor) -> bytes:
        """A small blob, checked against its descriptor."""
        if descriptor.size > spec.LARGEST_MANIFEST:
            raise InvalidArgument(f"{self._wanted}: configuration {descriptor.digest} has {descriptor.size} bytes")
        async with aclosing(self.chunks(descriptor)) as chunks:
            content = b"".join([chunk async for chunk in chunks])
        spec.check_digest(content, descriptor)
        return content

    async def chunks(self, descriptor: Descriptor, begin: int = 0) -> AsyncGenerator[bytes, None]:
        """A blob of exactly the descriptor's size, as it comes; a broken connection goes on where it broke.

        Who takes the chunks checks the digest. Raises as `resolve` does.
        """
        taken, failures, breaks = begin, 0, 0
        while True:
            try:
                async with aclosing(self._rest(descriptor, taken)) as rest:
                    async for chunk in rest:
                        taken, failures = taken + len(chunk), 0
                        yield chunk
                self._check_end(descriptor, taken)
                return
            except Transient as error:
                failures, breaks = failures + 1, breaks + 1
                if failures >= self._patience.attempts or breaks > _MOST_BREAKS:
                    raise
                await asyncio.sleep(self._patience.delay(failures, error))

    def _check_end(self, descriptor: Descriptor, taken: int) -> None:
        if taken != descriptor.size:
            raise Transient(
                f"RegistryUnavailable: {self._wanted}: blob {descriptor.digest} ends "
                f"after {taken} of {descriptor.size} bytes"
            )

    async def _rest(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes, None]:
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
        url = f"{self._endpoint.url}/v2/{self._wanted.path}/{path}"
        async with AsyncExitStack() as stack:
            sent = self._authorization
            response = await stack.enter_async_context(self._transport.get(url, headers, sent))
            if response.status == 401 and self._is_ours(response):  # noqa: PLR2004
                authorization = await self._log_in(response, sent)
                await stack.aclose()
                response = await stack.enter_async_context(self._transport.get(url, headers, authorization))
                if response.status in (_OK, _PARTIAL):
                    self._authorization = authorization
            if response.status not in (_OK, _PARTIAL):
                await self._transport.fail(response, str(self._wanted))
            yield response

    def _is_ours(self, response: aiohttp.ClientResponse) -> bool:
        """Whether the registry itself answers: a challenge of one it redirects to would collect credentials."""
        return response.url.origin() == URL(self._endpoint.url).origin()

    async def _log_in(self, response: aiohttp.ClientResponse, sent: str | None) -> str:
        headers = response.headers.getall("WWW-Authenticate", [])
        try:
            challenges = [each for header in headers for each in challenge.parse(header)]
        except ValueError as error:
            raise Unauthenticated(f"{self._wanted}: the registry's challenge cannot be read: {error}") from error
        scope = f"repository:{self._wanted.path}:pull"
        try:
            return await self._authorizer.header(challenges, self._credentials, scope, stale=sent)
        except Unauthenticated as error:
            raise Unauthenticated(f"{self._wanted}: {error}") from error
