"""Inherited descriptors of every kind, read and written without blocking the loop and with their flags left alone."""

from __future__ import annotations

import asyncio
import os
import pty
import socket
import tty
from typing import TYPE_CHECKING

import pytest

from ocishim.linux.stdio import opened_input, opened_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LARGE = os.urandom(1 << 20)


def pipe() -> tuple[int, int]:
    return os.pipe()


def sockets() -> tuple[int, int]:
    near, far = socket.socketpair()
    return near.detach(), far.detach()


@pytest.fixture(params=[pipe, sockets], ids=["pipe", "socket"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    make: Callable[[], tuple[int, int]] = request.param
    read, write = make()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            pass  # the test has closed it


def read_slowly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(fd, 1000 if len(data) < 20_000 else 1 << 16)
    return data


async def test_a_slow_reader_gets_all_and_the_loop_goes_on(ends: tuple[int, int]) -> None:
    read, write = ends
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    with opened_output(write) as output:
        writing = asyncio.create_task(output.write(LARGE))
        await asyncio.sleep(0.05)
        assert not writing.done()
        assert await asyncio.to_thread(read_slowly, read, len(LARGE)) == LARGE
        await writing
    ticking.cancel()
    assert ticks > 1
    assert os.get_blocking(write)


async def test_a_reader_that_has_gone_is_a_broken_pipe(ends: tuple[int, int]) -> None:
    read, write = ends
    os.close(read)
    with opened_output(write) as output, pytest.raises(BrokenPipeError):
        await output.write(b"x")


async def test_input_comes_as_it_is_typed_and_ends(ends: tuple[int, int]) -> None:
    read, write = ends
    with opened_input(read) as given:
        waiting = asyncio.create_task(given.read(100))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        os.write(write, b"typed")
        assert await waiting == b"typed"
        os.close(write)
        assert await given.read(100) == b""
    assert os.get_blocking(read)


async def test_a_reader_that_is_cancelled_takes_nothing(ends: tuple[int, int]) -> None:
    read, write = ends
    with opened_input(read) as given:
        waiting = asyncio.create_task(given.read(100))
        await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    os.write(write, b"for the next program")
    assert os.read(read, 100) == b"for the next program"


async def test_a_file_is_read_from_where_it_stands_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"head and tail")
    with path.open("r+b", buffering=0) as file:
        assert file.read(5) == b"head "
        with opened_input(file.fileno()) as given:
            assert await given.read(100) == b"and tail"
            assert await given.read(100) == b""
        with opened_output(file.fileno()) as output:
            await output.write(b", and more")
    assert path.read_bytes() == b"head and tail, and more"


async def test_the_null_device_is_empty_and_takes_all() -> None:
    fd = os.open(os.devnull, os.O_RDWR)
    with opened_input(fd) as given, opened_output(fd) as output:
        assert await given.read(100) == b""
        await output.write(LARGE)
    os.close(fd)


async def test_a_terminal_that_is_hung_up_is_at_its_end() -> None:
    near, far = pty.openpty()
    tty.setraw(far)
    with opened_input(far) as given, opened_output(far) as output:
        os.write(near, b"key")
        assert await given.read(100) == b"key"
        await output.write(b"shown")
        assert os.read(near, 100) == b"shown"
        os.close(near)
        assert await given.read(100) == b""
    assert os.get_blocking(far)
    os.close(far)
