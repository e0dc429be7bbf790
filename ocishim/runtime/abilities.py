"""What an OCI runtime can do: the answer of `RUNTIME features` (runtime-spec, features.md), or its version's word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from ocishim.errors import OcishimError
from ocishim.linux import process

_PROBE_WITHIN: Final = 10.0
"""Seconds that a runtime gets to say what it can do."""
_CRUN: Final = re.compile(rb"^crun version (\d+)\.(\d+)")
_CRUN_WITH_RRO: Final = (1, 4)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the server must know before it asks for it; what is not known counts as not there."""

    recursive_readonly: bool = False
    """The mount option `rro`."""
    net_devices: bool = False
    """Moving network interfaces into a container."""
    user_namespaces: bool = False
    """Joining one, with mounts opened before, whose sources its root may not reach."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, validate_by_name=True)


class _Switch(_Part):
    enabled: bool | None = None


class _Linux(_Part):
    namespaces: list[str] | None = None
    net_devices: _Switch | None = None


class _Document(_Part):
    mount_options: list[str] | None = None
    linux: _Linux | None = None


async def probe(path: str) -> Abilities:
    """Ask the program at path; one that says nothing can do nothing."""
    for arguments in (("features",), ("--version",)):
        try:
            said = await process.run([path, *arguments], what=f"{path} {arguments[0]}", within=_PROBE_WITHIN)
        except OcishimError:
            break
        if said.returncode == 0 and (found := parse(said.stdout)) is not None:
            return found
    return Abilities()


def parse(said: bytes) -> Abilities | None:
    """By either answer; None where it is none. crun has the command since 1.8.6 only, and the abilities longer."""
    if (version := _CRUN.match(said)) is not None:
        recent = (int(version[1]), int(version[2])) >= _CRUN_WITH_RRO
        return Abilities(recursive_readonly=recent, user_namespaces=recent)
    try:
        document = _Document.model_validate_json(said)
    except ValidationError:
        return None
    devices = document.linux.net_devices if document.linux else None
    return Abilities(
        recursive_readonly="rro" in (document.mount_options or ()),
        net_devices=bool(devices and devices.enabled),
        user_namespaces="user" in ((document.linux and document.linux.namespaces) or ()),
    )
