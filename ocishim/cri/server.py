"""The gRPC server on its Unix socket: both services, v1 and v1alpha2 paths on the same handlers."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Final

import h2.settings
from grpclib.protocol import H2Protocol
from grpclib.server import Server

from ocishim.api.ocishim import v1 as own
from ocishim.api.runtime import v1
from ocishim.cri import v1alpha1_handlers as first
from ocishim.cri.interceptor import intercepted
from ocishim.cri.wire import WireCodec
from ocishim.errors import FailedPrecondition

if TYPE_CHECKING:
    from asyncio import BaseTransport
    from collections.abc import Callable, Mapping

    from grpclib.const import Handler

    from ocishim.cri.image_service import ImageService
    from ocishim.cri.own_service import OwnImageService
    from ocishim.cri.runtime_service import RuntimeService
    from ocishim.lifecycle.node import Node

CONCURRENT_STREAMS: Final = 1000
"""Exec probes and long stops of a full node fit; grpclib's default of 100 does not."""
BACKLOG: Final = 512
SOCKET_MODE: Final = 0o660

V1ALPHA2_RUNTIME: Final = (
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
    "ReopenContainerLog",
    "ExecSync",
    "Exec",
    "Attach",
    "PortForward",
    "ContainerStats",
    "ListContainerStats",
    "PodSandboxStats",
    "ListPodSandboxStats",
    "UpdateRuntimeConfig",
    "Status",
)
V1ALPHA2_IMAGE: Final = ("ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo")


class _Protocol(H2Protocol):
    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        connection = self.connection._connection  # noqa: SLF001 - grpclib has no setting for it
        connection.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: CONCURRENT_STREAMS})
        self.connection.flush()


class CriServer(Server):
    """grpclib's server with room for a full node's calls."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        super().__init__([_Served(handlers)], codec=WireCodec())

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        return _Protocol(made.handler, made.config, made.h2_config)


class _Served:
    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    def __mapping__(self) -> Mapping[str, Handler]:
        return self._handlers


def runtime_handlers(service: RuntimeService, node: Node) -> dict[str, Handler]:
    """RuntimeService under its v1, v1alpha2 and v1alpha1 paths; on the wire v1alpha2 is a subset of v1."""
    describe = describer(node)
    handlers = intercepted(service, describe, node.meter.rpc)
    oldest = first.v1alpha1_handlers("RuntimeService", first.RUNTIME, service, node, describe)
    return handlers | _also("RuntimeService", V1ALPHA2_RUNTIME, handlers) | oldest


def image_handlers(service: ImageService, own_service: OwnImageService, node: Node) -> dict[str, Handler]:
    """ImageService under its v1, v1alpha2 and v1alpha1 paths, and ocishim's own."""
    describe = describer(node)
    handlers = intercepted(service, describe, node.meter.rpc)
    oldest = first.v1alpha1_handlers("ImageService", first.IMAGE, service, node, describe)
    own_handlers = intercepted(own_service, describe, node.meter.rpc)
    return handlers | _also("ImageService", V1ALPHA2_IMAGE, handlers) | oldest | own_handlers


def _also(service: str, rpcs: tuple[str, ...], handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    return {f"/runtime.v1alpha2.{service}/{rpc}": handlers[f"/runtime.v1.{service}/{rpc}"] for rpc in rpcs}


def describer(node: Node) -> Callable[[object], str]:
    """A function that names what a request is about, as a person knows it."""

    def describe(request: object) -> str:
        match request:
            case v1.RunPodSandboxRequest():
                return f"{request.config.metadata.namespace}/{request.config.metadata.name}"
            case v1.CreateContainerRequest():
                return f"{request.config.metadata.name} in {_pod(node, request.pod_sandbox_id)}"
            case v1.PullImageRequest() | v1.RemoveImageRequest() | v1.ImageStatusRequest():
                return request.image.image
            case own.LoadRequest() | own.SaveRequest() | own.PullRequest():
                return request.image if isinstance(request, own.PullRequest) else request.path
        container_id = getattr(request, "container_id", "")
        if container_id:
            container = node.containers.find(container_id)
            return container.title if container else container_id[:64]
        sandbox_id = getattr(request, "pod_sandbox_id", "")
        return _pod(node, sandbox_id) if sandbox_id else "-"

    return describe


def _pod(node: Node, sandbox_id: str) -> str:
    sandbox = node.sandboxes.find(sandbox_id)
    return sandbox.title if sandbox else f"pod {sandbox_id[:64]}"


def listen(path: str) -> socket.socket:
    """A listening socket at path, for root and its group only; a stale one is replaced.

    Raises FailedPrecondition where a live server answers there, or something else than a socket is in the way.
    """
    os.makedirs(os.path.dirname(path), 0o711, exist_ok=True)
    _clear_way(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        bound.bind(path)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise FailedPrecondition(f"cannot listen on {path}: {error.strerror or error}") from error
    finally:
        os.umask(before)
    return bound


def _clear_way(path: str) -> None:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except OSError as error:
        what = "is no socket" if error.errno in (errno.ENOTSOCK, errno.EPROTOTYPE) else error.strerror
        raise FailedPrecondition(f"cannot listen on {path}: {what}") from error
    finally:
        probe.close()
    raise FailedPrecondition(f"cannot listen on {path}: a server answers there already")
