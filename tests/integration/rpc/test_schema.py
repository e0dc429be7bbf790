"""Every RPC of every version of the schema is answered, and none by saying that it is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from ocishim.api.runtime import v1, v1alpha1, v1alpha2

if TYPE_CHECKING:
    from types import ModuleType

    from rpc.node import Node

WITHIN = 2.0
"""Seconds; a stream of events goes on longer."""


def paths(version: ModuleType) -> dict[str, bool]:
    """Whether each RPC streams, by path."""
    services = (version.RuntimeServiceBase(), version.ImageServiceBase())
    return {
        path: handler.cardinality.server_streaming
        for service in services
        for path, handler in service.__mapping__().items()
    }


def code(node: Node, path: str, *, streams: bool) -> grpc.StatusCode:
    """What an empty request is answered with."""
    assert node.channel is not None
    call = node.channel.unary_stream(path) if streams else node.channel.unary_unary(path)
    try:
        answer = call(b"", timeout=WITHIN)
        if streams:
            list(answer)
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return grpc.StatusCode.OK


@pytest.mark.parametrize("version", [v1, v1alpha2, v1alpha1], ids=["v1", "v1alpha2", "v1alpha1"])
def test_every_rpc_of_the_schema_answers(node: Node, version: ModuleType) -> None:
    answers = {path: code(node, path, streams=streams) for path, streams in paths(version).items()}
    missing = {path for path, answer in answers.items() if answer == grpc.StatusCode.UNIMPLEMENTED}
    assert not missing
    confused = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
    assert not {path for path, answer in answers.items() if answer in confused}
