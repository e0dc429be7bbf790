"""`ocishim inspect`: all that a server knows of pods and containers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from ocishim.commands import finding
from ocishim.commands.output import as_json, moment
from ocishim.commands.parsing import endpoint_option
from ocishim.commands.running import run

if TYPE_CHECKING:
    import argparse

    from ocishim.api.runtime import v1
    from ocishim.client import Client
    from ocishim.client.names import Named
    from ocishim.commands.parsing import Parser

_TIMES: Final = ("createdAt", "startedAt", "finishedAt")


def add_options(parser: Parser) -> None:
    """Whom it is about."""
    endpoint_option(parser)
    finding.named_argument(parser)
    parser.set_defaults(run=lambda chosen: run(_inspect, chosen))


async def _inspect(client: Client, chosen: argparse.Namespace) -> int:
    found = await finding.any_of(client, chosen.names, pods_only=chosen.pod)
    as_json([await _document(client, named) for named in found])
    return 0


async def _document(client: Client, named: Named) -> dict[str, object]:
    answer: v1.PodSandboxStatusResponse | v1.ContainerStatusResponse
    if named.kind == "pod":
        answer = await client.runtime.pod_status(named.id, named.title)
    else:
        answer = await client.runtime.container_status(named.id, named.title)
    status = answer.status.to_dict(include_default_values=True)
    for key in _TIMES:
        if key in status:
            status[key] = moment(int(status[key]))
    return {"kind": named.kind, "status": status, "info": _info(answer.info)}


def _info(info: dict[str, str]) -> dict[str, object]:
    """A server's own words: JSON where they are, and together where there is but one piece, as crictl shows them."""
    pieces = {key: _parsed(value) for key, value in info.items()}
    only = pieces.get("info") if len(pieces) == 1 else None
    return only if isinstance(only, dict) else pieces


def _parsed(text: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value
