"""config.json of an OCI bundle, as much of it as this server writes (OCI runtime-spec 1.0, config-linux.md).

An unknown field is an error, so that a bundle read back is known to be one of ours.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticSerializationError

from ocishim.errors import InvalidArgument


class SpecModel(BaseModel):
    """A part of config.json: camelCase on disk, absent where None."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)


class User(SpecModel):
    """process.user."""

    uid: int
    gid: int
    additional_gids: list[int] | None = None


class Capabilities(SpecModel):
    """process.capabilities, with the CAP_ prefix."""

    bounding: list[str] = []
    effective: list[str] = []
    permitted: list[str] = []
    inheritable: list[str] = []
    ambient: list[str] = []


class Rlimit(SpecModel):
    """process.rlimits[]."""

    type: str
    hard: int
    soft: int


class Process(SpecModel):
    """process; also what `RUNTIME exec --process` reads."""

    terminal: bool = False
    user: User
    args: list[str]
    env: list[str]
    cwd: str
    capabilities: Capabilities | None = None
    rlimits: list[Rlimit] | None = None
    no_new_privileges: bool = False
    apparmor_profile: str | None = None
    selinux_label: str | None = None
    oom_score_adj: int | None = None


class Root(SpecModel):
    """root."""

    path: str
    readonly: bool = False


class Mount(SpecModel):
    """mounts[]."""

    destination: str
    type: str
    source: str
    options: list[str]


class Namespace(SpecModel):
    """linux.namespaces[]; without a path a new one is made."""

    type: str
    path: str | None = None


class Device(SpecModel):
    """linux.devices[]; a FIFO has no numbers."""

    type: str
    path: str
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceRule(SpecModel):
    """linux.resources.devices[]; absent numbers mean all."""

    allow: bool
    type: str | None = None
    major: int | None = None
    minor: int | None = None
    access: str


class Memory(SpecModel):
    """linux.resources.memory, in bytes; swap counts memory too."""

    limit: int | None = None
    swap: int | None = None


class Cpu(SpecModel):
    """linux.resources.cpu; period and quota in microseconds."""

    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    cpus: str | None = None
    mems: str | None = None


class HugepageLimit(SpecModel):
    """linux.resources.hugepageLimits[]."""

    page_size: str
    limit: int


class Resources(SpecModel):
    """linux.resources."""

    devices: list[DeviceRule] = []
    memory: Memory | None = None
    cpu: Cpu | None = None
    hugepage_limits: list[HugepageLimit] | None = None
    unified: dict[str, str] | None = None


class SyscallArg(SpecModel):
    """linux.seccomp.syscalls[].args[]."""

    index: int
    value: int
    value_two: int | None = None
    op: str


class Syscall(SpecModel):
    """linux.seccomp.syscalls[]."""

    names: list[str]
    action: str
    errno_ret: int | None = None
    args: list[SyscallArg] | None = None


class Seccomp(SpecModel):
    """linux.seccomp."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] = []
    flags: list[str] | None = None
    listener_path: str | None = None
    listener_metadata: str | None = None
    syscalls: list[Syscall] = []


class IntelRdt(SpecModel):
    """linux.intelRdt (config-linux.md, IntelRdt)."""

    clos_id: str | None = Field(default=None, alias="closID")
    schemata: list[str] | None = None
    l3_cache_schema: str | None = None
    mem_bw_schema: str | None = None
    enable_cmt: bool | None = Field(default=None, alias="enableCMT")
    enable_mbm: bool | None = Field(default=None, alias="enableMBM")
    enable_monitoring: bool | None = None


class NetDevice(SpecModel):
    """linux.netDevices[]: its name inside."""

    name: str


class Linux(SpecModel):
    """linux."""

    cgroups_path: str
    namespaces: list[Namespace]
    resources: Resources
    devices: list[Device] = []
    masked_paths: list[str] = []
    readonly_paths: list[str] = []
    rootfs_propagation: str | None = None
    seccomp: Seccomp | None = None
    mount_label: str | None = None
    sysctl: dict[str, str] | None = None
    intel_rdt: IntelRdt | None = None
    net_devices: dict[str, NetDevice] | None = None


class Hook(SpecModel):
    """hooks.STAGE[]; the timeout in seconds."""

    path: str
    args: list[str] | None = None
    env: list[str] | None = None
    timeout: int | None = None


class Hooks(SpecModel):
    """hooks (config.md, POSIX-platform Hooks)."""

    prestart: list[Hook] | None = None
    create_runtime: list[Hook] | None = None
    create_container: list[Hook] | None = None
    start_container: list[Hook] | None = None
    poststart: list[Hook] | None = None
    poststop: list[Hook] | None = None


class RuntimeSpec(SpecModel):
    """config.json."""

    oci_version: str = Field(default="1.0.2")
    process: Process
    root: Root
    hostname: str | None = None
    mounts: list[Mount]
    linux: Linux
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}

    def to_json(self) -> bytes:
        """The file's content. Raises InvalidArgument for text that JSON cannot hold, such as a file name of other
        bytes than UTF-8's."""
        try:
            return self.model_dump_json(by_alias=True, exclude_none=True).encode()
        except PydanticSerializationError as error:
            raise InvalidArgument(f"config.json cannot hold a name or value that is not UTF-8: {error}") from error
