"""What device vendors say a container needs for a device (Container Device Interface, SPEC.md, 0.3.0 to 1.1.0).

An unknown field is an error: it may be the one without which the device does not work.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

VERSIONS: Final = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
KIND: Final = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?")
DEVICE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")

AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00\n]*$")]
HookName = Literal["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]


class CdiModel(BaseModel):
    """A part of a CDI file."""

    model_config = ConfigDict(extra="forbid", validate_by_name=True, strict=True)


class DeviceNode(CdiModel):
    """containerEdits.deviceNodes[]; what is absent is as on the host."""

    path: AbsolutePath
    host_path: AbsolutePath | None = Field(default=None, alias="hostPath")
    type: Literal["b", "c", "u", "p"] | None = None
    major: int | None = None
    minor: int | None = None
    file_mode: Annotated[int, Field(ge=0, le=0o7777)] | None = Field(default=None, alias="fileMode")
    permissions: Annotated[str, Field(pattern=r"^[rwm]{0,3}$")] = ""
    uid: Annotated[int, Field(ge=0)] | None = None
    gid: Annotated[int, Field(ge=0)] | None = None


class CdiMount(CdiModel):
    """containerEdits.mounts[]."""

    host_path: Annotated[str, Field(min_length=1)] = Field(alias="hostPath")
    container_path: AbsolutePath = Field(alias="containerPath")
    options: list[str] = []
    type: str = ""


class CdiHook(CdiModel):
    """containerEdits.hooks[]."""

    hook_name: HookName = Field(alias="hookName")
    path: AbsolutePath
    args: list[str] = []
    env: list[str] = []
    timeout: Annotated[int, Field(gt=0)] | None = None


class IntelRdt(CdiModel):
    """containerEdits.intelRdt."""

    clos_id: str = Field(default="", alias="closID")
    l3_cache_schema: str = Field(default="", alias="l3CacheSchema")
    mem_bw_schema: str = Field(default="", alias="memBwSchema")
    schemata: list[str] = []
    enable_cmt: bool = Field(default=False, alias="enableCMT")
    enable_mbm: bool = Field(default=False, alias="enableMBM")
    enable_monitoring: bool = Field(default=False, alias="enableMonitoring")


class NetDevice(CdiModel):
    """containerEdits.netDevices[]."""

    host_interface_name: Annotated[str, Field(pattern=r"^[^/\s]{1,15}$")] = Field(alias="hostInterfaceName")
    name: Annotated[str, Field(pattern=r"^[^/\s]{1,15}$")]


class ContainerEdits(CdiModel):
    """What is done to a container's runtime spec."""

    env: list[Annotated[str, Field(pattern=r"^[^=\x00]+=[^\x00]*$")]] = []
    device_nodes: list[DeviceNode] = Field(default=[], alias="deviceNodes")
    mounts: list[CdiMount] = []
    hooks: list[CdiHook] = []
    additional_gids: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] = Field(default=[], alias="additionalGids")
    intel_rdt: IntelRdt | None = Field(default=None, alias="intelRdt")
    net_devices: list[NetDevice] = Field(default=[], alias="netDevices")

    @field_validator("*", mode="before")
    @classmethod
    def _absent(cls, value: Any, info: Any) -> Any:  # noqa: ANN401 - whatever a file holds
        """An empty key of YAML is null, and means nothing."""
        return [] if value is None and info.field_name != "intel_rdt" else value


class CdiDevice(CdiModel):
    """devices[]."""

    name: str
    annotations: dict[str, str] = {}
    container_edits: ContainerEdits = Field(alias="containerEdits")

    @field_validator("name")
    @classmethod
    def _is_name(cls, value: str) -> str:
        if not DEVICE.fullmatch(value):
            raise ValueError(f"{value!r} is no name of a device")
        return value


class CdiSpec(CdiModel):
    """A CDI file."""

    cdi_version: str = Field(alias="cdiVersion")
    kind: str
    annotations: dict[str, str] = {}
    devices: list[CdiDevice] = Field(min_length=1)
    container_edits: ContainerEdits = Field(default=ContainerEdits(), alias="containerEdits")
    """For a container that gets any of the devices."""

    @field_validator("cdi_version")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value.removeprefix("v") not in VERSIONS:
            raise ValueError(f"{value!r} is none of {', '.join(VERSIONS)}")
        return value

    @field_validator("kind")
    @classmethod
    def _is_kind(cls, value: str) -> str:
        if not KIND.fullmatch(value):
            raise ValueError(f"{value!r} is no vendor/class")
        return value

    @model_validator(mode="after")
    def _are_unique(self) -> CdiSpec:
        names = [device.name for device in self.devices]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"devices: {', '.join(twice)} more than once")
        return self


def parse_cdi(document: object) -> CdiSpec:
    """A file's content, read as JSON or YAML already. Raises ValueError that says what is wrong and where."""
    try:
        return CdiSpec.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error


def split_device(name: str) -> tuple[str, str] | None:
    """Kind and device of `vendor/class=device`; None where it is no such name."""
    kind, separator, device = name.partition("=")
    return (kind, device) if separator and KIND.fullmatch(kind) and DEVICE.fullmatch(device) else None
