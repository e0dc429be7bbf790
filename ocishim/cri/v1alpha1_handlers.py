"""The first version's paths, led to v1's methods; nothing of that version is loaded before somebody asks by it."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Any, Final

from grpclib.const import Cardinality, Handler

from ocishim.api.runtime import v1
from ocishim.cri.interceptor import method_name, wrapped
from ocishim.cri.wire import Encoded
from ocishim.linux.device import filesystem_uuid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import ModuleType

    import betterproto
    from grpclib.server import Stream

    from ocishim.cri.interceptor import Service
    from ocishim.lifecycle.node import Node

RUNTIME: Final = (
    "Version",
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "PodSandboxStatus",
    "ListPodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ListContainers",
    "ContainerStatus",
    "UpdateContainerResources",
    "ExecSync",
    "Exec",
    "Attach",
    "PortForward",
    "ContainerStats",
    "ListContainerStats",
    "UpdateRuntimeConfig",
    "Status",
)
IMAGE: Final = ("ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo")
_ENCODED: Final[Mapping[str, type[betterproto.Message]]] = {
    "ContainerStats": v1.ContainerStatsResponse,
    "ListContainerStats": v1.ListContainerStatsResponse,
}
"""Answers that come as bytes and hold what this version has other words for."""
_TRANSLATION: Final = "ocishim.cri.v1alpha1"


def v1alpha1_handlers(
    name: str, rpcs: tuple[str, ...], service: Service, node: Node, describe: Callable[[object], str]
) -> dict[str, Handler]:
    """Handlers by path of a service as it was in the first version."""
    made = {}
    for rpc in rpcs:
        shape = Handler(_nothing, Cardinality.UNARY_UNARY, _Request(rpc, node), object)
        served = wrapped(rpc, shape, _translated(rpc, getattr(service, method_name(rpc))), describe, node.meter.rpc)
        made[f"/runtime.{name}/{rpc}"] = shape._replace(func=_loading(served))
    return made


async def _nothing(stream: Stream[Any, Any]) -> None:
    """Takes the place of a handler that is not made yet."""


def _loading(served: Callable[[Stream[Any, Any]], Awaitable[None]]) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
    async def first(stream: Stream[Any, Any]) -> None:
        await _translation()
        await served(stream)

    return first


async def _translation() -> ModuleType:
    # A tenth of a second the first time, in a thread; nothing after it.
    return await asyncio.to_thread(importlib.import_module, _TRANSLATION)


class _Request:
    """Stands where the request's type would: what it parses are the first version's bytes, what it gives is v1's."""

    def __init__(self, rpc: str, node: Node) -> None:
        self.__name__ = f"{rpc}Request"
        self._rpc = rpc
        self._node = node

    def __call__(self) -> _Request:
        return self

    def parse(self, content: bytes) -> betterproto.Message:
        """The request in v1's words."""
        from ocishim.cri import v1alpha1  # noqa: PLC0415 - loaded by now

        return v1alpha1.request(self._rpc, content, self._annotations)

    def _annotations(self, sandbox_id: str) -> Mapping[str, str]:
        sandbox = self._node.sandboxes.find(sandbox_id)
        return sandbox.config.annotations if sandbox else {}


def _translated(rpc: str, method: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    async def call(request: Any) -> Any:  # noqa: ANN401 - any request, any answer
        from ocishim.cri import v1alpha1  # noqa: PLC0415 - loaded by now

        answer = await method(request)
        if isinstance(answer, Encoded) and rpc in _ENCODED:
            answer = _ENCODED[rpc]().parse(answer.content)
        points = set(v1alpha1.mount_points(answer)) - {""}  # not counted yet
        uuids = await asyncio.to_thread(_uuids, points) if points else {}
        return v1alpha1.response(answer, uuids.__getitem__)

    return call


def _uuids(points: set[str]) -> dict[str, str]:
    return {point: filesystem_uuid(point) for point in points}
