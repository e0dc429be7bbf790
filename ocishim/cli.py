"""The command line: which commands there are. Each is a module of commands/, loaded when it is called."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from ocishim import __version__
from ocishim.commands.parsing import EXIT_CODES, FAILED, MISUSED, SIGNALLED, Parser
from ocishim.errors import InvalidArgument, OcishimError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final = {
    "serve": "run the server",
    "check": "say what this host lacks, why it matters, and what mends it",
    "images": "the images in the store: list, pull, load, save, remove, …",
    "ps": "list containers",
    "pods": "list pods",
    "inspect": "print all that is known of pods or containers, as JSON",
    "logs": "print a container's log",
    "exec": "run a command in a container",
    "attach": "join the terminal, or the streams, of a container's own process",
    "port-forward": "make a pod's ports reachable on this host",
    "stop": "stop containers or pods",
    "rm": "remove containers or pods",
    "version": "print the versions of this program and of the server",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its errors are one line on stderr."""
    chosen = _parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    failed: int = getattr(chosen, "failed", FAILED)
    try:
        code: int = chosen.run(chosen)
        sys.stdout.flush()
    except InvalidArgument as error:
        return _complain(error, MISUSED)
    except OcishimError as error:
        return _complain(error, failed)
    except KeyboardInterrupt:
        return SIGNALLED + signal.SIGINT
    except BrokenPipeError:
        # Nobody reads on, as in `ocishim logs | head`; nor may Python complain of it at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGNALLED + signal.SIGPIPE
    return code


def _complain(error: OcishimError, code: int) -> int:
    print(f"ocishim: {error}", file=sys.stderr)  # noqa: T201 - the program's output
    return code


def _parser() -> Parser:
    parser = Parser(prog="ocishim", description="A container runtime server for Kubernetes nodes.", epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"ocishim {__version__}")
    parser.add_commands(COMMANDS)
    return parser
