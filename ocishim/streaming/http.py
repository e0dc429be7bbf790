"""The one HTTP/1.1 request of a connection, and its answer: an upgrade, or an error and the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import h11

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocishim.streaming.connection import Connection

LARGEST_HEAD: Final = 16 << 10
"""Bytes of a request line and its headers."""
_METHODS: Final = (b"GET", b"POST")


class BadRequest(ValueError):  # noqa: N818 - an answer as much as an error
    """A request that is answered by an error; `status` is HTTP's."""

    def __init__(self, status: int, words: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(words)
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for."""

    path: str
    """Without its query."""
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case."""

    def values(self, name: str) -> list[str]:
        """All values of a header, also those that share a line."""
        wanted = name.lower().encode()
        lines = (value.decode("latin-1") for key, value in self.headers if key == wanted)
        return [item for line in lines for part in line.split(",") if (item := part.strip())]

    def upgrades_to(self) -> str:
        """The protocol that it wants to speak, in lower case; empty: none."""
        connection = {token.lower() for token in self.values("connection")}
        wanted = self.values("upgrade")
        return wanted[0].lower() if wanted and "upgrade" in connection else ""


class Exchange:
    """Reads the request, writes the answer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST_HEAD)

    async def request(self) -> Request | None:
        """The request; None where the client left without one. Raises BadRequest.

        What came after it is the upgraded protocol's and stays with the connection.
        """
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                data = await self._connection.read()
                if not data:
                    return None
                self._http.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise BadRequest(error.error_status_hint, str(error)) from error
        if not isinstance(event, h11.Request):
            return None
        if event.method not in _METHODS:
            raise BadRequest(405, "only GET and POST are served here", [("allow", "GET, POST")])
        self._connection.unread(self._http.trailing_data[0])
        target = event.target.decode("latin-1")
        return Request(target.partition("?")[0], target, tuple((bytes(k), bytes(v)) for k, v in event.headers))

    async def switch(self, protocol: str, headers: Sequence[tuple[str, str]]) -> None:
        """Answer 101: from now on the connection speaks the protocol."""
        lines = [("connection", "Upgrade"), ("upgrade", protocol), *headers]
        head = "".join(f"{name.title()}: {value}\r\n" for name, value in lines)
        await self._connection.write(f"HTTP/1.1 101 Switching Protocols\r\n{head}\r\n".encode("latin-1"))

    async def refuse(self, answer: BadRequest) -> None:
        """Answer an error and no more."""
        body = f"{answer}\n".encode()
        headers = [("connection", "close"), ("content-type", "text/plain; charset=utf-8")]
        headers += [("content-length", str(len(body))), *answer.headers]
        # A request that h11 could not read leaves it unable to write: a fresh state writes any error.
        http = h11.Connection(h11.SERVER)
        http.receive_data(b"GET / HTTP/1.0\r\n\r\n")
        http.next_event()
        response = http.send(h11.Response(status_code=answer.status, headers=headers)) or b""
        body_part = http.send(h11.Data(data=body)) or b""
        await self._connection.write(response + body_part)
