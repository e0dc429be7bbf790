"""`ocishim rm`: remove containers and pods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim.api.runtime import v1
from ocishim.commands import finding
from ocishim.commands.output import say
from ocishim.commands.parsing import endpoint_option
from ocishim.commands.running import run
from ocishim.errors import FailedPrecondition

if TYPE_CHECKING:
    import argparse

    from ocishim.client import Client
    from ocishim.client.names import Named
    from ocishim.commands.parsing import Parser


def add_options(parser: Parser) -> None:
    """Whom, and whether they must have ended."""
    endpoint_option(parser)
    finding.named_argument(parser)
    parser.add_argument("--force", "-f", action="store_true", help="also what runs: it is killed")
    parser.set_defaults(run=lambda chosen: run(_remove, chosen))


async def _remove(client: Client, chosen: argparse.Namespace) -> int:
    found = await finding.any_of(client, chosen.names, pods_only=chosen.pod)
    if not chosen.force:
        for named in found:
            await _refuse_the_living(client, named)
    # Containers first: a pod takes its own with it.
    for named in sorted(found, key=lambda named: named.kind):
        if named.kind == "pod":
            await client.runtime.remove_pod(named.id, named.title)
        else:
            await client.runtime.remove_container(named.id, named.title)
        say(named.id)
    return 0


async def _refuse_the_living(client: Client, named: Named) -> None:
    if named.kind == "pod":
        pod = await client.runtime.pod_status(named.id, named.title)
        if pod.status.state == v1.PodSandboxState.SANDBOX_READY:
            raise FailedPrecondition(f"{named.title} is ready: stop it first, or use --force")
    else:
        container = await client.runtime.container_status(named.id, named.title)
        if container.status.state == v1.ContainerState.CONTAINER_RUNNING:
            raise FailedPrecondition(f"{named.title} is running: stop it first, or use --force")
