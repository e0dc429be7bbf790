"""`ocishim stop`: end containers and pods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim.commands import finding
from ocishim.commands.output import say
from ocishim.commands.parsing import endpoint_option, seconds
from ocishim.commands.running import run

if TYPE_CHECKING:
    import argparse

    from ocishim.client import Client
    from ocishim.commands.parsing import Parser


def add_options(parser: Parser) -> None:
    """Whom, and how patiently."""
    endpoint_option(parser)
    finding.named_argument(parser)
    parser.add_argument(
        "--time",
        "-t",
        type=seconds,
        default=10,
        metavar="SECONDS",
        help="how long a container may take before it is killed (default 10); a pod's containers are killed at once",
    )
    parser.set_defaults(run=lambda chosen: run(_stop, chosen))


async def _stop(client: Client, chosen: argparse.Namespace) -> int:
    for named in await finding.any_of(client, chosen.names, pods_only=chosen.pod):
        if named.kind == "pod":
            await client.runtime.stop_pod(named.id, named.title)
        else:
            await client.runtime.stop_container(named.id, named.title, chosen.time)
        say(named.id)
    return 0
