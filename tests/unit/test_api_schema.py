"""The generated messages against an independent client's: names, numbers, types, values, RPCs, bytes on the wire."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING, Any

import betterproto
import cri_api.v1.api_pb2 as their_v1
import cri_api.v1alpha2.api_pb2 as their_v1alpha2
import pytest
from betterproto.casing import pascal_case, snake_case
from google.protobuf.descriptor import FieldDescriptor

from ocishim.api.runtime import v1, v1alpha2

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

API = {"v1": (v1, their_v1), "v1alpha2": (v1alpha2, their_v1alpha2)}

# What our schema has and the client, which is older, has not. Nothing else may differ.
FIELDS_BEYOND = {
    "v1": {
        "ImageSpec.image_ref = 20",
        "Mount.mount_options = 11",
        "RuntimeFeatures.mount_options = 3",
        "RuntimeFeatures.user_namespaces_host_network = 2",
    },
    "v1alpha2": set(),
}
# Where ours is newer about a field that both have: `bytes` reads what `string` wrote, and any other value too.
FIELDS_CHANGED = {"v1": {"KeyValue": {2: "value: one bytes "}}}
RPCS_BEYOND = {
    "v1": {
        "ImageService.StreamImages",
        "RuntimeService.CheckpointPod",
        "RuntimeService.RestorePod",
        "RuntimeService.StreamContainerStats",
        "RuntimeService.StreamContainers",
        "RuntimeService.StreamPodSandboxMetrics",
        "RuntimeService.StreamPodSandboxStats",
        "RuntimeService.StreamPodSandboxes",
    },
    "v1alpha2": set(),
}
MESSAGES_BEYOND = {
    "v1": {
        "CheckpointPodRequest",
        "CheckpointPodResponse",
        "RestorePodRequest",
        "RestorePodResponse",
        "RestoredContainer",
        "StreamContainerStatsRequest",
        "StreamContainerStatsResponse",
        "StreamContainersRequest",
        "StreamContainersResponse",
        "StreamImagesRequest",
        "StreamImagesResponse",
        "StreamPodSandboxMetricsRequest",
        "StreamPodSandboxMetricsResponse",
        "StreamPodSandboxStatsRequest",
        "StreamPodSandboxStatsResponse",
        "StreamPodSandboxesRequest",
        "StreamPodSandboxesResponse",
    },
    "v1alpha2": set(),
}

TYPE_NAMES = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}
LARGEST = {"int32": 2**31 - 1, "uint32": 2**32 - 1, "int64": 2**63 - 1, "uint64": 2**64 - 1}
MESSAGES = [(version, name) for version, (_, theirs) in API.items() for name in theirs.DESCRIPTOR.message_types_by_name]


def our_types(module: ModuleType, base: type) -> dict[str, Any]:
    """Classes of the generated `module` that descend from `base`, by name."""
    return {name: it for name, it in vars(module).items() if isinstance(it, type) and issubclass(it, base)}


def our_message(version: str, name: str) -> Any:
    return our_types(API[version][0], betterproto.Message)[pascal_case(name)]


def our_fields(message: Any) -> dict[int, str]:
    """Each field as one comparable line, by number."""
    described = message()._betterproto
    lines = {}
    for name, meta in described.meta_by_field_name.items():
        kind, of = meta.proto_type, described.cls_by_field[name]
        if meta.map_types:
            value = described.cls_by_field[f"{name}.value"]
            key_kind, value_kind = meta.map_types
            kind, label = f"{key_kind} to {of_type(value_kind, value)}", "map"
        else:
            kind, label = of_type(kind, of), "repeated" if described.default_gen[name] is list else "one"
        lines[meta.number] = f"{snake_case(name)}: {label} {kind} {meta.group or ''}"
    return lines


def of_type(kind: str, of: type) -> str:
    return f"{kind} {of.__name__}" if kind in ("message", "enum") else kind


def their_fields(descriptor: Any) -> dict[int, str]:
    lines = {}
    for field in descriptor.fields:
        if is_map(field):
            key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
            label, kind = "map", f"{their_type(key)} to {their_type(value)}"
        else:
            label, kind = "repeated" if field.is_repeated else "one", their_type(field)
        group = field.containing_oneof.name if field.containing_oneof else ""
        lines[field.number] = f"{snake_case(field.name)}: {label} {kind} {group}"
    return lines


def their_type(field: Any) -> str:
    of = field.message_type or field.enum_type
    return TYPE_NAMES[field.type] + (f" {python_name(of)}" if of else "")


def python_name(descriptor: Any) -> str:
    """betterproto's name of a message or enum: one of its own for what is declared inside a message."""
    outer = pascal_case(descriptor.containing_type.name) if descriptor.containing_type else ""
    return f"{outer}{pascal_case(descriptor.name)}"


def is_map(field: Any) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def their_enums(theirs: ModuleType) -> Iterable[Any]:
    yield from theirs.DESCRIPTOR.enum_types_by_name.values()
    for message in theirs.DESCRIPTOR.message_types_by_name.values():
        yield from message.enum_types


@pytest.mark.parametrize("version", API)
def test_the_client_knows_all_our_messages_but_the_listed_ones(version: str) -> None:
    ours = set(our_types(API[version][0], betterproto.Message))
    theirs = {pascal_case(name) for name in API[version][1].DESCRIPTOR.message_types_by_name}
    assert ours - theirs == MESSAGES_BEYOND[version]
    assert theirs - ours == set()


@pytest.mark.parametrize(("version", "name"), MESSAGES)
def test_every_field_is_the_clients(version: str, name: str) -> None:
    theirs = their_fields(API[version][1].DESCRIPTOR.message_types_by_name[name])
    ours = our_fields(our_message(version, name))
    expected = theirs | FIELDS_CHANGED.get(version, {}).get(name, {})
    assert {number: ours.get(number) for number in theirs} == expected


@pytest.mark.parametrize("version", API)
def test_fields_beyond_the_clients_are_the_listed_ones(version: str) -> None:
    beyond = set()
    for name, descriptor in API[version][1].DESCRIPTOR.message_types_by_name.items():
        known = descriptor.fields_by_number
        for field in dataclasses.fields(our_message(version, name)):
            number = field.metadata["betterproto"].number
            if number not in known:
                beyond.add(f"{name}.{field.name} = {number}")
    assert beyond == FIELDS_BEYOND[version]


@pytest.mark.parametrize("version", API)
def test_every_enum_has_the_clients_values_and_no_more(version: str) -> None:
    ours = {
        name: {member.name: member.value for member in enum}
        for name, enum in our_types(API[version][0], betterproto.Enum).items()
    }
    theirs = {
        python_name(enum): {value.name: value.number for value in enum.values} for enum in their_enums(API[version][1])
    }
    assert ours == theirs


@pytest.mark.parametrize("version", API)
def test_every_rpc_takes_and_gives_what_the_clients_does(version: str) -> None:
    module, theirs = API[version]
    package = theirs.DESCRIPTOR.package
    ours = {}
    for service in ("RuntimeService", "ImageService"):
        for path, handler in getattr(module, f"{service}Base")().__mapping__().items():
            shape = (handler.request_type.__name__, handler.reply_type.__name__, handler.cardinality.server_streaming)
            ours[path.removeprefix(f"/{package}.").replace("/", ".")] = shape
    expected = {
        f"{service.name}.{rpc.name}": (
            pascal_case(rpc.input_type.name),
            pascal_case(rpc.output_type.name),
            rpc.server_streaming,
        )
        for service in theirs.DESCRIPTOR.services_by_name.values()
        for rpc in service.methods
    }
    assert {name: ours.get(name) for name in expected} == expected
    assert ours.keys() - expected.keys() == RPCS_BEYOND[version]


@pytest.mark.parametrize(("version", "name"), MESSAGES)
def test_a_full_message_survives_the_way_through_our_code(version: str, name: str) -> None:
    theirs = getattr(API[version][1], name)
    sent = theirs()
    fill(sent, random.Random(f"{version}.{name}"))  # a seed: a failure must come again
    ours = our_message(version, name)().parse(sent.SerializeToString())
    assert not ours._unknown_fields
    assert theirs.FromString(bytes(ours)) == sent


def fill(message: Any, source: random.Random, depth: int = 0) -> None:
    """Give every field a value that is not its default; messages below the fourth level stay empty."""
    for field in message.DESCRIPTOR.fields:
        if is_map(field):
            fill_map(getattr(message, field.name), field, source, depth)
        elif field.message_type:
            inner = getattr(message, field.name)
            for below in [inner.add(), inner.add()] if field.is_repeated else [inner]:
                below.SetInParent()
                if depth < 4:
                    fill(below, source, depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).extend([scalar(field, source), scalar(field, source)])
        else:
            setattr(message, field.name, scalar(field, source))


def fill_map(entries: Any, field: Any, source: random.Random, depth: int) -> None:
    value = field.message_type.fields_by_name["value"]
    for _ in range(2):
        key = scalar(field.message_type.fields_by_name["key"], source)
        if value.message_type:
            fill(entries[key], source, depth + 1)
        else:
            entries[key] = scalar(value, source)


def scalar(field: Any, source: random.Random) -> Any:
    kind = TYPE_NAMES[field.type]
    if kind == "string":
        return "".join(source.choices("aZ09-_/.: é漢🙂\n", k=source.randint(1, 12)))
    if kind == "bytes":
        return source.randbytes(source.randint(1, 12))
    if kind == "bool":
        return True
    if kind == "double":
        return source.uniform(1, 1e9)
    if kind == "enum":
        return source.choice([value.number for value in field.enum_type.values if value.number])
    sign = source.choice((1, -1)) if kind.startswith("int") else 1
    return sign * source.choice((1, source.randint(1, LARGEST[kind]), LARGEST[kind]))
