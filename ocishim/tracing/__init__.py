"""Spans of what the server does, for whoever traces it; elsewhere a span costs one look at a variable.

A tracer is active from the moment an RPC brings it in, for that RPC and all that it starts. Which tracer that is, and
whether there is any, only daemon.py knows.
"""

from __future__ import annotations

from contextlib import nullcontext
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from contextvars import Context

_NOTHING: Final = nullcontext()


class Tracer(Protocol):
    """Where spans go (tracing/otel.py)."""

    def rpc(self, path: str, metadata: Mapping[str, str]) -> AbstractContextManager[None]:
        """The span of a call, below the client's own where its metadata names one; active for all that is below."""

    def span(self, name: str, attributes: Mapping[str, str]) -> AbstractContextManager[None]:
        """A span below the current one; an exception that leaves it is its failure."""

    def trace_id(self) -> str:
        """The current trace's, in hexadecimal digits; empty outside of any."""


active: ContextVar[Tracer | None] = ContextVar("tracer", default=None)
"""The tracer of the RPC that is at work here."""


def span(name: str, /, **attributes: str) -> AbstractContextManager[None]:
    """What is done in this block, below what it is part of; nothing where nobody traces."""
    tracer = active.get()
    return _NOTHING if tracer is None else tracer.span(name, attributes)


def trace_id() -> str:
    """The current trace's, for the log; empty where there is none."""
    tracer = active.get()
    return "" if tracer is None else tracer.trace_id()


def detached() -> Context:
    """A context for a task that goes on when the RPC that started it has long ended: it is no part of that trace."""
    context = copy_context()
    context.run(active.set, None)
    return context
