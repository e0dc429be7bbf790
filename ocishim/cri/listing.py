"""Lists: filters over records in memory, and answers joined from entries that are encoded already.

kubelet asks every second for everything there is. An entry is encoded when its object changes; a list is a tag, a
length and the entry's bytes, over and over (protobuf encoding, length-delimited fields).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import betterproto

from ocishim.cri.wire import Encoded
from ocishim.translate import statuses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ocishim.api.runtime import v1
    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox

_LENGTH_DELIMITED = 2
_ONE_BYTE: Final = tuple(bytes((number,)) for number in range(128))
CHUNK: Final = 256 << 10
"""Bytes of entries in one message of a streamed list, as far as entries allow."""


def join(entries: Iterable[bytes], field: int) -> Encoded:
    """A message whose repeated field of that number holds the entries."""
    tag = varint(field << 3 | _LENGTH_DELIMITED)
    parts: list[bytes] = []
    for entry in entries:
        parts += (tag, varint(len(entry)), entry)
    return Encoded(b"".join(parts))


def chunks(entries: Sequence[bytes]) -> Iterator[list[bytes]]:
    """The entries in pieces of some size, at least one entry each."""
    chunk: list[bytes] = []
    size = 0
    for entry in entries:
        if chunk and size + len(entry) > CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append(entry)
        size += len(entry)
    if chunk:
        yield chunk


def varint(number: int) -> bytes:
    """A number in base 128, low groups first."""
    if number <= 0x7F:  # noqa: PLR2004 - as most are: lengths and tags
        return _ONE_BYTE[number]
    result = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)


def sandboxes(node: Node, wanted: v1.PodSandboxFilter) -> list[Sandbox]:
    """The pods that pass; an unknown or ambiguous id is none, not an error."""
    found = [each] if wanted.id and (each := node.sandboxes.find(wanted.id)) else []
    candidates = found if wanted.id else list(node.sandboxes)
    # Once, not for each pod: a field of a message costs as much as all else that is done with it.
    state = wanted.state.state if betterproto.serialized_on_wire(wanted.state) else None
    selector = wanted.label_selector
    return [
        each
        for each in candidates
        if (state is None or statuses.sandbox_state(each.status) == state)
        and (not selector or has_labels(each.config.labels, selector))
    ]


def containers(node: Node, wanted: v1.ContainerFilter) -> list[Container]:
    """The containers that pass; ids may be cut short, and an unknown one is none."""
    found = [each] if wanted.id and (each := node.containers.find(wanted.id)) else []
    candidates = found if wanted.id else list(node.containers)
    if wanted.pod_sandbox_id:
        sandbox = node.sandboxes.find(wanted.pod_sandbox_id)
        sandbox_id = sandbox.id if sandbox else wanted.pod_sandbox_id
        candidates = [each for each in candidates if each.metadata.sandbox_id == sandbox_id]
    state = wanted.state.state if betterproto.serialized_on_wire(wanted.state) else None
    selector = wanted.label_selector
    return [
        each
        for each in candidates
        if (state is None or statuses.container_state(each.status) == state)
        and (not selector or has_labels(each.config.labels, selector))
    ]


def has_labels(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether all labels of the selector are there with just these values."""
    return all(labels.get(key) == value for key, value in selector.items())
