"""`ocishim images …`: the image store from a terminal or a script."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from ocishim import config
from ocishim.api.ocishim import v1 as own
from ocishim.client import Client, connected
from ocishim.errors import InvalidArgument, NotFound, OperationFailed

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from ocishim.api.runtime import v1

_FAILED: Final = 1
_SHORT: Final = 19
"""sha256: and twelve digits."""


def run(chosen: argparse.Namespace) -> int:
    """Run the command that was chosen; returns the exit code."""
    address = chosen.listen or _default_address()
    return asyncio.run(_run(chosen, address))


def _default_address() -> str:
    settings = config.load(None)
    return settings.image_listen or settings.listen


async def _run(chosen: argparse.Namespace, address: str) -> int:
    async with connected(address) as client:
        return await _COMMANDS[chosen.command](client, chosen)


def _print(text: str) -> None:
    print(text)  # noqa: T201 - the program's output


def _as_json(value: object) -> None:
    _print(json.dumps(value, indent=2))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    for column in columns:
        table.add_column(column, justify="right" if column == "SIZE" else "left", overflow="fold")
    return table


def _show(table: Table) -> None:
    # Into a pipe a table is as wide as it is.
    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    with console.capture() as captured:
        console.print(table)
    _print("\n".join(line.rstrip() for line in captured.get().splitlines()))


async def _list(client: Client, chosen: argparse.Namespace) -> int:
    images = sorted(await client.images(), key=lambda image: [*image.repo_tags, *image.repo_digests, image.id])
    if chosen.output == "json":
        _as_json([_image(image) for image in images])
        return 0
    table = _table("IMAGE", "ID", "SIZE", "PINNED")
    for image in images:
        for name in image.repo_tags or image.repo_digests or ["-"]:
            table.add_row(name, image.id[:_SHORT], decimal(image.size), "yes" if image.pinned else "")
    _show(table)
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
        status = await client.image(name)
        if not status.image.id:
            raise NotFound(f"image {name!r} is not here")
        info = {key: json.loads(value) for key, value in status.info.items()}
        found.append({**_image(status.image), "config": info.get("imageSpec"), "layers": info.get("layers")})
    _as_json(found)
    return 0


async def _remove(client: Client, chosen: argparse.Namespace) -> int:
    removed = []
    for name in chosen.images:
        status = await client.image(name)
        if not status.image.id:
            raise NotFound(f"image {name!r} is not here")
        await client.remove(name)
        removed.append(status.image)
    if chosen.output == "json":
        _as_json([_image(image) for image in removed])
    else:
        for image in removed:
            _print(image.id)
    return 0


async def _pull(client: Client, chosen: argparse.Namespace) -> int:
    if chosen.username and not chosen.password_stdin:
        raise InvalidArgument(
            "--username wants --password-stdin: a password among the arguments is everybody's to read"
        )
    password = sys.stdin.readline().rstrip("\n") if chosen.password_stdin else ""
    return await _follow(client.pull(own.PullRequest(chosen.image, chosen.username, password)), chosen, chosen.image)


async def _load(client: Client, chosen: argparse.Namespace) -> int:
    path = str(chosen.path.absolute())
    return await _follow(client.load(own.LoadRequest(path, chosen.reference)), chosen, path)


async def _save(client: Client, chosen: argparse.Namespace) -> int:
    path = str(chosen.file.absolute())
    return await _follow(client.save(own.SaveRequest(path, chosen.images)), chosen, path)


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
        _as_json([{"id": image.id, "references": image.references} for image in images])
    else:
        for image in images:
            _print(" ".join((image.id, *image.references)))
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
    async for verdict in client.verify():
        verdicts.append(verdict)
        if chosen.output == "table" and (verdict.problem or not chosen.quiet):
            problem = f": {verdict.problem}" if verdict.problem else ""
            _print(f"{'BAD' if verdict.problem else 'ok '}  {verdict.kind} {verdict.digest}{problem}")
    bad = [verdict for verdict in verdicts if verdict.problem]
    if chosen.output == "json":
        _as_json([asdict(verdict) for verdict in verdicts])
    else:
        hurt = sorted({image for verdict in bad for image in verdict.images})
        size = decimal(sum(verdict.size for verdict in verdicts))
        _print(f"{len(verdicts)} looked at ({size}), {len(bad)} bad" + "".join(f"\nhurt: {image}" for image in hurt))
    return _FAILED if bad else 0


async def _prune(client: Client, chosen: argparse.Namespace) -> int:
    request = own.PruneRequest(untagged_only=chosen.untagged, dry_run=chosen.dry_run)
    pruned = await client.prune(request)
    if chosen.output == "json":
        images = [{"id": image.id, "references": image.references} for image in pruned.images]
        _as_json({"images": images, "freed": pruned.freed, "dry_run": chosen.dry_run})
        return 0
    for image in pruned.images:
        _print(" ".join((image.id, *image.references)))
    _print(f"{len(pruned.images)} images, {decimal(pruned.freed)} {'would be ' if chosen.dry_run else ''}freed")
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
