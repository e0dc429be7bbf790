"""Each RPC as a span, where somebody traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from grpclib.const import Handler
    from grpclib.server import Stream

    from ocishim.tracing import Tracer


def traced(handlers: dict[str, Handler], tracer: Tracer | None) -> dict[str, Handler]:
    """The handlers, each within a span of its own; themselves where nobody traces."""
    if tracer is None:
        return handlers
    return {path: handler._replace(func=_within(path, handler, tracer)) for path, handler in handlers.items()}


def _within(path: str, handler: Handler, tracer: Tracer) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
    async def served(stream: Stream[Any, Any]) -> None:
        metadata = {key: value for key, value in (stream.metadata or {}).items() if isinstance(value, str)}
        with tracer.rpc(path, metadata):
            await handler.func(stream)

    return served
