"""`ocishim version`: of this program and of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim import __version__
from ocishim.commands.output import as_json, table
from ocishim.commands.parsing import endpoint_option, output_option
from ocishim.commands.running import run

if TYPE_CHECKING:
    import argparse

    from ocishim.client import Client
    from ocishim.commands.parsing import Parser


def add_options(parser: Parser) -> None:
    """Whom to ask."""
    endpoint_option(parser)
    output_option(parser)
    parser.add_argument("--client", action="store_true", help="ask no server")
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    if not chosen.client:
        return run(_both, chosen)
    _show(chosen, [("client", "ocishim", __version__, "")])
    return 0


async def _both(client: Client, chosen: argparse.Namespace) -> int:
    server = await client.runtime.version()
    rows = [
        ("client", "ocishim", __version__, ""),
        ("server", server.runtime_name, server.runtime_version, server.runtime_api_version),
    ]
    _show(chosen, rows)
    return 0


def _show(chosen: argparse.Namespace, rows: list[tuple[str, str, str, str]]) -> None:
    if chosen.output == "json":
        as_json({part: {"name": name, "version": version, "api": api} for part, name, version, api in rows})
    else:
        table(("", "NAME", "VERSION", "API"), rows)
