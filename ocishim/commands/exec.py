"""`ocishim exec`: a command in a container."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ocishim.api.runtime import v1
from ocishim.commands import finding, interactive
from ocishim.commands.output import warn
from ocishim.commands.parsing import NOT_RUN, endpoint_option
from ocishim.commands.running import run
from ocishim.errors import InvalidArgument
from ocishim.linux import terminal

if TYPE_CHECKING:
    from ocishim.client import Client
    from ocishim.commands.parsing import Parser


def add_options(parser: Parser) -> None:
    """Where, how, and what."""
    parser.usage = "ocishim exec [OPTIONS] CONTAINER -- COMMAND [ARGUMENT ...]"
    endpoint_option(parser)
    parser.add_argument("--stdin", "-i", action="store_true", help="hand standard input to the command")
    parser.add_argument("--tty", "-t", action="store_true", help="give the command a terminal")
    interactive.detach_option(parser)
    finding.container_argument(parser)
    parser.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command and its arguments")
    parser.set_defaults(run=lambda chosen: run(_exec, chosen), failed=NOT_RUN)


async def _exec(client: Client, chosen: argparse.Namespace) -> int:
    argv = chosen.argv[1:] if chosen.argv[:1] == ["--"] else chosen.argv
    if not argv:
        raise InvalidArgument("exec wants a command: ocishim exec CONTAINER -- COMMAND")
    named = await finding.container(client, chosen.container)
    if chosen.tty and chosen.stdin and not terminal.is_terminal(0):
        warn("standard input is no terminal: the command's terminal gets it as it is")
    request = v1.ExecRequest(
        container_id=named.id, cmd=argv, tty=chosen.tty, stdin=chosen.stdin, stdout=True, stderr=not chosen.tty
    )
    code = await interactive.converse(
        lambda: client.runtime.exec_url(request, named.title),
        stdin=chosen.stdin,
        tty=chosen.tty,
        keys=chosen.detach_keys,
    )
    return code or 0
