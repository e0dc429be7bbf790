"""`ocishim images …`: the image store from a terminal or a script."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from ocishim.api.ocishim import v1 as own
from ocishim.commands.output import as_json, say, table
from ocishim.commands.parsing import output_option
from ocishim.commands.running import image_endpoint, run_on
from ocishim.errors import InvalidArgument, NotFound, OperationFailed

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from ocishim.api.runtime import v1
    from ocishim.client import Client
    from ocishim.commands.parsing import Parser

_FAILED: Final = 1
_SHORT: Final = 19
"""sha256: and twelve digits."""


def add_options(parser: Parser) -> None:
    """The commands below this one."""
    group = parser.add_group()

    def command(name: str, words: str) -> Parser:
        made = group.add(name, words)
        made.add_argument(
            "--image-endpoint",
            "--runtime-endpoint",
            "--listen",
            "-r",
            dest="endpoint",
            metavar="ADDRESS",
            help="the CRI server's socket, unix:///PATH (default: the environment's IMAGE_SERVICE_ENDPOINT or"
            " CONTAINER_RUNTIME_ENDPOINT, else `image_listen` or `listen` of ocishim's configuration)",
        )
        output_option(made)
        return made

    def long_command(name: str, words: str) -> Parser:
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
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    return run_on(image_endpoint(chosen), _COMMANDS[chosen.command], chosen)


async def _list(client: Client, chosen: argparse.Namespace) -> int:
    images = sorted(await client.images.list(), key=lambda image: [*image.repo_tags, *image.repo_digests, image.id])
    if chosen.output == "json":
        as_json([_image(image) for image in images])
        return 0
    rows = [
        (name, image.id[:_SHORT], decimal(image.size), "yes" if image.pinned else "")
        for image in images
        for name in image.repo_tags or image.repo_digests or ["-"]
    ]
    table(("IMAGE", "ID", "SIZE", "PINNED"), rows)
    return 0


def _image(image: v1.Image) -> dict[str, object]:
    return {
        "id": image.id,
        "tags": list(image.repo_tags),
        "digests": list(image.repo_digests),
        "size": image.size,
        "pinned": image.pinned,
    }


async def _inspect(client: Client, chosen: argparse.Namespace) -> int:
    found = []
    for name in chosen.images:
        status = await client.images.status(name)
        if not status.image.id:
            raise NotFound(f"image {name!r} is not here")
        info = {key: json.loads(value) for key, value in status.info.items()}
        found.append({**_image(status.image), "config": info.get("imageSpec"), "layers": info.get("layers")})
    as_json(found)
    return 0


async def _remove(client: Client, chosen: argparse.Namespace) -> int:
    removed = []
    for name in chosen.images:
        status = await client.images.status(name)
        if not status.image.id:
            raise NotFound(f"image {name!r} is not here")
        await client.images.remove(name)
        removed.append(status.image)
    if chosen.output == "json":
        as_json([_image(image) for image in removed])
    else:
        for image in removed:
            say(image.id)
    return 0


async def _pull(client: Client, chosen: argparse.Namespace) -> int:
    if chosen.username and not chosen.password_stdin:
        raise InvalidArgument(
            "--username wants --password-stdin: a password among the arguments is everybody's to read"
        )
    password = sys.stdin.readline().rstrip("\n") if chosen.password_stdin else ""
    return await _follow(
        client.images.pull(own.PullRequest(chosen.image, chosen.username, password)), chosen, chosen.image
    )


async def _load(client: Client, chosen: argparse.Namespace) -> int:
    path = str(chosen.path.absolute())
    return await _follow(client.images.load(own.LoadRequest(path, chosen.reference)), chosen, path)


async def _save(client: Client, chosen: argparse.Namespace) -> int:
    path = str(chosen.file.absolute())
    return await _follow(client.images.save(own.SaveRequest(path, chosen.images)), chosen, path)


async def _follow(steps: AsyncIterator[own.Progress], chosen: argparse.Namespace, what: str) -> int:
    """Show how far it is, then the images."""
    images: Sequence[own.LoadedImage] = []
    with _bars(quiet=chosen.quiet) as show:
        async for step in steps:
            show(step.parts)
            images = step.images
    if not images:
        raise OperationFailed(f"{what}: the server ended the call without a result")
    if chosen.output == "json":
        as_json([{"id": image.id, "references": image.references} for image in images])
    else:
        for image in images:
            say(" ".join((image.id, *image.references)))
    return 0


@contextmanager
def _bars(*, quiet: bool) -> Iterator[Callable[[Sequence[own.Part]], None]]:
    """Bars on stderr, one a part; nothing where nobody looks."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bars:

        def show(parts: Sequence[own.Part]) -> None:
            for part in parts:
                if part.name not in tasks:
                    tasks[part.name] = bars.add_task(_short(part.name), total=part.size, state=part.state)
                bars.update(tasks[part.name], completed=part.done, state=part.state)

        yield show


def _short(name: str) -> str:
    return name[:_SHORT] if name.startswith("sha256:") else name


async def _verify(client: Client, chosen: argparse.Namespace) -> int:
    verdicts = []
    async for verdict in client.images.verify():
        verdicts.append(verdict)
        if chosen.output == "table" and (verdict.problem or not chosen.quiet):
            problem = f": {verdict.problem}" if verdict.problem else ""
            say(f"{'BAD' if verdict.problem else 'ok '}  {verdict.kind} {verdict.digest}{problem}")
    bad = [verdict for verdict in verdicts if verdict.problem]
    if chosen.output == "json":
        as_json([asdict(verdict) for verdict in verdicts])
    else:
        hurt = sorted({image for verdict in bad for image in verdict.images})
        size = decimal(sum(verdict.size for verdict in verdicts))
        say(f"{len(verdicts)} looked at ({size}), {len(bad)} bad" + "".join(f"\nhurt: {image}" for image in hurt))
    return _FAILED if bad else 0


async def _prune(client: Client, chosen: argparse.Namespace) -> int:
    request = own.PruneRequest(untagged_only=chosen.untagged, dry_run=chosen.dry_run)
    pruned = await client.images.prune(request)
    if chosen.output == "json":
        images = [{"id": image.id, "references": image.references} for image in pruned.images]
        as_json({"images": images, "freed": pruned.freed, "dry_run": chosen.dry_run})
        return 0
    for image in pruned.images:
        say(" ".join((image.id, *image.references)))
    say(f"{len(pruned.images)} images, {decimal(pruned.freed)} {'would be ' if chosen.dry_run else ''}freed")
    return 0


_COMMANDS: Final[dict[str, Callable[[Client, argparse.Namespace], Awaitable[int]]]] = {
    "list": _list,
    "inspect": _inspect,
    "remove": _remove,
    "pull": _pull,
    "load": _load,
    "save": _save,
    "verify": _verify,
    "prune": _prune,
}
