"""`./dev` and the demo's files say what they mean: commands, the pod, the container, the network."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import betterproto
import pytest

from ocishim.api.runtime import v1
from ocishim.spec.cni import parse_conflist

TOP = Path(__file__).resolve().parents[2]
DEV = TOP / "dev"


def dev(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([DEV, *arguments], capture_output=True, text=True, timeout=20, check=False, **options)


def test_help_lists_every_command_that_there_is() -> None:
    commands = re.findall(r"^([a-z-]+)(?: \|[^)]*)?\)$", DEV.read_text(encoding="utf-8"), re.MULTILINE)
    listed = re.findall(r"^  ([a-z-]+) ", dev("help").stdout, re.MULTILINE)
    assert set(commands) == set(listed) == {"setup", "run", "test", "test-vm", "soak", "proto", "help"}


def test_an_unknown_command_is_refused_by_name() -> None:
    refused = dev("tset")
    assert refused.returncode == 1
    assert "no such command: tset" in refused.stderr


@pytest.mark.parametrize("command", ["setup", "run", "test", "test-vm"])
def test_without_root_it_says_why_and_how(command: str, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n", encoding="utf-8")
    (tmp_path / "id").chmod(0o755)
    refused = dev(command, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert refused.returncode == 1
    assert f"sudo ./dev {command}" in refused.stderr


@pytest.mark.parametrize(
    ("file", "message"), [("demo-pod.json", v1.PodSandboxConfig()), ("demo-container.json", v1.ContainerConfig())]
)
def test_the_demos_messages_hold_every_key_of_their_files(file: str, message: betterproto.Message) -> None:
    given = json.loads((TOP / "bundles" / file).read_text(encoding="utf-8"))
    held = message.from_dict(given).to_dict(casing=betterproto.Casing.SNAKE)
    assert keys(given) <= keys(held)


def keys(value: object, above: str = "") -> set[str]:
    """Paths of all values that are not their type's default."""
    if isinstance(value, dict):
        return {path for key, below in value.items() for path in keys(below, f"{above}/{key}")}
    return {above} if value else set()


def test_the_default_network_is_a_bridge_that_masquerades_and_maps_ports() -> None:
    content = (TOP / "bundles" / "10-ocishim.conflist").read_bytes()
    assert parse_conflist(content, is_list=True).name == "ocishim"
    bridge, portmap = json.loads(content)["plugins"]
    assert (bridge["type"], bridge["ipam"]["type"], bridge["ipMasq"]) == ("bridge", "host-local", True)
    assert portmap == {"type": "portmap", "capabilities": {"portMappings": True}}
