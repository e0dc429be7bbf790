"""Registries: an image's parts from whichever of its registry's endpoints has them, tried again while that may help."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from ocishim.errors import DeadlineExceeded, InvalidArgument, NotFound, OcishimError, Unavailable
from ocishim.images.auth import Authorizer, Credentials
from ocishim.images.hosts import RegistryHosts
from ocishim.images.login import Logins
from ocishim.images.repository import Document, Repository
from ocishim.images.transport import Transient, Transport
from ocishim.spec import image as spec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from ocishim.images.hosts import Endpoint
    from ocishim.spec.image import Descriptor
    from ocishim.spec.reference import Reference

__all__ = ["Credentials", "Document", "Patience", "Registry", "Source"]

T = TypeVar("T")

log = logging.getLogger(__name__)

_MOST_BREAKS: Final = 100


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

    async def wait(self, failures: int, errors: Sequence[OcishimError]) -> None:
        """Wait before the next round over all endpoints; raise what a user should read where there is to be none."""
        for error in errors:
            if not isinstance(error, Unavailable | DeadlineExceeded):
                raise error
        transient = next((error for error in errors if isinstance(error, Transient)), None)
        if transient is None or failures >= self.attempts:
            # A server that is asked by two protocols fails in two ways, and one of them is the one that matters.
            raise type(errors[0])("; by another way: ".join(dict.fromkeys(map(str, errors))))
        await asyncio.sleep(self.delay(failures, transient))


class Registry:
    """All registries: connections and tokens shared by every pull."""

    def __init__(
        self, *, progress_timeout: float, certs_dir: str = "", auth_file: str = "", patience: Patience | None = None
    ) -> None:
        self._transport = Transport(progress_timeout)
        self._authorizer = Authorizer(self._transport.ask)
        self._hosts = RegistryHosts(certs_dir)
        self._logins = Logins(auth_file)
        self._patience = patience or Patience()

    async def close(self) -> None:
        """End all connections."""
        await self._authorizer.close()
        await self._transport.close()

    async def source(self, wanted: Reference, credentials: Credentials | None) -> Source:
        """Where an image may be had. Raises FailedPrecondition where this host's own configuration is no use."""
        endpoints = await asyncio.to_thread(self._hosts.endpoints, wanted.domain)
        repositories = [await self._repository(endpoint, wanted, credentials) for endpoint in endpoints]
        return Source(wanted, repositories, self._patience)

    async def _repository(self, endpoint: Endpoint, wanted: Reference, credentials: Credentials | None) -> Repository:
        login = await self._logins.for_endpoint(endpoint, wanted, credentials)
        return Repository(self._transport, self._authorizer, endpoint, wanted=wanted, credentials=login)


class Source:
    """An image's parts, from the first endpoint that has them; mirrors go before the registry itself."""

    is_remote = True

    def __init__(self, wanted: Reference, repositories: Sequence[Repository], patience: Patience) -> None:
        self._wanted = wanted
        self._resolving = [each for each in repositories if "resolve" in each.endpoint.host.capabilities]
        self._pulling = [each for each in repositories if "pull" in each.endpoint.host.capabilities]
        self._patience = patience

    async def resolve(self) -> Document:
        """What the reference stands for; its digest is checked, or found out for a tag.

        Raises NotFound, Unauthenticated, PermissionDenied, Unavailable, DeadlineExceeded or InvalidArgument.
        """
        if self._wanted.digest is not None:
            return await self._first(self._pulling, lambda repository: repository.document(self._wanted.digest or ""))
        return await self.tagged(self._wanted.tag or "")

    async def tagged(self, tag: str) -> Document:
        """What a tag of the repository stands for. Raises as `resolve` does."""
        return await self._first(self._resolving, lambda repository: repository.document(tag))

    async def manifest(self, descriptor: Descriptor) -> bytes:
        """A manifest that an index names, checked against its descriptor."""
        document = await self._first(self._pulling, lambda repository: repository.document(descriptor.digest))
        spec.check_digest(document.content, descriptor)
        return document.content

    async def blob(self, descriptor: Descriptor) -> bytes:
        """A small blob, checked against its descriptor."""
        if descriptor.size > spec.LARGEST_MANIFEST:
            raise InvalidArgument(f"{self._wanted}: configuration {descriptor.digest} has {descriptor.size} bytes")
        async with aclosing(self.chunks(descriptor)) as chunks:
            content = b"".join([chunk async for chunk in chunks])
        spec.check_digest(content, descriptor)
        return content

    async def _first(self, repositories: list[Repository], ask: Callable[[Repository], Awaitable[T]]) -> T:
        failures = 0
        while True:
            refusals = _Refusals(self._wanted)
            for repository in list(repositories):
                try:
                    answer = await ask(repository)
                except OcishimError as error:
                    refusals.note(repository, error)
                else:
                    self._prefer(repository)
                    return answer
            failures += 1
            await self._patience.wait(failures, refusals.errors())

    async def chunks(self, descriptor: Descriptor, begin: int = 0) -> AsyncGenerator[bytes, None]:
        """A blob of exactly the descriptor's size, as it comes; a broken connection goes on where it broke.

        Who takes the chunks checks the digest. Raises as `resolve` does.
        """
        taken, failures, breaks = begin, 0, 0
        while True:
            refusals = _Refusals(self._wanted)
            for repository in list(self._pulling):
                try:
                    async with aclosing(repository.rest(descriptor, taken)) as rest:
                        async for chunk in rest:
                            taken, failures = taken + len(chunk), 0
                            yield chunk
                    self._check_end(descriptor, taken)
                except OcishimError as error:
                    refusals.note(repository, error)
                else:
                    return
            failures, breaks = failures + 1, breaks + 1
            if breaks > _MOST_BREAKS:
                raise refusals.errors()[0]
            await self._patience.wait(failures, refusals.errors())

    def _check_end(self, descriptor: Descriptor, taken: int) -> None:
        if taken != descriptor.size:
            raise Transient(
                f"RegistryUnavailable: {self._wanted}: blob {descriptor.digest} ends "
                f"after {taken} of {descriptor.size} bytes"
            )

    def _prefer(self, repository: Repository) -> None:
        """Who had one part of the image is asked first for the next; not the same server by its other protocol."""
        if repository in self._pulling:
            name = repository.endpoint.name
            self._pulling = [repository, *(each for each in self._pulling if each.endpoint.name != name)]


class _Refusals:
    """What every endpoint said in one round."""

    def __init__(self, wanted: Reference) -> None:
        self._wanted = wanted
        self._own: list[OcishimError] = []
        self._mirrors: list[OcishimError] = []

    def note(self, repository: Repository, error: OcishimError) -> None:
        """One endpoint's answer."""
        if repository.endpoint.is_mirror:
            log.warning("%s: mirror %s: %s", self._wanted, repository.endpoint.name, error)
            self._mirrors.append(error)
        else:
            self._own.append(error)

    def errors(self) -> list[OcishimError]:
        """The registry's own answers; the mirrors' where it was not asked."""
        return (
            self._own
            or self._mirrors
            or [NotFound(f"{self._wanted}: hosts.toml names no server that may be asked for it")]
        )
