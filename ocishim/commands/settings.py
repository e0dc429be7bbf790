"""The configuration as a command line has it: a file, and options that override some of its keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ocishim import config

if TYPE_CHECKING:
    import argparse

    from ocishim.commands.parsing import Parser


def settings_options(parser: Parser) -> None:
    """What overrides the configuration."""
    parser.add_argument("--config", type=Path, help=f"configuration file (default {config.DEFAULT_FILE})")
    for option in ("root", "state", "listen", "image-listen"):
        parser.add_argument(f"--{option}", help=f"overrides `{option.replace('-', '_')}` of the configuration")


def settings(chosen: argparse.Namespace) -> config.Settings:
    """The configuration with what overrides it."""
    given = {name: getattr(chosen, name) for name in ("root", "state", "listen", "image_listen")}
    return config.load(chosen.config, {name: value for name, value in given.items() if value is not None})
