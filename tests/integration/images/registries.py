"""Registries to pull from: Debian's, and one that does as it is told, also when that is wrong."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from .making import Image, digest

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Misbehaviour = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class FakeRegistry:
    """Serves manifests by name or digest and blobs by digest; `misbehave` goes first and may answer instead."""

    def __init__(self) -> None:
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[web.Request] = []
        self.misbehave: Misbehaviour | None = None
        self.port = 0

    @property
    def host(self) -> str:
        """As it is named in references."""
        return f"127.0.0.1:{self.port}"

    def add(self, name: str, made: Image) -> str:
        """Offer an image as name:latest; returns the reference."""
        self.manifests["latest"] = (made.manifest, made.media_type)
        self.manifests[made.digest] = (made.manifest, made.media_type)
        self.blobs |= made.blobs
        return f"{self.host}/{name}:latest"

    def fetched(self) -> Counter[str]:
        """How often each blob was asked for."""
        return Counter(request.path.rpartition("/")[2] for request in self.requests if "/blobs/" in request.path)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        self.requests.append(request)
        if self.misbehave is not None and (wrong := await self.misbehave(request)) is not None:
            return wrong
        kind, name = request.path.split("/")[-2:]
        if kind == "manifests" and name in self.manifests:
            content, media_type = self.manifests[name]
            return web.Response(
                body=content, headers={"Content-Type": media_type, "Docker-Content-Digest": digest(content)}
            )
        if kind == "blobs" and name in self.blobs:
            return ranged(request, self.blobs[name])
        return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such thing"}]}, status=404)

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeRegistry]:
        """For as long as it is needed."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()


def ranged(request: web.Request, content: bytes) -> web.Response:
    """All of it, or from where the request wants it."""
    begin = int(request.headers.get("Range", "bytes=0-")[6:-1])
    if not begin:
        return web.Response(body=content)
    headers = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}
    return web.Response(status=206, body=content[begin:], headers=headers)


async def broken_off(request: web.Request, content: bytes, length: int) -> web.StreamResponse:
    """Announces `length` bytes, sends the content and hangs up."""
    response = web.StreamResponse(headers={"Content-Length": str(length)})
    await response.prepare(request)
    await response.write(content)
    assert request.transport is not None
    request.transport.close()
    return response


@asynccontextmanager
async def debian_registry(place: Path) -> AsyncIterator[str]:
    """docker-registry on a loopback port; yields host:port."""
    port = free_port()
    config = place / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {place}/registry\n"
        f"http:\n  addr: 127.0.0.1:{port}\nlog:\n  level: error\n"
    )
    with (place / "registry.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "docker-registry", "serve", str(config), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        for _ in range(200):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            await writer.wait_closed()
            break
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def copy(source: str, target: str) -> None:
    """skopeo copy, without TLS."""
    process = await asyncio.create_subprocess_exec(
        "skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", source, target
    )
    assert await process.wait() == 0
