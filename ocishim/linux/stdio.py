"""Standard input and output on an event loop that must not block, with their descriptors' flags left as they are.

O_NONBLOCK belongs to the open file, which a shell and its other programs share: setting it on an inherited descriptor
breaks them. A pipe or a terminal is therefore opened anew through /proc/self/fd. A regular file never blocks for long.
"""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PIPE_BUF: Final = 4096
"""What a pipe that poll(2) calls writable takes without blocking (pipe(7))."""


class Input:
    """Reads what is there."""

    def __init__(self, fd: int, *, blocks: bool) -> None:
        self._fd = fd
        self._blocks = blocks
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)

    async def read(self, size: int) -> bytes:
        """Up to size bytes as soon as there are any; none at the end."""
        if self._regular:
            return await asyncio.to_thread(os.read, self._fd, size)
        loop = asyncio.get_running_loop()
        if self._blocks:
            await _ready(self._fd, loop.add_reader, loop.remove_reader)
        while True:
            try:
                return os.read(self._fd, size)
            except BlockingIOError:
                await _ready(self._fd, loop.add_reader, loop.remove_reader)
            except OSError:
                return b""  # a terminal that was hung up


class Output:
    """Writes all it is given. Raises BrokenPipeError where nobody reads any more."""

    def __init__(self, fd: int, *, blocks: bool) -> None:
        self._fd = fd
        self._piece = _PIPE_BUF if blocks else 1 << 20
        self._blocks = blocks and not stat.S_ISREG(os.fstat(fd).st_mode)

    async def write(self, data: bytes | memoryview) -> None:
        """Return once all of it is written."""
        loop = asyncio.get_running_loop()
        view = memoryview(data)
        while view:
            if self._blocks:
                await _ready(self._fd, loop.add_writer, loop.remove_writer)
            try:
                view = view[os.write(self._fd, view[: self._piece]) :]
            except BlockingIOError:
                await _ready(self._fd, loop.add_writer, loop.remove_writer)


async def _ready(fd: int, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], object]) -> None:
    """Wait until fd may be read or written; what cannot be polled never blocks (epoll_ctl(2))."""
    event = asyncio.Event()
    try:
        add(fd, event.set)
    except PermissionError:
        return
    try:
        await event.wait()
    finally:
        remove(fd)


@contextmanager
def opened_input(fd: int) -> Iterator[Input]:
    """Input from an inherited descriptor."""
    with _own(fd, os.O_RDONLY) as (own, blocks):
        yield Input(own, blocks=blocks)


@contextmanager
def opened_output(fd: int) -> Iterator[Output]:
    """Output to an inherited descriptor."""
    with _own(fd, os.O_WRONLY) as (own, blocks):
        yield Output(own, blocks=blocks)


@contextmanager
def _own(fd: int, mode: int) -> Iterator[tuple[int, bool]]:
    """A descriptor of our own, and whether it blocks."""
    kind = os.fstat(fd).st_mode
    own, blocks = None, True
    if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
        try:
            own = os.open(f"/proc/self/fd/{fd}", mode | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            blocks = False
        except OSError:
            pass  # another user's terminal, as after su(1)
    if own is None:
        own = os.dup(fd)
    try:
        yield own, blocks
    finally:
        os.close(own)
