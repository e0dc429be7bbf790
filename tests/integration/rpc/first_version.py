"""A client of the CRI's first version, made by Google's own tools from its interface definition."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

if TYPE_CHECKING:
    import grpc

PROTO = Path(__file__).resolve().parents[3] / "proto"
FILE = "runtime/v1alpha1/api.proto"


def messages(scratch: Path) -> SimpleNamespace:
    """All messages by name, from protoc's descriptors, in a pool that knows no other version."""
    compiled = scratch / "descriptors"
    subprocess.run(["protoc", f"-I{PROTO}", f"--descriptor_set_out={compiled}", FILE], check=True, timeout=60)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file:
        pool.Add(file)
    found = pool.FindFileByName(FILE)
    made = {name: message_factory.GetMessageClass(kind) for name, kind in found.message_types_by_name.items()}
    return SimpleNamespace(**made, services=found.services_by_name)


def stub(channel: grpc.Channel, service: Any, types: SimpleNamespace) -> SimpleNamespace:
    """The service's RPCs by name."""
    return SimpleNamespace(
        **{
            rpc.name: channel.unary_unary(
                f"/{service.full_name}/{rpc.name}",
                request_serializer=getattr(types, rpc.input_type.name).SerializeToString,
                response_deserializer=getattr(types, rpc.output_type.name).FromString,
            )
            for rpc in service.methods
        }
    )
