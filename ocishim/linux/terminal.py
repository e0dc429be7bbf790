"""The user's terminal: its size, and raw mode that is left again whatever happens (termios(3), tty_ioctl(4))."""

from __future__ import annotations

import asyncio
import os
import signal
import termios
import tty
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Size(NamedTuple):
    """Characters."""

    columns: int
    rows: int


def is_terminal(fd: int) -> bool:
    """Whether fd is one; False where it is closed."""
    return os.isatty(fd)


def size(fd: int) -> Size | None:
    """How large it is; None where it does not say."""
    try:
        found = os.get_terminal_size(fd)
    except OSError:
        return None
    return Size(found.columns, found.lines) if found.columns and found.lines else None


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """Raw mode for the time of the block: each key comes at once and as it is, and nothing is echoed.

    After a stop and SIGCONT, in which a shell may have set modes of its own, it is set anew.
    """
    before = termios.tcgetattr(fd)

    def enter() -> None:
        with suppress(termios.error):  # hung up
            tty.setraw(fd, termios.TCSADRAIN)

    enter()
    try:
        with _handled(signal.SIGCONT, enter):
            yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextmanager
def resizes(call: Callable[[], None]) -> Iterator[None]:
    """Call whenever the terminal's size may have changed, for the time of the block."""
    with _handled(signal.SIGWINCH, call):
        yield


@contextmanager
def _handled(number: signal.Signals, call: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(number, call)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)
