"""GetContainerEvents: the journal to one client, which may be slow and then is let go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ocishim.api.runtime import v1
from ocishim.cri.wire import Encoded
from ocishim.errors import ResourceExhausted
from ocishim.lifecycle.events import MOST_BYTES, MOST_EVENTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocishim.lifecycle.events import Journal
    from ocishim.lifecycle.node import Node


class EventRpcs(v1.RuntimeServiceBase):
    """RuntimeService's events."""

    _node: Node

    def get_container_events(self, get_events_request: v1.GetEventsRequest) -> AsyncIterator[Encoded]:  # type: ignore[override] # noqa: ARG002 - encoded already; the request has no fields
        """Events from now on, until the client goes away or falls behind."""
        return ClientsEvents(self._node.journal)


class ClientsEvents:
    """The events of the client whose handler makes it, as an async iterator to be closed by aclose.

    No generator: a handler that is cancelled while it sends would leave one suspended, and its `finally` to the
    garbage collector. The handler may be blocked in a send to a client that does not read, so that being too slow
    interrupts it as a timeout would.
    """

    def __init__(self, journal: Journal) -> None:
        self._handler = asyncio.current_task()
        self._subscription = journal.subscribe(self._interrupt)

    def _interrupt(self) -> None:
        if self._handler is not None:
            self._handler.cancel()

    def __aiter__(self) -> ClientsEvents:
        return self

    async def __anext__(self) -> Encoded:
        return Encoded(await self._subscription.next())

    async def aclose(self) -> None:
        """Stop listening. Raises ResourceExhausted where the client was too slow."""
        self._subscription.close()
        if self._subscription.has_overflowed and self._handler is not None and self._handler.uncancel() == 0:
            raise ResourceExhausted(
                f"the subscriber is too slow: more than {MOST_EVENTS} events or {MOST_BYTES} bytes waited for it; "
                "subscribe again and list what there is"
            )
