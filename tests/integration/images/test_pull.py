"""Images come from registries whole, once, and only as what they were asked for."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import shutil
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from ocishim.config import ImageSettings
from ocishim.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from ocishim.images import hosts
from ocishim.images.pull import Puller
from ocishim.images.registry import Credentials, Patience
from ocishim.spec import image as spec

from .making import descriptor, digest, directory, image, index, member, tar, tree, write_layout
from .registries import FakeRegistry, broken_off, copy, debian_registry, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ocishim.images.store import ImageStore

    Nothing = Callable[[ImageStore], None]

QUICK = Patience(attempts=4, first=0.01)
ONE = tar(directory("etc"), member("etc/one", data=b"1"))
TWO = tar(member("two", data=os.urandom(700_000)))


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry().serving() as serving:
        yield serving


@pytest.fixture
async def puller(store: ImageStore) -> AsyncIterator[Puller]:
    made = Puller(store, ImageSettings(pull_progress_timeout=0.5), QUICK)
    yield made
    await made.close()


async def test_an_image_of_debians_registry_is_pulled_by_tag_and_by_digest(
    place: Path, store: ImageStore, puller: Puller
) -> None:
    if shutil.which("docker-registry") is None or shutil.which("skopeo") is None:
        pytest.skip("docker-registry and skopeo are not installed")
    made = image(ONE, TWO)
    layout = write_layout(place / "layout", made, "x")
    async with debian_registry(place) as host:
        await copy(f"oci:{layout}:x", f"docker://{host}/some/image:v1")
        record = await puller.pull(f"{host}/some/image:v1", None)
        assert record.id == made.id
        assert record.tags == (f"{host}/some/image:v1",)
        assert record.digests == (f"{host}/some/image@{made.digest}",)
        await store.remove(made.id)
        record = await puller.pull(f"{host}/some/image@{made.digest}", None)
        assert (record.tags, record.digests) == ((), (f"{host}/some/image@{made.digest}",))
        with pytest.raises(NotFound):
            await puller.pull(f"{host}/some/image:v2", None)
    assert tree(store.layer_paths(record.diff_ids)[0]) == {"etc": "/", "etc/one": "= 1"}


async def test_the_index_entry_of_this_machine_is_taken(
    registry: FakeRegistry, puller: Puller, store: ImageStore
) -> None:
    ours, other = image(ONE), image(TWO)
    architecture, variant = hosts.architecture()
    content = index((other, "mips", ""), (ours, architecture, variant))
    name = registry.add("a", other)
    registry.add("a", ours)
    registry.manifests["latest"] = (content, spec.OCI_INDEX)
    record = await puller.pull(name, None)
    assert record.id == ours.id
    assert record.digests == (f"{registry.host}/a@{digest(content)}",)
    registry.manifests["latest"] = (index((other, "mips", "")), spec.OCI_INDEX)
    with pytest.raises(NotFound, match="has no image for linux"):
        await puller.pull(name, None)


async def test_pulls_at_the_same_time_fetch_each_layer_once(
    registry: FakeRegistry, puller: Puller, store: ImageStore
) -> None:
    shared, third = image(ONE, TWO), tar(member("three"))
    registry.add("a", shared)
    derived = image(ONE, TWO, third)
    registry.add("b", derived)
    names = [f"{registry.host}/a@{shared.digest}", f"{registry.host}/b@{derived.digest}"] * 3
    records = await asyncio.gather(*[puller.pull(name, None) for name in names])
    assert {record.id for record in records} == {shared.id, derived.id}
    fetched = registry.fetched()
    assert {fetched[digest(layer)] for layer in derived.layers} == {1}


async def test_a_broken_connection_goes_on_where_it_broke(registry: FakeRegistry, puller: Puller) -> None:
    made = image(ONE, TWO)
    name = registry.add("a", made)
    blob = made.layers[1]

    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        if request.path.endswith(digest(blob)) and "Range" not in request.headers:
            return await broken_off(request, blob[:300_000], len(blob))
        return None

    registry.misbehave = misbehave
    assert (await puller.pull(name, None)).id == made.id
    ranges = [request.headers["Range"] for request in registry.requests if "Range" in request.headers]
    assert len(ranges) == 1
    assert 0 < int(ranges[0][6:-1]) <= 300_000


async def test_a_registry_that_knows_no_ranges_is_resumed_too(registry: FakeRegistry, puller: Puller) -> None:
    made = image(TWO)
    name = registry.add("a", made)
    blob = made.layers[0]

    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        if not request.path.endswith(digest(blob)):
            return None
        if "Range" not in request.headers:
            return await broken_off(request, blob[:300_000], len(blob))
        return web.Response(body=blob)

    registry.misbehave = misbehave
    assert (await puller.pull(name, None)).id == made.id


async def test_another_range_than_asked_for_is_refused(
    registry: FakeRegistry, puller: Puller, store: ImageStore, assert_nothing_stays: Nothing
) -> None:
    made = image(TWO)
    name = registry.add("a", made)
    blob = made.layers[0]

    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        if not request.path.endswith(digest(blob)):
            return None
        if "Range" not in request.headers:
            return await broken_off(request, blob[:1000], len(blob))
        return web.Response(status=206, body=blob[-10:], headers={"Content-Range": f"bytes {len(blob) - 10}-9/10"})

    registry.misbehave = misbehave
    with pytest.raises(InvalidArgument, match="asked from"):
        await puller.pull(name, None)
    assert_nothing_stays(store)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_registry_is_asked_again(registry: FakeRegistry, puller: Puller, status: int) -> None:
    made = image(ONE)
    name = registry.add("a", made)

    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        seen = sum(each.path == request.path for each in registry.requests)
        return web.Response(status=status, headers={"Retry-After": "0"}) if seen <= 2 else None

    registry.misbehave = misbehave
    assert (await puller.pull(name, None)).id == made.id


async def test_a_registry_that_stays_busy_is_unavailable(registry: FakeRegistry, puller: Puller) -> None:
    name = registry.add("a", image(ONE))

    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=503, text="come back\nlater")

    registry.misbehave = misbehave
    with pytest.raises(Unavailable, match=r"^RegistryUnavailable: .*503 come back later"):
        await puller.pull(name, None)


async def test_a_registry_that_is_not_there_is_unavailable(puller: Puller) -> None:
    with pytest.raises(Unavailable, match=r"^RegistryUnavailable: "):
        await puller.pull(f"127.0.0.1:{free_port()}/a", None)


async def test_a_registry_that_says_nothing_more_is_given_up(
    registry: FakeRegistry, puller: Puller, store: ImageStore, assert_nothing_stays: Nothing
) -> None:
    made = image(TWO)
    name = registry.add("a", made)

    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        if request.path.endswith(digest(made.layers[0])):
            response = web.StreamResponse(headers={"Content-Length": str(len(made.layers[0]))})
            await response.prepare(request)
            await response.write(made.layers[0][:1000])
            await asyncio.sleep(5)
        return None

    registry.misbehave = misbehave
    with pytest.raises(DeadlineExceeded, match=r"nothing came for 0\.5 s"):
        await puller.pull(name, None)
    assert_nothing_stays(store)


async def test_layers_that_came_are_kept_for_the_retry(
    registry: FakeRegistry, puller: Puller, store: ImageStore
) -> None:
    made = image(ONE, TWO)
    name = registry.add("a", made)

    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        if request.path.endswith(digest(made.layers[1])):
            await asyncio.sleep(0.1)
            return web.Response(status=405)
        return None

    registry.misbehave = misbehave
    with pytest.raises(Unavailable):
        await puller.pull(name, None)
    registry.misbehave = None
    await puller.pull(name, None)
    assert registry.fetched()[digest(made.layers[0])] == 1
    await store.remove(name)
    assert os.listdir(f"{store.root}/layers") == []


@pytest.mark.parametrize("status", [401, 403, 404, 405])
async def test_each_refusal_has_its_meaning_and_the_registrys_words(
    registry: FakeRegistry, puller: Puller, status: int
) -> None:
    kind = {401: Unauthenticated, 403: PermissionDenied, 404: NotFound, 405: Unavailable}[status]

    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        headers = {"WWW-Authenticate": 'Basic realm="x"'} if status == 401 else {}
        return web.json_response({"errors": [{"code": "CODE", "message": "words"}]}, status=status, headers=headers)

    registry.misbehave = misbehave
    with pytest.raises(kind, match="wants a username" if status == 401 else "CODE: words"):
        await puller.pull(f"{registry.host}/a", None)


async def test_a_web_page_is_no_image(registry: FakeRegistry, puller: Puller) -> None:
    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        return web.Response(text="<html>Log in to our hotel</html>", content_type="text/html")

    registry.misbehave = misbehave
    with pytest.raises(InvalidArgument, match="web page"):
        await puller.pull(f"{registry.host}/a", None)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"{", "EOF"),
        (b"[]", "object"),
        (json.dumps({"schemaVersion": 1, "fsLayers": []}).encode(), "schema 1"),
        (json.dumps({"schemaVersion": 2, "manifests": [], "layers": []}).encode(), "at once"),
        (json.dumps({"schemaVersion": 2, "mediaType": "text/plain"}).encode(), "text/plain"),
        (json.dumps({"schemaVersion": 2, "config": descriptor(b"{}", "x"), "layers": []}).encode(), "artifact"),
        (b" " * (spec.LARGEST_MANIFEST + 1), "more than"),
    ],
)
async def test_a_document_that_is_no_image_is_refused(
    registry: FakeRegistry, puller: Puller, document: bytes, words: str
) -> None:
    registry.manifests["latest"] = (document, "application/json")
    with pytest.raises(InvalidArgument, match=words):
        await puller.pull(f"{registry.host}/a", None)


async def test_a_manifest_of_another_digest_is_refused(registry: FakeRegistry, puller: Puller) -> None:
    asked, given = image(ONE), image(TWO)
    registry.add("a", given)
    registry.manifests[asked.digest] = (given.manifest, given.media_type)
    with pytest.raises(InvalidArgument, match="digest"):
        await puller.pull(f"{registry.host}/a@{asked.digest}", None)


@pytest.mark.parametrize("change", ["other", "short", "long", "config"])
async def test_a_blob_that_is_not_what_the_manifest_says_is_refused(
    registry: FakeRegistry, puller: Puller, store: ImageStore, assert_nothing_stays: Nothing, change: str
) -> None:
    made = image(ONE, TWO)
    name = registry.add("a", made)
    blob = made.layers[1]
    target = made.id if change == "config" else digest(blob)
    registry.blobs[target] = {
        "other": gzip.compress(b"x" * 1000)[:-1].ljust(len(blob), b"\0"),
        "short": blob[:-5],
        "long": blob + b"more",
        "config": made.config.replace(b'"sh"', b'"ls"'),
    }[change]
    with pytest.raises(InvalidArgument):
        await puller.pull(name, None)
    assert_nothing_stays(store)


async def test_a_body_without_end_is_cut_off(
    registry: FakeRegistry, puller: Puller, store: ImageStore, assert_nothing_stays: Nothing
) -> None:
    made = image(TWO)
    name = registry.add("a", made)

    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        if not request.path.endswith(digest(made.layers[0])):
            return None
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(made.layers[0])
        while request.transport is not None:
            await response.write(bytes(1 << 16))
        return response

    registry.misbehave = misbehave
    with pytest.raises(InvalidArgument, match="more than"):
        await puller.pull(name, None)
    assert_nothing_stays(store)


async def test_layers_and_diff_ids_must_match_in_number(registry: FakeRegistry, puller: Puller) -> None:
    made = image(ONE, diff_ids=[digest(ONE), digest(TWO)])
    with pytest.raises(InvalidArgument, match="1 layers and 2 diff ids"):
        await puller.pull(registry.add("a", made), None)


async def test_the_time_that_a_busy_registry_names_is_waited_for(registry: FakeRegistry, puller: Puller) -> None:
    made = image(ONE)
    name = registry.add("a", made)
    again = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)

    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        if len(registry.requests) == 1:
            return web.Response(status=429, headers={"Retry-After": format_datetime(again, usegmt=True)})
        if len(registry.requests) == 2:
            assert datetime.now(UTC) >= again
        return None

    registry.misbehave = misbehave
    assert (await puller.pull(name, None)).id == made.id


async def test_basic_credentials_go_to_the_registry_and_never_where_it_redirects(
    registry: FakeRegistry, puller: Puller
) -> None:
    made = image(ONE)
    name = registry.add("a", made)
    wanted = "Basic " + base64.b64encode(b"me:secret").decode()
    async with FakeRegistry().serving() as storage:
        storage.blobs |= made.blobs

        async def misbehave(request: web.Request) -> web.StreamResponse | None:
            if request.headers.get("Authorization") != wanted:
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            if "/blobs/" in request.path:
                location = f"http://{storage.host}{request.path}?sig=a%2Fb"
                return web.Response(status=307, headers={"Location": location})
            return None

        registry.misbehave = misbehave
        encoded = base64.b64encode(b"me:secret").decode()
        for credentials in (Credentials("me", "secret"), Credentials(auth=encoded)):
            assert (await puller.pull(name, credentials)).id == made.id
        assert [request.headers.get("Authorization") for request in storage.requests] == [None] * len(storage.requests)
        assert {request.raw_path.partition("?")[2] for request in storage.requests} == {"sig=a%2Fb"}
    with pytest.raises(Unauthenticated, match="401"):
        await puller.pull(name, Credentials("me", "wrong"))


async def test_a_storage_server_gets_no_credentials_by_a_challenge_of_its_own(
    registry: FakeRegistry, puller: Puller
) -> None:
    name = registry.add("a", image(ONE))
    async with FakeRegistry().serving() as storage:

        async def challenge(request: web.Request) -> web.StreamResponse | None:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="give"'})

        async def redirect(request: web.Request) -> web.StreamResponse | None:
            raise web.HTTPFound(f"http://{storage.host}/x")

        storage.misbehave, registry.misbehave = challenge, redirect
        with pytest.raises(Unauthenticated):
            await puller.pull(name, Credentials("me", "secret"))
        assert [request.headers.get("Authorization") for request in storage.requests] == [None]


@pytest.mark.parametrize("location", ["http://example.invalid/x", "file:///etc/passwd", "ftp://localhost/x", "//"])
async def test_a_redirect_into_the_open_is_not_followed(registry: FakeRegistry, puller: Puller, location: str) -> None:
    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=302, headers={"Location": location})

    registry.misbehave = misbehave
    with pytest.raises(Unavailable, match="RegistryUnavailable"):
        await puller.pull(f"{registry.host}/a", None)


async def test_redirects_in_a_circle_end(registry: FakeRegistry, puller: Puller) -> None:
    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=302, headers={"Location": request.path})

    registry.misbehave = misbehave
    with pytest.raises(Unavailable, match="redirects"):
        await puller.pull(f"{registry.host}/a", None)


def bearer(registry: FakeRegistry, answer: dict[str, object], accepted: str) -> None:
    """Makes the registry want a token of its own token server."""

    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        if request.path == "/token":
            return web.json_response(answer)
        if request.headers.get("Authorization") == f"Bearer {accepted}":
            return None
        challenge = f'Bearer realm="http://{registry.host}/token",service="s",scope="repository:a:pull"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    registry.misbehave = misbehave


async def test_one_token_serves_all_layers_and_the_next_pull(registry: FakeRegistry, puller: Puller) -> None:
    made = image(ONE, TWO)
    name = registry.add("a", made)
    bearer(registry, {"token": "t0ken", "expires_in": 300}, "t0ken")
    for _ in range(2):
        assert (await puller.pull(name, Credentials("me", "secret"))).id == made.id
    [asked] = [request for request in registry.requests if request.path == "/token"]
    assert dict(asked.query) == {"service": "s", "scope": "repository:a:pull", "account": "me"}
    assert asked.headers["Authorization"] == "Basic " + base64.b64encode(b"me:secret").decode()


async def test_an_identity_token_is_exchanged_and_a_registry_token_used_as_it_is(
    registry: FakeRegistry, puller: Puller
) -> None:
    name = registry.add("a", image(ONE))
    bearer(registry, {"access_token": "t0ken"}, "t0ken")
    await puller.pull(name, Credentials(identity_token="refresh"))
    [asked] = [request for request in registry.requests if request.path == "/token"]
    assert asked.method == "POST"
    registry.requests.clear()
    await puller.pull(name, Credentials(registry_token="t0ken"))
    assert not [request for request in registry.requests if request.path == "/token"]


@pytest.mark.parametrize("answer", [{}, {"token": ""}, {"token": "a\nb"}, {"token": 5}])
async def test_a_token_server_that_gives_none_is_named(
    registry: FakeRegistry, puller: Puller, answer: dict[str, object]
) -> None:
    bearer(registry, answer, "never")
    with pytest.raises(Unauthenticated, match="/token"):
        await puller.pull(f"{registry.host}/a", Credentials("me", "secret"))


async def test_no_token_is_asked_for_in_the_open(registry: FakeRegistry, puller: Puller) -> None:
    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer realm="http://example.invalid/token"'})

    registry.misbehave = misbehave
    with pytest.raises(Unavailable, match="not https"):
        await puller.pull(f"{registry.host}/a", Credentials("me", "secret"))


async def test_secrets_are_in_no_message(registry: FakeRegistry, puller: Puller) -> None:
    bearer(registry, {"token": "t0ken"}, "never")
    credentials = Credentials("me", "s3cret", registry_token="")
    with pytest.raises(Unauthenticated) as caught:
        await puller.pull(f"{registry.host}/a", credentials)
    assert "s3cret" not in f"{caught.value}{credentials!r}"
    assert "t0ken" not in str(caught.value)


async def test_a_cancelled_pull_leaves_nothing(
    registry: FakeRegistry, puller: Puller, store: ImageStore, assert_nothing_stays: Nothing
) -> None:
    made = image(TWO)
    name = registry.add("a", made)
    begun = asyncio.Event()

    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        if request.path.endswith(digest(made.layers[0])):
            begun.set()
            await asyncio.sleep(5)
        return None

    registry.misbehave = misbehave
    pulling = asyncio.create_task(puller.pull(name, None))
    await begun.wait()
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    assert_nothing_stays(store)
    assert not [each for each in threading.enumerate() if each.name in ("inflate-layer", "unpack-layer")]


async def test_a_pull_that_waited_for_one_that_failed_tries_itself(registry: FakeRegistry, puller: Puller) -> None:
    made = image(TWO)
    name = registry.add("a", made)
    blob = digest(made.layers[0])

    async def misbehave(request: web.Request) -> web.StreamResponse | None:
        if request.path.endswith(blob) and registry.fetched()[blob] == 1:
            await asyncio.sleep(0.2)
            return web.Response(status=403)
        return None

    registry.misbehave = misbehave
    results = await asyncio.gather(puller.pull(name, None), puller.pull(name, None), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["ImageRecord", "PermissionDenied"]
    assert registry.fetched()[blob] == 2
