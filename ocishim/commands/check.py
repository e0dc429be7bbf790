"""`ocishim check`: what this host lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim import check
from ocishim.commands.output import say
from ocishim.commands.parsing import FAILED, output_option
from ocishim.commands.settings import settings, settings_options

if TYPE_CHECKING:
    import argparse

    from ocishim.commands.parsing import Parser


def add_options(parser: Parser) -> None:
    """The configuration it checks, and how it says so."""
    settings_options(parser)
    output_option(parser)
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    findings = check.examine(settings(chosen))
    say(check.as_json(findings) if chosen.output == "json" else check.as_table(findings))
    return FAILED if any(finding.blocks for finding in findings) else 0
