"""Tables of request → spec: what CDI files and hooks make of a container."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_translate_containers import config, inputs

from ocishim.api.runtime import v1
from ocishim.errors import FailedPrecondition
from ocishim.spec import runtime as spec
from ocishim.spec.cdi import CdiSpec, parse_cdi, split_device
from ocishim.spec.hooks import HookFile, parse_hook
from ocishim.translate import cdi, hooks
from ocishim.translate.container import container_spec
from ocishim.translate.facts import DeviceFacts, GrantedDevice
from ocishim.translate.userns import IdMappings, IdRange

# Hooks


def hook_file(**when: Any) -> HookFile:
    return HookFile.model_validate(
        {"version": "1.0.0", "hook": {"path": "/h"}, "when": when, "stages": ["prestart", "poststop"]}
    )


@pytest.mark.parametrize(
    ("when", "runs"),
    [
        ({}, False),
        ({"always": True}, True),
        ({"always": False}, False),
        ({"annotations": {"^a$": "^b$"}}, True),
        ({"annotations": {"^a$": "^c$"}}, False),
        ({"annotations": {"^a$": "b", "^z$": ""}}, False),
        ({"commands": ["^/run$"]}, True),
        ({"commands": ["^/bin/"]}, False),
        ({"hasBindMounts": True}, True),
        ({"hasBindMounts": False}, False),
        ({"always": True, "commands": ["^/bin/"]}, False),
    ],
)
def test_when_a_hook_runs(when: dict[str, Any], *, runs: bool) -> None:
    base = container_spec(inputs(config(command=["/run"])))
    found = hooks.with_hooks(base, {"h.json": hook_file(**when)}, {"a": "b"}, has_bind_mounts=True)
    if runs:
        assert found.hooks == spec.Hooks(prestart=[spec.Hook(path="/h")], poststop=[spec.Hook(path="/h")])
    else:
        assert found.hooks is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "Invalid JSON"),
        (b'{"version": "2.0.0"}', "version"),
        (
            b'{"version": "1.0.0", "hook": {"path": "rel"}, "when": {"always": true}, "stages": ["prestart"]}',
            "hook.path",
        ),
        (b'{"version": "1.0.0", "hook": {"path": "/h"}, "when": {"commands": ["("]}, "stages": ["prestart"]}', "'('"),
        (b'{"version": "1.0.0", "hook": {"path": "/h"}, "when": {"always": true}, "stages": ["never"]}', "stages"),
    ],
)
def test_a_hook_file_that_is_none(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_hook(content)


# CDI


def cdi_file(path: str, priority: int, *names: str, **fields: Any) -> cdi.CdiFile:
    devices = [{"name": name, "containerEdits": {"env": [f"{name.upper()}={path}"]}} for name in names]
    document = {"cdiVersion": "1.0.0", "kind": "v.com/d", "devices": devices} | fields
    return cdi.CdiFile(path, priority, CdiSpec.model_validate(document))


def test_devices_are_named_in_the_field_and_in_annotations() -> None:
    made = config(
        cdi_devices=[v1.CdiDevice(name="v.com/d=a")],
        annotations={"cdi.k8s.io/x": "v.com/d=b,v.com/d=a", "other": "v.com/d=c"},
    )
    assert cdi.requested(made) == ["v.com/d=a", "v.com/d=b"]


@given(st.text(max_size=30))
def test_only_a_whole_name_is_a_device(text: str) -> None:
    found = split_device(text)
    if found is not None:
        kind, device = found
        assert f"{kind}={device}" == text
        assert not set(text) & set(" \n\0,")
        assert kind.count("/") == 1


def test_a_files_common_edits_come_once_and_first() -> None:
    file = cdi_file("/f", 0, "a", "b", containerEdits={"env": ["COMMON=1"]})
    found = cdi.resolve(["v.com/d=b", "v.com/d=a"], [file], {})
    assert [edit.env for edit in found] == [["COMMON=1"], ["B=/f"], ["A=/f"]]


def test_the_higher_priority_wins_equal_ones_contradict_and_a_missing_one_names_bad_files() -> None:
    low, high, twin = cdi_file("/low", 0, "a"), cdi_file("/high", 1, "a"), cdi_file("/twin", 1, "a")
    assert [edit.env for edit in cdi.resolve(["v.com/d=a"], [high, low], {})] == [[], ["A=/high"]]
    with pytest.raises(FailedPrecondition, match="/high and /twin"):
        cdi.resolve(["v.com/d=a"], [low, high, twin], {})
    with pytest.raises(FailedPrecondition, match=r"'v\.com/d=z'.*/bad cannot be used: not JSON"):
        cdi.resolve(["v.com/d=z"], [low], {"/bad": "not JSON"})


def applied(
    *edits: dict[str, Any], nodes: dict[str, DeviceFacts] | None = None, moves_interfaces: bool = False
) -> spec.RuntimeSpec:
    devices = [{"name": f"d{number}", "containerEdits": edit} for number, edit in enumerate(edits)]
    document = CdiSpec.model_validate({"cdiVersion": "1.1.0", "kind": "v.com/d", "devices": devices})
    made = tuple(device.container_edits for device in document.devices)
    return container_spec(inputs(config(), cdi=cdi.CdiEdits(made, nodes or {}, moves_interfaces=moves_interfaces)))


KMSG = DeviceFacts("/dev/kmsg", "c", 1, 11, 0o644, 0, 0)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"path": "/dev/kmsg"}, ("c", 1, 11, 0o644, "rwm")),
        ({"path": "/dev/x", "hostPath": "/dev/kmsg", "permissions": "r", "fileMode": 0o600}, ("c", 1, 11, 0o600, "r")),
        ({"path": "/dev/x", "type": "b", "major": 8, "minor": 1}, ("b", 8, 1, None, "rwm")),
    ],
)
def test_a_cdi_device_node(node: dict[str, Any], expected: tuple[str, int, int, int | None, str]) -> None:
    found = applied({"deviceNodes": [node]}, nodes={"/dev/kmsg": KMSG})
    device, rule = found.linux.devices[-1], found.linux.resources.devices[-1]
    assert device.path == node["path"]
    assert (device.type, device.major, device.minor, device.file_mode, rule.access) == expected
    assert (rule.allow, rule.type, rule.major, rule.minor) == (True, device.type, device.major, device.minor)


def test_a_device_under_another_name_is_bound_where_no_node_can_be_made() -> None:
    ids = (IdRange(0, 100_000, 65_536),)
    base = inputs(config())
    edits = {"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/kmsg"}, {"path": "/dev/kmsg"}]}
    document = CdiSpec.model_validate(
        {"cdiVersion": "1.1.0", "kind": "v.com/d", "devices": [{"name": "d", "containerEdits": edits}]}
    )
    made = container_spec(
        replace(
            base,
            sandbox=replace(base.sandbox, mappings=IdMappings(ids, ids)),
            devices=(GrantedDevice(KMSG, "/opt/y", "r"), GrantedDevice(KMSG, "/dev/kmsg", "r")),
            cdi=cdi.CdiEdits((document.devices[0].container_edits,), {"/dev/kmsg": KMSG}),
        )
    )
    bound = {each.destination: each.source for each in made.mounts if each.source == "/dev/kmsg"}
    assert bound == {"/opt/y": "/dev/kmsg", "/dev/x": "/dev/kmsg"}
    assert [each.path for each in made.linux.devices] == ["/dev/kmsg"]
    rules = [each.access for each in made.linux.resources.devices if (each.major, each.minor) == (1, 11)]
    assert rules == ["r", "r", "rwm", "rwm"]


@pytest.mark.parametrize(
    "node", [{"path": "/dev/none"}, {"path": "/dev/kmsg", "type": "b"}, {"path": "/dev/x", "type": "c", "major": 1}]
)
def test_a_cdi_device_node_that_is_not_there(node: dict[str, Any]) -> None:
    with pytest.raises(FailedPrecondition, match=node["path"]):
        applied({"deviceNodes": [node]}, nodes={"/dev/kmsg": KMSG})


def test_cdi_edits_win_over_what_was_there_and_keep_the_mounts_order() -> None:
    found = applied(
        {
            "env": ["A=cdi", "NEW=1"],
            "mounts": [
                {"hostPath": "/deep", "containerPath": "/x/y/z"},
                {"hostPath": "/h", "containerPath": "/etc/hostname", "options": ["ro"]},
            ],
            "additionalGids": [0, 7, 5],
            "hooks": [{"hookName": "createContainer", "path": "/hook", "timeout": 3}],
            "intelRdt": {"closID": "c", "l3CacheSchema": "L3:0=f", "enableMBM": True},
        }
    )
    assert {"A=cdi", "NEW=1"} <= set(found.process.env)
    assert "A=image" not in found.process.env
    places = [mount.destination for mount in found.mounts]
    assert places[-1] == "/x/y/z"
    assert places.count("/etc/hostname") == 1
    assert found.process.user.additional_gids == [0, 5, 7]
    assert found.hooks == spec.Hooks(create_container=[spec.Hook(path="/hook", timeout=3)])
    assert b'"intelRdt":{"closID":"c","l3CacheSchema":"L3:0=f","enableMBM":true}' in found.to_json()


def test_network_devices_need_a_runtime_that_moves_them_and_names_that_differ() -> None:
    nic, twin = ({"netDevices": [{"hostInterfaceName": name, "name": "net0"}]} for name in ("eth1", "eth2"))
    assert b'"netDevices":{"eth1":{"name":"net0"}}' in applied(nic, moves_interfaces=True).to_json()
    with pytest.raises(FailedPrecondition, match="eth1"):
        applied(nic)
    with pytest.raises(FailedPrecondition, match="net0"):
        applied(nic, twin, moves_interfaces=True)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (None, "valid dictionary"),
        ({"cdiVersion": "9", "kind": "v.com/d", "devices": []}, "9"),
        ({"cdiVersion": "1.0.0", "kind": "v.com", "devices": [{"name": "a", "containerEdits": {}}]}, "vendor/class"),
        ({"cdiVersion": "1.0.0", "kind": "v.com/d", "devices": []}, "devices"),
        ({"cdiVersion": "1.0.0", "kind": "v.com/d", "devices": [{"name": "a b", "containerEdits": {}}]}, "a b"),
        (
            {"cdiVersion": "1.0.0", "kind": "v.com/d", "devices": [{"name": "a", "containerEdits": {"env": ["A"]}}]},
            "env",
        ),
        (
            {"cdiVersion": "1.0.0", "kind": "v.com/d", "devices": [{"name": "a", "containerEdits": {}}] * 2},
            "more than once",
        ),
    ],
)
def test_a_cdi_file_that_is_none(document: object, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_cdi(document)
