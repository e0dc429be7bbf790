"""`ocishim attach`: the streams of a container's own process."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

from ocishim.api.runtime import v1
from ocishim.commands import finding, interactive
from ocishim.commands.parsing import NOT_RUN, endpoint_option
from ocishim.commands.running import run
from ocishim.errors import NotFound

if TYPE_CHECKING:
    import argparse

    from ocishim.client import Client
    from ocishim.client.names import Named
    from ocishim.commands.parsing import Parser

_ENDS_WITHIN: Final = 40
"""Looks at a container whose streams have ended, for its exit code."""
_LOOK_EVERY: Final = 0.05


def add_options(parser: Parser) -> None:
    """Where, and how."""
    endpoint_option(parser)
    parser.add_argument("--no-stdin", action="store_true", help="only look: standard input stays here")
    parser.add_argument(
        "--stdin", "-i", action="store_true", help="hand standard input over (else: if the server says it is open)"
    )
    parser.add_argument("--tty", "-t", action="store_true", help="it has a terminal (else: if the server says so)")
    interactive.detach_option(parser)
    finding.container_argument(parser)
    parser.set_defaults(run=lambda chosen: run(_attach, chosen), failed=NOT_RUN)


async def _attach(client: Client, chosen: argparse.Namespace) -> int:
    named = await finding.container(client, chosen.container)
    config = _config(await client.runtime.container_status(named.id, named.title))
    tty = chosen.tty or config.get("tty") is True
    stdin = not chosen.no_stdin and (chosen.stdin or config.get("stdin") is True)
    request = v1.AttachRequest(container_id=named.id, stdin=stdin, tty=tty, stdout=True, stderr=not tty)
    code = await interactive.converse(
        lambda: client.runtime.attach_url(request, named.title), stdin=stdin, tty=tty, keys=chosen.detach_keys
    )
    return 0 if code is None else code or await _exit_code(client, named)


def _config(status: v1.ContainerStatusResponse) -> dict[str, object]:
    """What the container was asked to be, where the server tells."""
    try:
        config: object = json.loads(status.info.get("info", "{}")).get("config")
    except (ValueError, AttributeError):
        return {}
    return config if isinstance(config, dict) else {}


async def _exit_code(client: Client, named: Named) -> int:
    """The container's own, if it is why the streams have ended."""
    try:
        for _ in range(_ENDS_WITHIN):
            status = (await client.runtime.container_status(named.id, named.title)).status
            if status.state == v1.ContainerState.CONTAINER_EXITED:
                return status.exit_code
            await asyncio.sleep(_LOOK_EVERY)
    except NotFound:
        pass
    return 0
