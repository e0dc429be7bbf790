"""The pods and containers that a command line names, looked up at the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim.client.names import of_containers, of_pods, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocishim.client import Client
    from ocishim.client.names import Named
    from ocishim.commands.parsing import Parser


def named_argument(parser: Parser) -> None:
    """Pods and containers, mixed."""
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="a container or pod: name, POD/NAME, NAMESPACE/POD or an id's beginning",
    )
    parser.add_argument("--pod", "-p", action="store_true", help="the names are pods'")


def container_argument(parser: Parser) -> None:
    """One container."""
    parser.add_argument(
        "container", metavar="CONTAINER", help="its name, POD/NAME, NAMESPACE/POD/NAME or the beginning of its id"
    )


async def container(client: Client, name: str) -> Named:
    """The container of that name. Raises NotFound, and InvalidArgument where there are several."""
    return resolve(name, of_containers(await client.runtime.containers(), await client.runtime.pods()))


async def pod(client: Client, name: str) -> Named:
    """The pod of that name. Raises NotFound, and InvalidArgument where there are several."""
    return resolve(name, of_pods(await client.runtime.pods()))


async def any_of(client: Client, names: Sequence[str], *, pods_only: bool) -> list[Named]:
    """Pods and containers of these names, each once. Raises as above, before anything is done to any."""
    pods = await client.runtime.pods()
    candidates = of_pods(pods)
    if not pods_only:
        candidates += of_containers(await client.runtime.containers(), pods)
    found = [resolve(name, candidates) for name in names]
    return list({named.id: named for named in found}.values())
