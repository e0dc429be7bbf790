"""What a user calls pods and containers: a name, a name within its pod, or the beginning of an id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from ocishim.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ocishim.api.runtime import v1

SHORT: Final = 13
"""Characters of an id that people are shown."""
_SHOWN: Final = 8
"""Candidates that an error lists."""

Kind = Literal["container", "pod"]


@dataclass(frozen=True, slots=True)
class Named:
    """A pod or a container as far as its names go."""

    kind: Kind
    id: str
    path: tuple[str, ...]
    """Namespace and pod, and for a container its own name."""
    created_at: int

    @property
    def title(self) -> str:
        """For people: which one this is."""
        return f"{self.kind} {'/'.join(self.path)} ({self.id[:SHORT]})"


def of_pods(pods: Iterable[v1.PodSandbox]) -> list[Named]:
    """Their names."""
    return [Named("pod", pod.id, (pod.metadata.namespace, pod.metadata.name), pod.created_at) for pod in pods]


def of_containers(containers: Iterable[v1.Container], pods: Iterable[v1.PodSandbox]) -> list[Named]:
    """Their names, which begin with their pods'."""
    paths = {named.id: named.path for named in of_pods(pods)}
    return [
        Named(
            "container",
            each.id,
            (*paths.get(each.pod_sandbox_id, ("", each.pod_sandbox_id[:SHORT])), each.metadata.name),
            each.created_at,
        )
        for each in containers
    ]


def resolve(text: str, candidates: Sequence[Named]) -> Named:
    """The one that text means: by its id, its name (`C`, `POD/C`, `NAMESPACE/POD/C`), or else its id's beginning.

    Of several attempts of one container or pod, the latest is meant. Raises NotFound where there is none,
    InvalidArgument where there are several.
    """
    if not text:
        raise InvalidArgument("an empty name means nothing")
    kinds = " or ".join(sorted({each.kind for each in candidates})) or "container or pod"
    exact = [each for each in candidates if each.id == text]
    wanted = tuple(text.split("/"))
    by_name = [each for each in candidates if each.path[-len(wanted) :] == wanted]
    by_id = [each for each in candidates if each.id.startswith(text)]
    found = exact or _latest(by_name) or by_id
    if not found:
        raise NotFound(f"no {kinds} is called {text!r} or has an id that begins so")
    if len(found) > 1:
        some = ", ".join(each.title for each in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise InvalidArgument(f"{text!r} may be any of {some}{more}: give more of the name (POD/NAME) or the id")
    return found[0]


def _latest(found: Iterable[Named]) -> list[Named]:
    """The last made of each path."""
    latest: dict[tuple[Kind, tuple[str, ...]], Named] = {}
    for each in sorted(found, key=lambda each: each.created_at):
        latest[each.kind, each.path] = each
    return list(latest.values())
