"""What an OCI runtime can do: the answer of `RUNTIME features` (runtime-spec, features.md), or its version's word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

_CRUN: Final = re.compile(rb"^crun version (\d+)\.(\d+)")
_CRUN_WITH_RRO: Final = (1, 4)
_CRUN_WITH_IDMAP: Final = (1, 4)


@dataclass(frozen=True, slots=True)
class Features:
    """What the server must know before it asks for it; what is not known of counts as not there."""

    known: bool = False
    """Whether the runtime has said anything at all."""
    recursive_readonly: bool = False
    """The mount option `rro`."""
    idmapped_mounts: bool = False
    net_devices: bool = False
    """Moving network interfaces into the container."""
    version: str = ""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, validate_by_name=True)


class _Switch(_Part):
    enabled: bool | None = None


class _MountExtensions(_Part):
    idmap: _Switch = _Switch()


class _Linux(_Part):
    mount_extensions: _MountExtensions = _MountExtensions()
    net_devices: _Switch = _Switch()


class _Document(_Part):
    oci_version_max: str = ""
    mount_options: list[str] | None = None
    linux: _Linux | None = Field(default=None)


def parse_features(content: bytes) -> Features | None:
    """The command's answer; None where it is none."""
    try:
        document = _Document.model_validate_json(content)
    except ValidationError:
        return None
    linux = document.linux or _Linux()
    return Features(
        known=True,
        recursive_readonly="rro" in (document.mount_options or ()),
        idmapped_mounts=bool(linux.mount_extensions.idmap.enabled),
        net_devices=bool(linux.net_devices.enabled),
        version=document.oci_version_max,
    )


def from_version(content: bytes) -> Features:
    """By the first line of `RUNTIME --version`: crun has the command only since 1.8.6, and the abilities longer."""
    found = _CRUN.match(content)
    if not found:
        return Features()
    version = (int(found[1]), int(found[2]))
    return Features(
        known=True,
        recursive_readonly=version >= _CRUN_WITH_RRO,
        idmapped_mounts=version >= _CRUN_WITH_IDMAP,
        version=f"crun {version[0]}.{version[1]}",
    )
