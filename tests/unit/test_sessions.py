"""Sessions of exec, attach and port-forward, with a server that behaves and with ones that do not."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from streaming_peer import Peer, SpdyCommand, serving

from ocishim.client import forward, session, websocket
from ocishim.errors import OperationFailed, Unavailable
from ocishim.linux.stdio import opened_input, opened_output

if TYPE_CHECKING:
    from collections.abc import Iterator

V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
SUCCESS = b'{"metadata":{},"status":"Success"}'


class Local:
    """This side of a session, as pipes."""

    def __init__(self, stack: ExitStack) -> None:
        self.said: list[str] = []
        (stdin, self.typed), (self._out, stdout), (self._err, stderr) = os.pipe(), os.pipe(), os.pipe()
        for fd in (stdin, self._out, stdout, self._err, stderr):
            stack.callback(os.close, fd)
        stack.callback(self.end_input)
        self.ends = session.Ends(
            stdin=stack.enter_context(opened_input(stdin)),
            stdout=stack.enter_context(opened_output(stdout)),
            stderr=stack.enter_context(opened_output(stderr)),
            detach_keys=b"\x10\x11",
            warn=self.said.append,
        )

    def type(self, data: bytes) -> None:
        os.write(self.typed, data)

    def end_input(self) -> None:
        if self.typed >= 0:
            os.close(self.typed)
        self.typed = -1

    @property
    def without_input(self) -> session.Ends:
        return dataclasses.replace(self.ends, stdin=None)

    @property
    def out(self) -> bytes:
        return os.read(self._out, 1 << 16)

    @property
    def err(self) -> bytes:
        return os.read(self._err, 1 << 16)


@pytest.fixture
def local() -> Iterator[Local]:
    with ExitStack() as stack:
        yield Local(stack)


async def converse(url: str, ends: session.Ends) -> int | None:
    async def new_url() -> str:
        return url

    return await session.converse(new_url, ends)


@contextmanager
def refused(words: str, kind: type[Exception] = OperationFailed) -> Iterator[None]:
    with pytest.raises(kind, match=words):
        yield


async def test_output_goes_to_its_streams_and_the_exit_code_comes_back(local: Local) -> None:
    async def behave(peer: Peer) -> None:
        request = await peer.accept(V5)
        assert (request.target, request.subprotocols) == ("/exec/token?x=1", [V5])
        await peer.say(1, b"")
        await peer.say(1, b"out")
        await peer.say(2, b"err")
        causes = [{"reason": "ExitCode", "message": "7"}]
        status = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
        await peer.say(3, json.dumps(status).encode())
        assert await peer.message() == b""

    async with serving(behave) as url:
        assert await converse(url, local.ends) == 7
    assert (local.out, local.err) == (b"out", b"err")


async def test_v5_says_that_the_input_has_ended(local: Local) -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept(V5)
        assert await peer.message() == b"\x00hello"
        assert await peer.message() == b"\xff\x00"
        await peer.say(255, b"\x01")
        await peer.say(3, SUCCESS)

    local.type(b"hello")
    local.end_input()
    async with serving(behave) as url:
        assert await converse(url, local.ends) == 0
    assert not local.said


async def test_a_terminals_input_ends_by_a_key_so_that_v4_will_do(local: Local) -> None:
    async def behave(peer: Peer) -> None:
        assert (await peer.accept(V4)).subprotocols == [V5, V4]
        assert await peer.message() == b"\x00exit\x04"
        await peer.say(3, SUCCESS)

    local.type(b"exit\x04")
    local.end_input()
    async with serving(behave) as url:
        assert await converse(url, dataclasses.replace(local.ends, tty=True)) == 0


async def test_a_server_without_v5_is_asked_again_over_spdy(local: Local) -> None:
    async def behave(peer: Peer) -> None:
        if await peer.reject_websocket(b"no such protocol"):
            return
        command = await SpdyCommand.begin(peer)
        assert await command.input() == b"hello"
        command.say("stdout", b"out")
        command.say("error", SUCCESS, fin=True)
        # The status may overtake the output, which counts all the same.
        command.say("stderr", b"err", fin=True)
        command.say("stdout", b"put", fin=True)
        await command.flush()

    local.type(b"hello")
    local.end_input()
    async with serving(behave) as url:
        assert await converse(url, local.ends) == 0
    assert (local.out, local.err) == (b"output", b"err")


@pytest.mark.parametrize("ending", [b"", b"\x80\x03\x00\x09\xff\xff\xff\xff", b"\xff" * 5000])
async def test_a_spdy_session_that_breaks_off_is_no_success(local: Local, ending: bytes) -> None:
    async def behave(peer: Peer) -> None:
        if not await peer.reject_websocket(b"no"):
            await SpdyCommand.begin(peer)
            await peer.raw(ending)

    async with serving(behave) as url:
        with refused("without a word about the command's end|does not keep to SPDY"):
            await converse(url, local.ends)


async def test_a_server_that_wants_neither_is_told_in_its_words(local: Local) -> None:
    async def behave(peer: Peer) -> None:
        if not await peer.reject_websocket(b"no"):
            await peer.raw(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 8\r\n\r\nnot you\n")

    async with serving(behave) as url:
        with refused("the server answered 403: not you$"):
            await converse(url, local.ends)


async def test_the_detach_keys_leave_and_what_follows_them_stays_here(local: Local) -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept(V5)
        assert await peer.message() == b"\x00ls"
        assert await peer.message() == b""

    local.type(b"ls\x10\x11rm -rf /")
    async with serving(behave) as url:
        assert await converse(url, local.ends) is None


async def test_pings_are_answered_and_pieces_put_together(local: Local) -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept(V5)
        await peer.ping()
        # One message in two frames, with a ping between them (RFC 6455, section 5.5).
        await peer.raw(b"\x02\x02\x01a" + b"\x89\x00" + b"\x80\x02bc")
        local.end_input()
        assert await peer.message() == b"\xff\x00"
        await peer.say(3, SUCCESS)
        await peer.message()
        assert peer.pongs == 2

    async with serving(behave) as url:
        assert await converse(url, local.ends) == 0
    assert local.out == b"abc"


async def test_a_refusal_is_told_in_the_servers_words(local: Local) -> None:
    async with serving(lambda peer: peer.reject(404, b"no such session\n")) as url:
        with refused("the server answered 404: no such session$"):
            await converse(url, local.without_input)


async def test_a_command_that_is_not_there_has_the_shells_code(local: Local) -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept(V4)
        words = "exec failed: executable file `x` not found in $PATH: No such file or directory"
        await peer.say(3, json.dumps({"status": "Failure", "reason": "InternalError", "message": words}).encode())

    async with serving(behave) as url:
        assert await converse(url, local.without_input) == 127
    assert "not found in $PATH" in local.said[0]


async def test_a_session_that_breaks_off_is_no_success(local: Local) -> None:
    async def close(peer: Peer) -> None:
        await peer.accept(V5)
        await peer.close()

    async def vanish(peer: Peer) -> None:
        await peer.accept(V5)

    for behave in (close, vanish):
        async with serving(behave) as url:
            with refused("without a word about the command's end"):
                await converse(url, local.ends)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed the connection instead of answering"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "WebSocket protocol"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "WebSocket protocol"),
        (b"HTTP/1.1 500 No\r\ncontent-length: 3\r\n\r\nwhy", "the server answered 500: why"),
        (b"\xff" * 100000, "WebSocket protocol"),
    ],
)
async def test_a_server_that_is_something_else_is_said_so(local: Local, answer: bytes, words: str) -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.raw(answer)

    async with serving(behave) as url:
        with refused(words):
            await converse(url, local.without_input)


async def test_a_server_that_chooses_no_sub_protocol_is_refused(local: Local) -> None:
    async with serving(lambda peer: peer.accept(None)) as url:
        with refused("speaks none of v5.channel.k8s.io, v4.channel.k8s.io"):
            await converse(url, local.without_input)


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x02\x7f" + b"\xff" * 8, b"\x81\x02\xff\xfe", b"\x00\x01x"])
async def test_frames_that_are_none_end_the_session(local: Local, garbage: bytes) -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept(V5)
        await peer.raw(garbage)

    async with serving(behave) as url:
        with refused(r"without a word|WebSocket protocol"):
            await converse(url, local.ends)


async def test_a_message_without_measure_ends_the_session(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "_LARGEST_MESSAGE", 1000)

    async def behave(peer: Peer) -> None:
        await peer.accept(V5)
        await peer.say(1, b"x" * 1001)

    async with serving(behave) as url:
        with refused("more than 1000 bytes"):
            await converse(url, local.ends)


async def test_nobody_at_the_url_is_said_so(local: Local) -> None:
    with refused("127.0.0.1:1 cannot be reached", Unavailable):
        await converse("http://127.0.0.1:1/exec/x", local.ends)


@pytest.mark.parametrize("url", ["http://[::1/x", "http://h:99999/x", "ftp://127.0.0.1/x"])
async def test_a_url_that_is_none_is_said_so(local: Local, url: str) -> None:
    with refused("the server answered with a URL"):
        await converse(url, local.ends)


async def connection(url: str, send: bytes, *, end: bool = True) -> tuple[bytes, list[str]]:
    """What comes back on a forwarded connection, and what was said of it."""
    said: list[str] = []
    done = asyncio.Event()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await forward.carry(url, reader, writer)
        except OperationFailed as error:
            said.append(str(error))
        writer.close()
        done.set()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(send)
        if end:
            writer.write_eof()
        answer = await reader.read()
        writer.close()
        await done.wait()
    return answer, said


async def test_a_forwarded_connection_carries_both_ways() -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept(V4)
        await peer.say(0, b"\x50\x00")
        await peer.say(1, b"\x50\x00")
        assert await peer.message() == b"\x00GET"
        await peer.say(0, b"page")
        await peer.close()

    async with serving(behave) as url:
        assert await connection(url, b"GET") == (b"page", [])


async def test_the_port_may_come_in_one_message_with_data() -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept(V4)
        await peer.say(0, b"\x50\x00page")
        await peer.close()

    async with serving(behave) as url:
        assert await connection(url, b"") == (b"page", [])


async def test_an_error_of_a_port_is_told_and_ends_the_connection() -> None:
    async def behave(peer: Peer) -> None:
        await peer.accept(V4)
        await peer.say(1, b"\x50\x00")
        await peer.say(1, b"nothing listens on port 80")
        await peer.message()

    async with serving(behave) as url:
        assert await connection(url, b"", end=False) == (b"", ["nothing listens on port 80"])


async def test_a_local_end_that_has_ended_is_waited_for_while_the_pod_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "SILENCE", 0.3)

    async def behave(peer: Peer) -> None:
        await peer.accept(V4)
        await peer.say(0, b"\x50\x00")
        for _ in range(8):
            await asyncio.sleep(0.1)
            await peer.say(0, b".")
        assert await peer.message() == b""

    async with serving(behave) as url:
        assert await connection(url, b"") == (b"." * 8, [])
