"""`ocishim ps`: the containers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim.api.runtime import v1
from ocishim.client.names import SHORT, Named, of_containers, of_pods, resolve
from ocishim.commands.output import age, as_json, moment, say, table
from ocishim.commands.parsing import endpoint_option, label_options, labels_match, output_option
from ocishim.commands.running import run

if TYPE_CHECKING:
    import argparse

    from ocishim.client import Client
    from ocishim.commands.parsing import Parser

_STATES: Final = {
    v1.ContainerState.CONTAINER_CREATED: "created",
    v1.ContainerState.CONTAINER_RUNNING: "running",
    v1.ContainerState.CONTAINER_EXITED: "exited",
    v1.ContainerState.CONTAINER_UNKNOWN: "unknown",
}
_COLUMNS: Final = ("CONTAINER", "NAME", "POD", "IMAGE", "STATE", "ATTEMPT", "AGE")
_DIGITS: Final = 12
_DIGEST: Final = "sha256:"


@dataclass(frozen=True, slots=True)
class _Row:
    container: v1.Container
    names: Named


def add_options(parser: Parser) -> None:
    """Which ones, and how to show them."""
    endpoint_option(parser)
    output_option(parser)
    parser.add_argument("--all", "-a", action="store_true", help="also those that do not run")
    parser.add_argument("--pod", "-p", default="", help="those of one pod, by its name or the beginning of its id")
    parser.add_argument("--state", choices=sorted(_STATES.values()), help="those in a state; implies --all")
    parser.add_argument("--quiet", "-q", action="store_true", help="print ids only")
    label_options(parser)
    parser.set_defaults(run=lambda chosen: run(_ps, chosen))


async def _ps(client: Client, chosen: argparse.Namespace) -> int:
    pods = {pod.id: pod for pod in await client.runtime.pods()}
    containers = await client.runtime.containers()
    only = resolve(chosen.pod, of_pods(pods.values())).id if chosen.pod else ""
    rows = [
        _Row(container, names)
        for container, names in zip(containers, of_containers(containers, pods.values()), strict=True)
        if _wanted(container, only, chosen)
    ]
    rows.sort(key=lambda row: (row.names.path, -row.container.metadata.attempt))
    if chosen.output == "json":
        as_json([_document(row.container, pods.get(row.container.pod_sandbox_id)) for row in rows])
    elif chosen.quiet:
        for row in rows:
            say(row.container.id)
    else:
        now = time.time_ns()
        table(_COLUMNS, [_cells(row, now) for row in rows])
    return 0


def _wanted(container: v1.Container, pod_id: str, chosen: argparse.Namespace) -> bool:
    if pod_id and container.pod_sandbox_id != pod_id:
        return False
    state = _state(container)
    if chosen.state:
        if state != chosen.state:
            return False
    elif state != "running" and not chosen.all:
        return False
    return labels_match(chosen, container.labels)


def _state(container: v1.Container) -> str:
    return _STATES.get(container.state, str(container.state))


def _cells(row: _Row, now: int) -> tuple[str, ...]:
    container = row.container
    *pod, name = row.names.path
    image = container.image.user_specified_image or container.image.image
    return (
        container.id[:SHORT],
        name,
        "/".join(filter(None, pod)),
        image[len(_DIGEST) :][:_DIGITS] if image.startswith(_DIGEST) else image,
        _state(container),
        str(container.metadata.attempt),
        age(container.created_at, now),
    )


def _document(container: v1.Container, pod: v1.PodSandbox | None) -> dict[str, object]:
    metadata = pod.metadata if pod else v1.PodSandboxMetadata()
    return {
        "id": container.id,
        "name": container.metadata.name,
        "attempt": container.metadata.attempt,
        "pod": {
            "id": container.pod_sandbox_id,
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
        },
        "image": container.image.user_specified_image or container.image.image,
        "image_id": container.image_id or container.image_ref,
        "state": _state(container),
        "created_at": moment(container.created_at),
        "labels": dict(container.labels),
        "annotations": dict(container.annotations),
    }
