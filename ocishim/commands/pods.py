"""`ocishim pods`: the pods."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from ocishim.api.runtime import v1
from ocishim.client.names import SHORT
from ocishim.commands.output import age, as_json, moment, say, table
from ocishim.commands.parsing import endpoint_option, label_options, labels_match, output_option
from ocishim.commands.running import run

if TYPE_CHECKING:
    import argparse

    from ocishim.client import Client
    from ocishim.commands.parsing import Parser

_STATES: Final = {v1.PodSandboxState.SANDBOX_READY: "ready", v1.PodSandboxState.SANDBOX_NOTREADY: "notready"}
_COLUMNS: Final = ("POD", "NAMESPACE", "NAME", "STATE", "ATTEMPT", "RUNTIME", "AGE")


def add_options(parser: Parser) -> None:
    """Which ones, and how to show them."""
    endpoint_option(parser)
    output_option(parser)
    parser.add_argument("--name", default="", help="those of one name")
    parser.add_argument("--namespace", "-n", default="", help="those of one namespace")
    parser.add_argument("--state", choices=sorted(_STATES.values()), help="those in a state")
    parser.add_argument("--quiet", "-q", action="store_true", help="print ids only")
    label_options(parser)
    parser.set_defaults(run=lambda chosen: run(_pods, chosen))


async def _pods(client: Client, chosen: argparse.Namespace) -> int:
    pods = [pod for pod in await client.runtime.pods() if _wanted(pod, chosen)]
    pods.sort(key=lambda pod: (pod.metadata.namespace, pod.metadata.name, -pod.metadata.attempt, -pod.created_at))
    if chosen.output == "json":
        as_json([_document(pod) for pod in pods])
    elif chosen.quiet:
        for pod in pods:
            say(pod.id)
    else:
        now = time.time_ns()
        table(_COLUMNS, [_cells(pod, now) for pod in pods])
    return 0


def _wanted(pod: v1.PodSandbox, chosen: argparse.Namespace) -> bool:
    return (
        chosen.name in ("", pod.metadata.name)
        and chosen.namespace in ("", pod.metadata.namespace)
        and chosen.state in (None, _state(pod))
        and labels_match(chosen, pod.labels)
    )


def _state(pod: v1.PodSandbox) -> str:
    return _STATES.get(pod.state, str(pod.state))


def _cells(pod: v1.PodSandbox, now: int) -> tuple[str, ...]:
    return (
        pod.id[:SHORT],
        pod.metadata.namespace,
        pod.metadata.name,
        _state(pod),
        str(pod.metadata.attempt),
        pod.runtime_handler,
        age(pod.created_at, now),
    )


def _document(pod: v1.PodSandbox) -> dict[str, object]:
    return {
        "id": pod.id,
        "name": pod.metadata.name,
        "namespace": pod.metadata.namespace,
        "uid": pod.metadata.uid,
        "attempt": pod.metadata.attempt,
        "state": _state(pod),
        "runtime_handler": pod.runtime_handler,
        "created_at": moment(pod.created_at),
        "labels": dict(pod.labels),
        "annotations": dict(pod.annotations),
    }
