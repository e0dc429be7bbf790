"""Pipes on the event loop: whole, in order, and never waiting for who does not end."""

from __future__ import annotations

import asyncio
import os
import pty
from contextlib import closing

import pytest

from ocishim.linux.stream import CHUNK, Reader, TerminalWriter, Writer


async def test_more_than_a_pipe_holds_arrives_whole() -> None:
    read, write = os.pipe()
    content = os.urandom(CHUNK * 5 + 1)
    with closing(Reader(read)) as reader, closing(Writer(write)) as writer:

        async def send() -> None:
            await writer.write(content)
            writer.end()

        sending = asyncio.create_task(send())
        received = b""
        while data := await reader.read():
            received += data
        await sending
    assert received == content


async def test_a_reader_that_finishes_takes_what_is_there_and_waits_no_more() -> None:
    read, write = os.pipe()
    with closing(Reader(read)) as reader:
        os.write(write, b"there")
        reader.finish()
        assert [await reader.read(), await reader.read()] == [b"there", b""]
    os.close(write)


async def test_a_waiting_reader_is_woken_by_finish_and_by_close() -> None:
    for end in (Reader.finish, Reader.close):
        read, write = os.pipe()
        with closing(Reader(read)) as reader:
            waiting = asyncio.create_task(reader.read())
            await asyncio.sleep(0.01)
            end(reader)
            assert await waiting == b""
        os.close(write)


async def test_writing_where_nobody_reads_is_an_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with closing(Writer(write)) as writer, pytest.raises(BrokenPipeError):
        await writer.write(b"lost")


async def test_a_terminal_whose_other_end_is_gone_has_ended() -> None:
    master, slave = pty.openpty()
    os.write(slave, b"last words")
    os.close(slave)
    with closing(Reader(master)) as reader:
        assert [await reader.read(), await reader.read()] == [b"last words", b""]


async def test_a_terminals_input_has_no_end() -> None:
    master, slave = pty.openpty()
    with closing(TerminalWriter(master)) as writer:
        writer.end()
        await writer.write(b"more\n")
        assert os.read(slave, 100) == b"more\n"
    os.close(slave)
