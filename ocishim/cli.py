"""The command line. Exit codes: 0 done, 1 failed, 2 wrongly called or configured."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ocishim import __version__, config
from ocishim.errors import InvalidArgument, OcishimError

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED: Final = 1
MISUSED: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its errors are one line on stderr."""
    chosen = _parser().parse_args(arguments)
    try:
        code: int = chosen.run(chosen)
    except InvalidArgument as error:
        return _complain(error, MISUSED)
    except OcishimError as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        return FAILED
    return code


def _complain(error: OcishimError, code: int) -> int:
    print(f"ocishim: {error}", file=sys.stderr)  # noqa: T201 - the program's output
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ocishim", description="A container runtime server for Kubernetes nodes.")
    parser.add_argument("--version", action="version", version=f"ocishim {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the server")
    _settings_options(serve)
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check", help="say what this host lacks, why it matters, and what mends it")
    _settings_options(check)
    check.add_argument("--output", choices=("table", "json"), default="table")
    check.set_defaults(run=_check)

    _images_parser(commands.add_parser("images", help="the images in the store"))
    return parser


def _images_parser(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    parser.set_defaults(run=_images)

    def command(name: str, words: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words)
        made.add_argument("--listen", default=None, help="the server's socket, unix:///PATH")
        made.add_argument("--output", choices=("table", "json"), default="table")
        return made

    def long_command(name: str, words: str) -> argparse.ArgumentParser:
        made = command(name, words)
        made.add_argument("--quiet", action="store_true", help="show no progress")
        return made

    command("list", "list the images")
    pull = long_command("pull", "pull an image from its registry")
    pull.add_argument("image")
    pull.add_argument("--username", default="")
    pull.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    load = long_command("load", "load the images of an OCI layout (a directory or a tar) or of a docker-archive")
    load.add_argument("path", type=Path)
    load.add_argument("--reference", default="", help="the name for an image for which the file has none")
    save = long_command("save", "write images into a file that ocishim, docker, ctr and skopeo can load")
    save.add_argument("images", nargs="+", metavar="image")
    save.add_argument("--file", "-f", type=Path, required=True, help="the file; replaced where it is there")
    remove = command("remove", "remove images with all their tags")
    remove.add_argument("images", nargs="+", metavar="image")
    inspect = command("inspect", "print all that is known of images, as JSON")
    inspect.add_argument("images", nargs="+", metavar="image")
    prune = command("prune", "remove the images that no container uses, and what broken pulls left")
    prune.add_argument("--untagged", action="store_true", help="leave unused images that have a tag")
    prune.add_argument("--dry-run", action="store_true", help="remove nothing, only say what would be")
    long_command("verify", "hash again all that images use; exit code 1 where something was changed")


def _settings_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help=f"configuration file (default {config.DEFAULT_FILE})")
    for option in ("root", "state", "listen", "image-listen"):
        parser.add_argument(f"--{option}", help=f"overrides `{option.replace('-', '_')}` of the configuration")


def _settings(chosen: argparse.Namespace) -> config.Settings:
    given = {name: getattr(chosen, name) for name in ("root", "state", "listen", "image_listen")}
    return config.load(chosen.config, {name: value for name, value in given.items() if value is not None})


def _serve(chosen: argparse.Namespace) -> int:
    settings = _settings(chosen)
    from ocishim import daemon, logs  # noqa: PLC0415 - other commands need not load the server

    if os.geteuid() != 0:
        raise OcishimError("serve must be run as root: it makes namespaces, mounts and cgroups")
    logs.configure(settings.log)
    asyncio.run(daemon.serve(settings))
    return 0


def _check(chosen: argparse.Namespace) -> int:
    from ocishim import check  # noqa: PLC0415 - as above

    findings = check.examine(_settings(chosen))
    print(check.as_json(findings) if chosen.output == "json" else check.as_table(findings))  # noqa: T201
    return FAILED if any(finding.blocks for finding in findings) else 0


def _images(chosen: argparse.Namespace) -> int:
    from ocishim.commands import images  # noqa: PLC0415 - as above

    return images.run(chosen)
