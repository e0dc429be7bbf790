"""What exec and attach share: standard streams and the terminal, joined to a session."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from ocishim.client import session
from ocishim.commands.output import warn
from ocishim.linux import terminal
from ocishim.linux.stdio import opened_input, opened_output
from ocishim.protocol import detach_keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ocishim.commands.parsing import Parser

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2


def detach_option(parser: Parser) -> None:
    """How to leave."""
    parser.add_argument(
        "--detach-keys",
        type=_keys,
        default=_keys(detach_keys.DEFAULT),
        metavar="KEYS",
        help=f"keys that leave the session, at a terminal (default {detach_keys.DEFAULT}; empty: none)",
    )


def _keys(text: str) -> bytes:
    try:
        return detach_keys.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


async def converse(new_url: Callable[[], Awaitable[str]], *, stdin: bool, tty: bool, keys: bytes) -> int | None:
    """Join this process's streams to the session; its exit code, or None where the user left it.

    With a tty, a terminal on standard input is in raw mode meanwhile.
    """
    with ExitStack() as stack:
        at_terminal = stdin and tty and terminal.is_terminal(_STDIN)
        ends = session.Ends(
            stdin=stack.enter_context(opened_input(_STDIN)) if stdin else None,
            stdout=stack.enter_context(opened_output(_STDOUT)),
            stderr=stack.enter_context(opened_output(_STDERR)),
            tty=tty,
            terminal=_sized() if tty else None,
            detach_keys=keys if at_terminal else b"",
            warn=warn,
        )
        if at_terminal:
            stack.enter_context(terminal.raw(_STDIN))
        code = await session.converse(new_url, ends)
    if code is None:
        warn("left the session by the detach keys")
    return code


def _sized() -> int | None:
    """A terminal whose size the command's may have."""
    return next((fd for fd in (_STDIN, _STDOUT, _STDERR) if terminal.is_terminal(fd)), None)
