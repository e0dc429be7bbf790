"""certs.d, auth files and short names, with registries that speak TLS."""

from __future__ import annotations

import base64
import json
import logging
import os
import ssl
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import trustme
from aiohttp import web

from ocishim.config import ImageSettings
from ocishim.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OcishimError,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from ocishim.images.auth import Credentials
from ocishim.images.hosts import RegistryHosts
from ocishim.images.pull import Puller
from ocishim.images.registry import Patience

from . import making
from .registries import FakeRegistry, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ocishim.images.store import ImageStore

PATIENCE = Patience(attempts=2, first=0.01)
MADE = making.image(making.tar(making.member("a", data=b"content")))


class Site:
    """Registries, a certs.d and an auth file to reach them by, and a puller into a store."""

    def __init__(self, place: Path, store: ImageStore, stack: AsyncExitStack) -> None:
        self.certs = place / "certs.d"
        self.auth = place / "auth.json"
        self.authority = trustme.CA()
        self.store = store
        self._stack = stack
        self.authority.cert_pem.write_to_path(str(place / "ca.pem"))
        self.ca = str(place / "ca.pem")

    async def registry(self, *, tls: bool = False, client_ca: bool = False) -> FakeRegistry:
        """One more; it has the image."""
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.authority.issue_cert("127.0.0.1").configure_cert(context)
            if client_ca:
                self.authority.configure_trust(context)
                context.verify_mode = ssl.CERT_REQUIRED
        registry = await self._stack.enter_async_context(FakeRegistry().serving(context))
        registry.add("made", MADE)
        return registry

    def hosts(self, name: str, text: str) -> Path:
        """A hosts.toml."""
        directory = self.certs / name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "hosts.toml").write_text(text)
        return directory

    async def pull(
        self, name: str, credentials: Credentials | None = None, *, auth: bool = False, short: list[str] | None = None
    ) -> str:
        """Pull by a new client; returns the tag that the image got."""
        settings = ImageSettings(
            certs_dir=str(self.certs), auth_file=str(self.auth) if auth else "", short_names=short or ["docker.io"]
        )
        puller = Puller(self.store, settings, PATIENCE)
        try:
            return (await puller.pull(name, credentials)).tags[-1]
        finally:
            await puller.close()


@pytest.fixture
async def site(place: Path, store: ImageStore) -> AsyncIterator[Site]:
    """An empty one."""
    async with AsyncExitStack() as stack:
        yield Site(place, store, stack)


def _asked(registry: FakeRegistry) -> list[str]:
    return [request.path for request in registry.requests]


async def test_a_mirror_is_asked_before_the_registry_and_told_which_one_is_meant(site: Site) -> None:
    mirror = await site.registry()
    site.hosts("docker.io", f'server = "https://127.0.0.1:1"\n[host."http://{mirror.host}"]\n')
    assert await site.pull("docker.io/team/made:latest") == "docker.io/team/made:latest"
    assert {request.query.get("ns") for request in mirror.requests} == {"docker.io"}
    assert _asked(mirror)[0] == "/v2/team/made/manifests/latest"


async def test_mirrors_are_asked_in_order_and_the_registry_last(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    empty, broken, full = [await site.registry() for _ in range(3)]
    empty.manifests.clear()

    async def fail(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500)

    broken.misbehave = fail
    site.hosts(
        full.host.replace(":", "_") + "_",
        f'[host."http://{empty.host}"]\n[host."http://{broken.host}"]\n[host."http://127.0.0.1:{free_port()}"]\n',
    )
    with caplog.at_level(logging.WARNING):
        await site.pull(f"{full.host}/made:latest")
    assert len(empty.requests) == len(broken.requests) == 1
    assert [record.args[1] for record in caplog.records if record.args][:2] == [empty.host, broken.host]  # type: ignore[index] # a tuple, as logged
    assert not any("ns" in request.query for request in full.requests)


async def test_a_mirror_that_loses_a_blob_is_helped_out(site: Site) -> None:
    mirror, origin = await site.registry(), await site.registry()
    del mirror.blobs[making.digest(MADE.layers[0])]
    site.hosts(origin.host, f'[host."http://{mirror.host}"]\n')
    await site.pull(f"{origin.host}/made:latest")
    assert [path.rpartition("/")[2] for path in _asked(origin)] == [making.digest(MADE.layers[0])]


async def test_a_mirror_that_may_not_resolve_is_asked_by_digest_only(site: Site) -> None:
    mirror, origin = await site.registry(), await site.registry()
    site.hosts(origin.host, f'[host."http://{mirror.host}"]\ncapabilities = ["pull"]\n')
    await site.pull(f"{origin.host}/made:latest")
    assert not any("/manifests/latest" in path for path in _asked(mirror))
    assert any("/manifests/latest" in path for path in _asked(origin))
    await site.store.remove(MADE.id)
    mirror.requests.clear()
    puller = Puller(site.store, ImageSettings(certs_dir=str(site.certs)), PATIENCE)
    await puller.pull(f"{origin.host}/made@{MADE.digest}", None)
    await puller.close()
    assert any(MADE.digest in path for path in _asked(mirror))


async def test_every_error_of_all_servers_is_the_registrys_own(site: Site) -> None:
    mirror, origin = await site.registry(), await site.registry()
    mirror.manifests.clear()
    origin.manifests.clear()
    site.hosts(origin.host, f'[host."http://{mirror.host}"]\n')
    with pytest.raises(NotFound, match=origin.host):
        await site.pull(f"{origin.host}/made:latest")


async def test_default_is_for_registries_without_a_directory(site: Site) -> None:
    mirror = await site.registry()
    site.hosts("_default", f'[host."http://{mirror.host}"]\n')
    site.hosts("other.example", f'server = "http://127.0.0.1:{free_port()}"\n')
    await site.pull("some.example/made:latest")
    with pytest.raises(Unavailable, match="RegistryUnavailable"):
        await site.pull("other.example/made:latest")


async def test_override_path_and_headers_go_to_the_host_and_nowhere_else(site: Site) -> None:
    storage, mirror = await site.registry(), await site.registry()

    async def redirect(request: web.Request) -> web.StreamResponse | None:
        assert request.path.startswith("/proxy/cache/made/")
        if "/blobs/" in request.path:
            raise web.HTTPFound(f"http://{storage.host}{request.path}")
        return None

    mirror.misbehave = redirect
    site.hosts(
        "some.example",
        f'[host."http://{mirror.host}/proxy/cache"]\noverride_path = true\n[host."http://{mirror.host}/proxy/cache".header]\n'
        'x-secret = ["one", "two"]\n',
    )
    await site.pull("some.example/made:latest")
    assert {tuple(request.headers.getall("x-secret")) for request in mirror.requests} == {("one", "two")}
    assert storage.requests
    assert not any("x-secret" in request.headers for request in storage.requests)


async def test_an_authority_of_ones_own_is_trusted_where_configured_only(site: Site) -> None:
    registry = await site.registry(tls=True)
    with pytest.raises(Unavailable, match="TLS"):
        await site.pull(f"{registry.host}/made:latest")
    site.hosts(
        registry.host,
        f'server = "https://{registry.host}"\nca = "../../ca.pem"\n',
    )
    assert await site.pull(f"{registry.host}/made:latest")
    site.hosts(registry.host, f'server = "https://{registry.host}"\n')
    with pytest.raises(Unavailable, match="TLS"):
        await site.pull(f"{registry.host}/made:latest")
    site.hosts(registry.host, f'server = "https://{registry.host}"\nskip_verify = true\n')
    assert await site.pull(f"{registry.host}/made:latest")


async def test_certificates_without_a_hosts_toml_are_read_as_docker_does(site: Site, place: Path) -> None:
    registry = await site.registry(tls=True, client_ca=True)
    directory = site.certs / registry.host
    directory.mkdir(parents=True)
    site.authority.cert_pem.write_to_path(str(directory / "ca.crt"))
    with pytest.raises(Unavailable, match="RegistryUnavailable"):
        await site.pull(f"{registry.host}/made:latest")
    client = site.authority.issue_cert("node.example")
    client.cert_chain_pems[0].write_to_path(str(directory / "client.cert"))
    client.private_key_pem.write_to_path(str(directory / "client.key"))
    assert await site.pull(f"{registry.host}/made:latest")


async def test_client_certificates_are_shown_to_the_registry(site: Site, place: Path) -> None:
    registry = await site.registry(tls=True, client_ca=True)
    client = site.authority.issue_cert("node.example")
    client.private_key_and_cert_chain_pem.write_to_path(str(place / "both.pem"))
    client.cert_chain_pems[0].write_to_path(str(place / "client.pem"))
    client.private_key_pem.write_to_path(str(place / "key.pem"))
    for value in (f'"{place}/both.pem"', f'["{place}/both.pem"]', f'[["{place}/client.pem", "{place}/key.pem"]]'):
        site.hosts(registry.host, f'server = "https://{registry.host}"\nca = "{site.ca}"\nclient = {value}\n')
        assert await site.pull(f"{registry.host}/made:latest")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server = [", "not TOML"),
        ("servers = 'a'", "servers: unknown key"),
        ("ca = '/nowhere/ca.pem'", "/nowhere/ca.pem cannot be read"),
        ("client = [['a', 'b', 'c']]", "client"),
        ("[host.'ftp://a']", "no URL of the form"),
        ("[host.'https://a']\nskip_verify = 'yes'", "skip_verify"),
    ],
)
async def test_a_file_that_cannot_be_used_is_named(site: Site, text: str, words: str) -> None:
    path = site.hosts("some.example", text)
    with pytest.raises(FailedPrecondition, match=words) as caught:
        await site.pull("some.example/made:latest")
    assert str(path) in str(caught.value) or "ca.pem" in str(caught.value)


async def test_a_certificate_that_is_none_is_named(site: Site, place: Path) -> None:
    (place / "garbage.pem").write_text("garbage")
    for key in ("ca", "client"):
        site.hosts("some.example", f'{key} = "{place}/garbage.pem"')
        with pytest.raises(FailedPrecondition, match=r"garbage\.pem"):
            await site.pull("some.example/made:latest")


def test_contexts_are_kept_as_long_as_their_files_are_the_same(site: Site) -> None:
    site.hosts("a.example", f'ca = "{site.ca}"')
    hosts = RegistryHosts(str(site.certs))
    first, again = hosts.endpoints("a.example")[0], hosts.endpoints("a.example")[0]
    assert first.tls is not None
    assert first.tls is again.tls
    os.utime(site.ca, ns=(1, 1))
    assert hosts.endpoints("a.example")[0].tls is not first.tls


def _wants(registry: FakeRegistry, login: str) -> list[str | None]:
    """Make it want a login; returns what it is sent."""
    sent: list[str | None] = []

    async def challenge(request: web.Request) -> web.StreamResponse | None:
        sent.append(request.headers.get("Authorization"))
        if sent[-1] == "Basic " + base64.b64encode(login.encode()).decode():
            return None
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="here"'})

    registry.misbehave = challenge
    return sent


async def test_credentials_come_from_the_request_else_from_the_auth_file(site: Site) -> None:
    registry = await site.registry()
    sent = _wants(registry, "user:secret")
    auth = base64.b64encode(b"user:secret").decode()
    site.auth.write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
    with pytest.raises(Unauthenticated):
        await site.pull(f"{registry.host}/made:latest")
    assert await site.pull(f"{registry.host}/made:latest", auth=True)
    with pytest.raises(Unauthenticated):
        await site.pull(f"{registry.host}/made:latest", Credentials("user", "wrong"), auth=True)
    assert any(each and "secret" not in each for each in sent)


async def test_a_requests_credentials_go_to_the_registry_and_not_to_its_mirrors(site: Site) -> None:
    mirror, origin = await site.registry(), await site.registry()
    given, wanted = _wants(mirror, "mirror:pass"), _wants(origin, "user:secret")
    site.hosts(origin.host, f'[host."http://{mirror.host}"]\n')
    await site.pull(f"{origin.host}/made:latest", Credentials("user", "secret"))
    assert set(given) == {None}
    assert len(set(wanted)) == 2
    await site.store.remove(MADE.id)
    wanted.clear()
    await site.pull(f"{origin.host}/made:latest", Credentials("mirror", "pass", server=f"https://{mirror.host}/v2/"))
    assert wanted == []


async def test_credentials_for_another_server_are_not_used(site: Site) -> None:
    registry = await site.registry()
    sent = _wants(registry, "user:secret")
    with pytest.raises(Unauthenticated):
        await site.pull(f"{registry.host}/made:latest", Credentials("user", "secret", server="other.example"))
    assert set(sent) == {None}


async def test_a_credential_helper_is_asked(site: Site, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = await site.registry()
    _wants(registry, "helped:secret")
    helper = place / "docker-credential-test"
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    site.auth.write_text(json.dumps({"credHelpers": {registry.host: "test"}}))
    with pytest.raises(FailedPrecondition, match="docker-credential-test, which is not in"):
        await site.pull(f"{registry.host}/made:latest", auth=True)
    helper.touch(0o755)
    answers = {
        "echo oops": "did not answer with a username",
        "echo credentials not found in native store; exit 1": "username and a password",
        "echo kaputt >&2; exit 1": "kaputt",
    }
    for script, words in answers.items():
        helper.write_text(f"#!/bin/sh\n{script}\n")
        with pytest.raises(OcishimError, match=words):
            await site.pull(f"{registry.host}/made:latest", auth=True)
    answer = json.dumps({"Username": "helped", "Secret": "secret"})
    helper.write_text(f"#!/bin/sh\nread server\n[ \"$1 $server\" = 'get {registry.host}' ] && echo '{answer}'\n")
    assert await site.pull(f"{registry.host}/made:latest", auth=True)


@pytest.mark.parametrize(
    "content", ["", "{", '{"auths": 7}', '{"auths": {"a": {"auth": "sesame"}}}', '{"credsStore": "../x"}']
)
async def test_an_auth_file_that_cannot_be_read_is_named_and_not_quoted(site: Site, content: str) -> None:
    site.auth.write_text(content)
    with pytest.raises(FailedPrecondition, match=r"auth\.json") as caught:
        await site.pull("some.example/made:latest", auth=True)
    assert "sesame" not in str(caught.value)


async def test_a_short_name_is_looked_for_in_the_configured_registries_only(site: Site) -> None:
    first, second = await site.registry(), await site.registry()
    first.manifests.clear()
    short = [first.host, f"{second.host}/library"]
    assert await site.pull("made", short=short) == f"{second.host}/library/made:latest"
    second.manifests.clear()
    with pytest.raises(NotFound, match=f"{first.host}.*{second.host}"):
        await site.pull("made", short=short)


async def test_a_registry_that_is_down_ends_the_search_for_a_short_name(site: Site) -> None:
    registry = await site.registry()
    with pytest.raises(Unavailable):
        await site.pull("made", short=[f"127.0.0.1:{free_port()}", registry.host])
    assert registry.requests == []


async def test_a_refusal_goes_on_to_the_next_registry(site: Site) -> None:
    first, second = await site.registry(), await site.registry()

    async def deny(_: web.Request) -> web.StreamResponse:
        return web.Response(status=403)

    first.misbehave = deny
    assert await site.pull("made", short=[first.host, second.host]) == f"{second.host}/made:latest"
    second.misbehave = deny
    with pytest.raises(NotFound):
        await site.pull("made", short=[first.host, second.host])
    with pytest.raises(PermissionDenied):
        await site.pull(f"{first.host}/made:latest")


async def test_short_names_are_refused_where_none_are_configured(site: Site) -> None:
    puller = Puller(site.store, ImageSettings(short_names=[]), PATIENCE)
    with pytest.raises(InvalidArgument, match="write HOST/made"):
        await puller.pull("made", None)
    await puller.close()
