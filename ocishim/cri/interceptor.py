"""What every RPC passes: one place for request limits, error mapping, and the access log."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, Protocol

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from ocishim.cri.errors import is_expected, status_of
from ocishim.cri.wire import receive

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from grpclib.server import Stream

log = logging.getLogger("ocishim.rpc")

_FREQUENT: Final = frozenset(
    {
        "Version",
        "Status",
        "RuntimeConfig",
        "ListPodSandbox",
        "PodSandboxStatus",
        "ListContainers",
        "ContainerStatus",
        "ListImages",
        "ImageStatus",
        "ImageFsInfo",
        "ContainerStats",
        "ListContainerStats",
        "PodSandboxStats",
        "ListPodSandboxStats",
        "ListPodSandboxMetrics",
        "StreamContainerStats",
        "StreamPodSandboxStats",
        "StreamPodSandboxMetrics",
    }
)
"""What kubelet polls: logged at debug level unless it fails."""
_LONGEST_TEXT: Final = 2000


class Service(Protocol):
    """A generated service base."""

    def __mapping__(self) -> Mapping[str, Handler]:
        """Handlers by path."""


Observer = Callable[[str, str, float], None]
"""Told of every answer: the method, the code by name, the seconds."""


def intercepted(service: Service, describe: Callable[[object], str], observe: Observer) -> dict[str, Handler]:
    """The service's handlers by path, each wrapped; `describe` names the pod or container of a request."""
    return {
        path: Handler(
            _served(path.rsplit("/", 1)[1], handler, service, describe, observe),
            handler.cardinality,
            handler.request_type,
            handler.reply_type,
        )
        for path, handler in service.__mapping__().items()
    }


def method_name(rpc: str) -> str:
    """The generated method of an RPC: RunPodSandbox → run_pod_sandbox."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", rpc).lower()


def _served(
    rpc: str, handler: Handler, service: Service, describe: Callable[[object], str], observe: Observer
) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
    return wrapped(rpc, handler, getattr(service, method_name(rpc)), describe, observe)


def wrapped(
    rpc: str, handler: Handler, method: Callable[[Any], Any], describe: Callable[[object], str], observe: Observer
) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
    """The method as grpclib calls it; of `handler` only its types and cardinality are used."""

    async def served(stream: Stream[Any, Any]) -> None:
        began = time.monotonic()
        about = ""
        status, message = Status.OK, ""
        try:
            request = await receive(stream, handler.request_type)
            about = describe(request)
            if handler.cardinality is Cardinality.UNARY_STREAM:
                async with aclosing(method(request)) as responses:
                    # So that a client knows when it listens, long before there is anything to tell.
                    await stream.send_initial_metadata()
                    async for response in responses:
                        await stream.send_message(response)
            else:
                await stream.send_message(await method(request))
        except asyncio.CancelledError:
            status, message = Status.CANCELLED, "the client went away"
            raise
        except GRPCError as error:
            status, message = error.status, error.message or ""
            if status is Status.UNIMPLEMENTED:
                message = f"{rpc} is not implemented by this version of ocishim"
            raise GRPCError(status, message) from None
        except Exception as error:
            status, message = status_of(error)
            if not is_expected(error):
                log.exception("%s %s: a bug", rpc, about)
            raise GRPCError(status, message) from error
        finally:
            seconds = time.monotonic() - began
            observe(rpc, status.name, seconds)
            _access(rpc, about, seconds, status, message)

    return served


def _access(rpc: str, about: str, seconds: float, status: Status, message: str) -> None:
    level = logging.DEBUG if status is Status.OK and rpc in _FREQUENT else logging.INFO
    if log.isEnabledFor(level):
        line = f": {one_line(message)}" if message else ""
        fields = {"rpc": rpc, "about": one_line(about), "ms": round(seconds * 1000, 3), "code": status.name}
        text = "%s %s %.1f ms %s%s"
        log.log(level, text, rpc, one_line(about), seconds * 1000, status.name, line, extra={"fields": fields})


def one_line(text: str) -> str:
    """Text from outside as part of one log line: nothing in it may begin another, or go on for ever."""
    cut = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
    return "".join(character if character.isprintable() else " " for character in cut)
