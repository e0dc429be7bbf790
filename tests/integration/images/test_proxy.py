"""Registries behind a proxy: plain ones by its own requests, others by a tunnel."""

from __future__ import annotations

import asyncio
import base64
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

from ocishim.config import ImageSettings
from ocishim.errors import FailedPrecondition, Unavailable
from ocishim.images.pull import Puller
from ocishim.images.registry import Patience

from . import making
from .registries import FakeRegistry, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ocishim.images.store import ImageStore

MADE = making.image(making.tar(making.member("a", data=b"content")))
NAME = "registry.invalid/made:latest"
"""No resolver knows this name (RFC 2606): who gets there came through the proxy."""


@pytest.fixture(autouse=True)
def no_proxy_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def pull(place: Path, store: ImageStore) -> AsyncIterator[Puller]:
    """A puller to whom registry.invalid is what `hosts` says."""
    puller = Puller(store, ImageSettings(certs_dir=str(place / "certs.d")), Patience(attempts=2, first=0.01))
    yield puller
    await puller.close()


def hosts(place: Path, text: str) -> None:
    directory = place / "certs.d/registry.invalid"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(text)


class Tunnels:
    """A proxy that knows CONNECT only, to one address whatever is asked for."""

    def __init__(self, target: int, status: str) -> None:
        self._target = target
        self._status = status
        self.asked: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.partition(b"\r\n")[0])
        writer.write(f"HTTP/1.1 {self._status}\r\n\r\n".encode())
        if self._status.startswith("200"):
            there, onward = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(copied(reader, onward), copied(there, writer))
        writer.close()


async def copied(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    except ConnectionError:
        pass
    target.close()


@asynccontextmanager
async def tunnelling(target: int, status: str = "200 OK") -> AsyncIterator[tuple[Tunnels, int]]:
    tunnels = Tunnels(target, status)
    server = await asyncio.start_server(tunnels.serve, "127.0.0.1", 0)
    async with server:
        yield tunnels, server.sockets[0].getsockname()[1]


async def test_a_plain_registry_is_asked_through_the_proxy_with_the_proxys_own_credentials(
    place: Path, pull: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts(place, 'server = "http://registry.invalid"\n')
    async with FakeRegistry().serving() as proxy:
        proxy.add("made", MADE)
        monkeypatch.setenv("HTTP_PROXY", f"http://me:s3cret@{proxy.host}")
        assert (await pull.pull(NAME, None)).id == MADE.id
    assert {request.host for request in proxy.requests} == {"registry.invalid"}
    login = "Basic " + base64.b64encode(b"me:s3cret").decode()
    assert {request.headers["Proxy-Authorization"] for request in proxy.requests} == {login}
    assert not any("Authorization" in request.headers for request in proxy.requests)


async def test_a_registry_by_tls_is_asked_through_a_tunnel(
    place: Path, pull: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(place / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("registry.invalid").configure_cert(context)
    hosts(place, f'server = "https://registry.invalid"\nca = "{place}/ca.pem"\n')
    async with FakeRegistry().serving(context) as registry, tunnelling(registry.port) as (tunnels, port):
        registry.add("made", MADE)
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{port}")
        assert (await pull.pull(NAME, None)).id == MADE.id
        await pull.close()
    assert set(tunnels.asked) == {b"CONNECT registry.invalid:443 HTTP/1.1"}


async def test_what_no_proxy_names_is_asked_directly(
    place: Path, pull: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts(place, 'server = "http://registry.invalid"\n')
    async with FakeRegistry().serving() as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        monkeypatch.setenv("no_proxy", "10.0.0.0/8,.invalid")
        with pytest.raises(Unavailable):
            await pull.pull(NAME, None)
    assert proxy.requests == []


async def test_this_machines_own_registry_is_asked_directly(pull: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    async with FakeRegistry().serving() as registry:
        assert (await pull.pull(registry.add("made", MADE), None)).id == MADE.id


async def test_a_proxy_that_is_not_there_is_named_without_its_password(
    pull: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("https_proxy", f"http://me:s3cret@127.0.0.1:{port}")
    with pytest.raises(Unavailable, match=f"through the proxy http://127.0.0.1:{port}: ") as caught:
        await pull.pull(NAME, None)
    assert "s3cret" not in str(caught.value)


async def test_a_proxy_that_refuses_is_quoted_without_its_password(
    pull: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnelling(0, "407 Who Are You") as (_, port):
        monkeypatch.setenv("https_proxy", f"http://me:s3cret@127.0.0.1:{port}")
        with pytest.raises(Unavailable, match="answers 407 Who Are You") as caught:
            await pull.pull(NAME, None)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["http://me:s3cret@[nowhere", "http://", "socks5://me:s3cret@127.0.0.1:1"])
async def test_a_proxy_that_is_none_is_refused_and_not_quoted(
    pull: Puller, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(FailedPrecondition, match=r"proxy") as caught:
        await pull.pull(NAME, None)
    assert "s3cret" not in str(caught.value)
