"""How a command line is read: errors of one line, the nearest name for a mistyped one, options that commands share."""

from __future__ import annotations

import argparse
import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


FAILED: Final = 1
MISUSED: Final = 2
NOT_RUN: Final = 125
"""exec, attach: ocishim itself failed, as distinct from the command."""
SIGNALLED: Final = 128
"""Plus the signal's number."""
EXIT_CODES: Final = """\
exit codes:
  0    done
  1    failed
  2    wrongly called or configured
  125  exec, attach: the session could not be had, or the command's end is not known
  130  ended by Ctrl-C; in general 128 and the number of the signal
  Of exec and attach, any other code is the command's own (126: it may not be run, 127: it is not there).
"""


class CommandModule(Protocol):
    """A module of this package that is a command."""

    def add_options(self, parser: Parser) -> None:
        """Add its options and arguments, and set `run`."""


class Parser(argparse.ArgumentParser):
    """A parser of a command, which loads the command's module when it is chosen and not before."""

    def __init__(self, *, module: str = "", **options: object) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type] # argparse's own options
        self._module = module
        self._commands: list[str] = []

    def add_commands(self, modules: Mapping[str, str]) -> None:
        """Commands below this one, each with the words that describe it; a module of this package has their options."""
        below = self.add_subparsers(required=True, metavar="COMMAND", dest="command")
        for name, words in modules.items():
            module = f"ocishim.commands.{name.replace('-', '_')}"
            below.add_parser(name, help=words, description=_sentence(words), module=module, epilog=EXIT_CODES)
        self._commands += modules

    def add_group(self) -> Group:
        """Commands below this one whose options this very module adds."""
        return Group(self, self._commands)

    def parse_known_args(  # type: ignore[override] # no namespace but argparse's is in use here
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse has it."""
        if self._module:
            module, self._module = self._module, ""
            cast("CommandModule", import_module(module)).add_options(self)
        first = next(iter(args or ()), "-")
        if self._commands and not first.startswith("-") and first not in self._commands:
            nearest = difflib.get_close_matches(first, self._commands, n=1)
            self.error(f"there is no command {first!r}" + (f"; is {nearest[0]!r} meant?" if nearest else ""))
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """One line, and exit code 2."""
        self.exit(MISUSED, f"ocishim: {message} (see `{self.prog} --help`)\n")


class Group:
    """Commands below one."""

    def __init__(self, parser: Parser, names: list[str]) -> None:
        self._below = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
        self._names = names

    def add(self, name: str, words: str) -> Parser:
        """One more, with the words that describe it."""
        self._names.append(name)
        parser: Parser = self._below.add_parser(name, help=words, description=_sentence(words))
        return parser


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def endpoint_option(parser: Parser) -> None:
    """Which server to talk to."""
    parser.add_argument(
        "--runtime-endpoint",
        "--listen",
        "-r",
        dest="endpoint",
        metavar="ADDRESS",
        help="the CRI server's socket, unix:///PATH (default: the environment's CONTAINER_RUNTIME_ENDPOINT, else"
        " `listen` of ocishim's configuration)",
    )


def output_option(parser: Parser) -> None:
    """For people or for programs."""
    parser.add_argument("--output", "-o", choices=("table", "json"), default="table")


def label_options(parser: Parser) -> None:
    """Choice by labels."""
    parser.add_argument(
        "--label", action="append", default=[], metavar="KEY[=VALUE]", help="those with a label; all where repeated"
    )


def labels_match(chosen: argparse.Namespace, labels: Mapping[str, str]) -> bool:
    """Whether labels are what label_options' options ask for."""
    for wanted in chosen.label:
        key, equals, value = wanted.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def seconds(text: str) -> int:
    """An option's whole number of seconds, 0 or more."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of seconds")
    return int(text)
