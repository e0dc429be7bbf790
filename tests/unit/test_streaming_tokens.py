"""Tokens and requests of the streaming server."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest

from ocishim.config import StreamingSettings
from ocishim.errors import FailedPrecondition, ResourceExhausted
from ocishim.protocol.remote_command import Wanted
from ocishim.streaming import certificates, tokens
from ocishim.streaming.http import Request
from ocishim.streaming.remote_stream import Inbox, StreamGone

if TYPE_CHECKING:
    from pathlib import Path

WANTED = Wanted(stdin=False, stdout=True, stderr=False, tty=False)
ATTACH = tokens.Attach("c1", WANTED)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_token_serves_once() -> None:
    minted = tokens.Tokens()
    path = tokens.path_of(ATTACH, minted.mint(ATTACH))
    assert minted.redeem(path) == ATTACH
    assert minted.redeem(path) is None


def test_a_token_serves_for_a_minute() -> None:
    clock = Clock()
    minted = tokens.Tokens(clock)
    early, late = (tokens.path_of(ATTACH, minted.mint(ATTACH)) for _ in range(2))
    clock.now = tokens.LIFETIME - 1
    assert minted.redeem(early) == ATTACH
    clock.now = tokens.LIFETIME
    assert minted.redeem(late) is None


@pytest.mark.parametrize(
    "path", ["/exec/{}", "/attach/{}x", "/attach//{}", "attach/", "/attach/{}/", "/", "", "/\udcff"]
)
def test_a_token_serves_its_own_path_only(path: str) -> None:
    minted = tokens.Tokens()
    token = minted.mint(ATTACH)
    assert minted.redeem(path.format(token)) is None
    assert minted.redeem(f"/attach/{token}") == ATTACH


def test_too_many_waiting_tokens_are_refused_until_they_expire() -> None:
    clock = Clock()
    minted = tokens.Tokens(clock)
    for _ in range(tokens.MOST):
        minted.mint(ATTACH)
    with pytest.raises(ResourceExhausted):
        minted.mint(ATTACH)
    clock.now = tokens.LIFETIME
    assert minted.mint(ATTACH)


def test_values_of_headers_may_share_a_line() -> None:
    lines = ((b"connection", b"keep-alive, Upgrade"), (b"upgrade", b"SPDY/3.1"), (b"x", b"a,b"), (b"x", b"c"))
    request = Request("/", "/", lines)
    assert request.upgrades_to() == "spdy/3.1"
    assert request.values("X") == ["a", "b", "c"]


def test_an_upgrade_that_the_connection_does_not_name_is_none() -> None:
    assert Request("/", "/", ((b"upgrade", b"SPDY/3.1"),)).upgrades_to() == ""


async def test_an_inbox_keeps_order_and_tells_what_is_used() -> None:
    used: list[int] = []
    inbox = Inbox(used.append)
    inbox.put(b"one")
    inbox.put(b"")
    inbox.put(b"three")
    inbox.end()
    inbox.put(b"late")
    assert [await inbox.get(), await inbox.get(), await inbox.get()] == [b"one", b"three", b""]
    assert sorted(used) == [3, 4, 5]


async def test_a_reader_of_an_abandoned_stream_is_told() -> None:
    inbox = Inbox(lambda _: None)
    waiting = asyncio.ensure_future(inbox.get())
    await asyncio.sleep(0)
    inbox.fail()
    with pytest.raises(StreamGone):
        await waiting


async def test_a_stream_that_ended_cannot_be_abandoned() -> None:
    inbox = Inbox(lambda _: None)
    inbox.end()
    inbox.fail()
    assert await inbox.get() == b""


def test_a_self_made_certificate_serves_its_address() -> None:
    settings = StreamingSettings(tls=True, address="127.0.0.1")
    assert isinstance(certificates.context(settings), ssl.SSLContext)
    assert certificates.context(StreamingSettings()) is None


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "cert.pem"
    with pytest.raises(FailedPrecondition, match=str(missing)):
        certificates.context(StreamingSettings(tls=True, cert_file=str(missing)))


@pytest.mark.parametrize("address", ["localhost", "1.2.3", ""])
def test_an_address_is_an_ip_address(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        StreamingSettings(address=address)
