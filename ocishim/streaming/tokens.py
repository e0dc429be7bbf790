"""One-time tokens: who knows one may make the one request it stands for, once, within a minute."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim.errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocishim.protocol.remote_command import Wanted

LIFETIME: Final = 60.0
"""Seconds."""
MOST: Final = 1000
"""Tokens that wait for their request; an RPC past them fails instead of filling memory."""
_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class Exec:
    """To run a command in a container."""

    container_id: str
    command: tuple[str, ...]
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Attach:
    """To be connected to a container's process."""

    container_id: str
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class PortForward:
    """To reach ports of a pod; those named here are what a WebSocket's channels stand for."""

    sandbox_id: str
    ports: tuple[int, ...]


Ticket = Exec | Attach | PortForward
PATHS: Final[dict[str, type[Ticket]]] = {"exec": Exec, "attach": Attach, "portforward": PortForward}
"""The first part of a URL's path, by what its token must stand for."""


class Tokens:
    """Tokens are kept as their digests, so that how long a look-up takes says nothing of a guess's closeness."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tickets: dict[bytes, tuple[float, Ticket]] = {}
        """The oldest first."""

    def mint(self, ticket: Ticket) -> str:
        """A new token for the ticket. Raises ResourceExhausted where too many are waiting."""
        self._drop_expired()
        if len(self._tickets) >= MOST:
            raise ResourceExhausted(f"{MOST} exec, attach and port-forward URLs wait for their requests already")
        token = secrets.token_urlsafe(_BYTES)
        self._tickets[_digest(token)] = (self._clock() + LIFETIME, ticket)
        return token

    def redeem(self, path: str) -> Ticket | None:
        """What a URL's path gives the right to, once; None for whatever else."""
        self._drop_expired()
        kind, _, token = path.removeprefix("/").partition("/")
        digest = _digest(token)
        found = self._tickets.get(digest)
        if found is None or not isinstance(found[1], PATHS.get(kind, ())):
            return None
        del self._tickets[digest]
        return found[1]

    def _drop_expired(self) -> None:
        now = self._clock()
        expired = [digest for digest, (until, _) in self._tickets.items() if until <= now]
        for digest in expired:
            del self._tickets[digest]


def path_of(ticket: Ticket, token: str) -> str:
    """The path of the ticket's URL."""
    kind = next(name for name, kind in PATHS.items() if isinstance(ticket, kind))
    return f"/{kind}/{token}"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
