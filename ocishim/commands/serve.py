"""`ocishim serve`: the server."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from ocishim import daemon, logs
from ocishim.commands.settings import settings, settings_options
from ocishim.errors import OcishimError

if TYPE_CHECKING:
    import argparse

    from ocishim.commands.parsing import Parser


def add_options(parser: Parser) -> None:
    """Those that override the configuration."""
    settings_options(parser)
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    chosen_settings = settings(chosen)
    if os.geteuid() != 0:
        raise OcishimError("serve must be run as root: it makes namespaces, mounts and cgroups")
    logs.configure(chosen_settings.log)
    asyncio.run(daemon.serve(chosen_settings))
    return 0
