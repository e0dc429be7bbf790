"""The command line: which commands there are. Each is a module of commands/, loaded when it is called."""

from __future__ import annotations

import io
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


_STDOUT: Final = 1
_STDERR: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its errors are one line on stderr."""
    _have_standard_streams()
    parser = _parser()
    given = sys.argv[1:] if arguments is None else arguments
    for argument in given:
        if not _is_text(argument):
            parser.error(f"the argument {os.fsencode(argument)!r} is not UTF-8")
    chosen = parser.parse_args(given)
    failed: int = getattr(chosen, "failed", FAILED)
    try:
        code: int = chosen.run(chosen)
        print(end="", flush=True)  # noqa: T201 - what cannot be written is to be known here
    except InvalidArgument as error:
        return _complain(error, MISUSED)
    except OcishimError as error:
        return _complain(error, failed)
    except KeyboardInterrupt:
        return SIGNALLED + signal.SIGINT
    except BrokenPipeError:
        # Nobody reads on, as in `ocishim logs | head`; nor may Python complain of it at its exit.
        _drop_output()
        return SIGNALLED + signal.SIGPIPE
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return _complain(OcishimError(str(error)), failed)
    return code


def _drop_output() -> None:
    """What is in the buffer and cannot be written: Python would try again at its exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)


def _have_standard_streams() -> None:
    """What was started with a closed descriptor must not take another file for it; no text is too strange to print."""
    for fd in range(_STDERR + 1):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _complain(error: OcishimError, code: int) -> int:
    print(f"ocishim: {error}", file=sys.stderr)  # noqa: T201 - the program's output
    return code


def _parser() -> Parser:
    parser = Parser(prog="ocishim", description="A container runtime server for Kubernetes nodes.", epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"ocishim {__version__}")
    parser.add_commands(COMMANDS)
    return parser
