"""The lists in pieces: no answer grows with the number of pods, and none meets the client's size limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ocishim.api.runtime import v1
from ocishim.cri import listing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocishim.cri.wire import Encoded
    from ocishim.lifecycle.node import Node

_ITEMS_FIELD: Final = 1
"""Of all three responses."""


class ListRpcs(v1.RuntimeServiceBase):
    """RuntimeService's lists as streams; each entry once, an empty list is no message at all."""

    _node: Node

    async def stream_pod_sandboxes(  # type: ignore[override] # the responses, encoded already
        self, stream_pod_sandboxes_request: v1.StreamPodSandboxesRequest
    ) -> AsyncIterator[Encoded]:
        """Pods, from their encoded entries."""
        found = listing.sandboxes(self._node, stream_pod_sandboxes_request.filter)
        for chunk in listing.chunks([each.entry for each in found]):
            yield listing.join(chunk, _ITEMS_FIELD)

    async def stream_containers(  # type: ignore[override] # the responses, encoded already
        self, stream_containers_request: v1.StreamContainersRequest
    ) -> AsyncIterator[Encoded]:
        """Containers, from their encoded entries."""
        found = listing.containers(self._node, stream_containers_request.filter)
        for chunk in listing.chunks([each.entry for each in found]):
            yield listing.join(chunk, _ITEMS_FIELD)
