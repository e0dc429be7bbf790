"""`ocishim logs`: what a container has written."""

from __future__ import annotations

import argparse
import re
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from ocishim.api.runtime import v1
from ocishim.client import logs
from ocishim.commands import finding
from ocishim.commands.parsing import endpoint_option
from ocishim.commands.running import run
from ocishim.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from ocishim.linux.stdio import opened_output
from ocishim.protocol.log_line import NANOSECONDS, STDERR, STDOUT, Lines, nanoseconds

if TYPE_CHECKING:
    from ocishim.client import Client
    from ocishim.client.names import Named
    from ocishim.commands.parsing import Parser

_UNITS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[dhms]))+", re.ASCII)
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms])", re.ASCII)


def add_options(parser: Parser) -> None:
    """Which container, and which of its lines."""
    endpoint_option(parser)
    parser.add_argument("--follow", "-f", action="store_true", help="go on until the container has exited")
    parser.add_argument("--tail", type=_count, metavar="N", help="the last N lines only")
    parser.add_argument(
        "--since",
        type=_since,
        default=0,
        metavar="TIME",
        help="lines since then: an age such as 90s or 1h30m, or RFC 3339",
    )
    parser.add_argument("--timestamps", "-t", action="store_true", help="begin each line with its time")
    parser.add_argument(
        "--stream", choices=(STDOUT, STDERR), help="one of the two; each goes to the stream of its name"
    )
    finding.container_argument(parser)
    parser.set_defaults(run=lambda chosen: run(_logs, chosen))


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)


def _since(text: str) -> int:
    """Nanoseconds since the epoch."""
    if _DURATION.fullmatch(text):
        passed = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        return max(1, time.time_ns() - int(passed * NANOSECONDS))
    try:
        return nanoseconds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither an age such as 90s or 1h30m nor a time such as 2026-01-31T12:00:00Z"
        ) from None


async def _logs(client: Client, chosen: argparse.Namespace) -> int:
    named = await finding.container(client, chosen.container)
    path = (await client.runtime.container_status(named.id, named.title)).status.log_path
    if not path:
        raise FailedPrecondition(f"{named.title} keeps no log: its pod has no log directory, or it has no log path")
    streams = (chosen.stream,) if chosen.stream else (STDOUT, STDERR)
    lines = Lines(since=chosen.since, streams=streams, timestamps=chosen.timestamps)
    wanted = logs.Wanted(lines, streams, chosen.tail)
    with ExitStack() as stack:
        outputs = {STDOUT: stack.enter_context(opened_output(1)), STDERR: stack.enter_context(opened_output(2))}
        if chosen.follow:
            await logs.follow(path, wanted, outputs, lambda: _has_exited(client, named))
        else:
            await logs.show(path, wanted, outputs)
    return 0


async def _has_exited(client: Client, named: Named) -> bool:
    """Whether it writes no more; while the server is away, which does not end containers, nobody knows."""
    try:
        status = await client.runtime.container_status(named.id, named.title)
    except NotFound:
        return True
    except (Unavailable, DeadlineExceeded):
        return False
    return status.status.state == v1.ContainerState.CONTAINER_EXITED
