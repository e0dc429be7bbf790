"""Settings: what the operator may choose, with defaults that work on a plain Debian."""

from __future__ import annotations

import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ocishim.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_FILE = Path("/etc/ocishim/config.toml")

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00]*$")]
OptionalPath = Annotated[str, Field(pattern=r"^(/[^\x00]+)?$")]
IpAddress = Annotated[str, AfterValidator(lambda text: str(ip_address(text)))]
Seconds = Annotated[float, Field(gt=0, le=86400)]
SysctlName = Annotated[
    str, Field(pattern=r"^(net[./]|kernel[./](shm|msg)|kernel[./]sem$|fs[./]mqueue[./])[A-Za-z0-9_./-]*$")
]
"""What a namespace of a pod keeps to itself; all else would change the host."""
RLIMITS = (
    *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue"),
    *("nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
)
"""Without RLIMIT_, in lower case (setrlimit(2))."""
RlimitName = Annotated[str, Field(pattern=f"^({'|'.join(RLIMITS)})$")]
Limit = Annotated[int, Field(ge=0, le=2**63 - 1)] | Literal["unlimited"]
Slice = r"[A-Za-z0-9:_.\\]+(-[A-Za-z0-9:_.\\]+)*\.slice"
CgroupParent = Annotated[str, Field(pattern=rf"^(/[^\x00]*|{Slice})?$")]
MonitorCgroup = Annotated[str, Field(pattern=rf"^(pod|/[^\x00]+|{Slice})$")]
CgroupDriverName = Literal["cgroupfs", "systemd"]


class Section(BaseModel):
    """A table of the configuration file: an unknown key or a wrong type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RuntimeSettings(Section):
    """One OCI runtime, chosen by a pod's runtime_handler."""

    path: AbsolutePath
    """The program: anything that takes runc's command line."""
    root: OptionalPath = ""
    """Where it keeps its state; empty: below the server's own `state`."""
    type: Literal["oci", "vm"] = "oci"
    """vm: it runs a pod's containers in one sandbox of its own (gVisor's runsc, Kata's command line), which the
    pod's first container makes."""
    cgroup_driver: CgroupDriverName | Literal[""] = ""
    """For pods of this runtime; empty: as `containers` has it."""
    monitor_cgroup: MonitorCgroup | Literal[""] = ""
    """For pods of this runtime; empty: as `containers` has it."""
    allowed_annotations: list[Annotated[str, Field(pattern=r"^[^\s*]*\*?$", min_length=1)]] = []
    """Which annotations of pods and containers reach the runtime: names, or prefixes that end in `*`."""
    privileged_without_host_devices: bool = False
    """Privileged containers get the devices they ask for and none else."""
    hooks_dirs: list[AbsolutePath] = []
    """Directories of OCI hooks in the form of oci-hooks(5); a later directory's file wins by its name."""


class RlimitSettings(Section):
    """A resource limit of processes (setrlimit(2)); `hard` is lowered to the server's own where it may not raise it."""

    soft: Limit
    hard: Limit

    @model_validator(mode="after")
    def _in_order(self) -> RlimitSettings:
        soft, hard = self.soft, self.hard
        if isinstance(hard, int) and (not isinstance(soft, int) or soft > hard):
            raise ValueError(f"soft, {soft}, is above hard, {hard}")
        return self


class MountSettings(Section):
    """A host path that every container gets, unless its request or image volume lies there."""

    source: AbsolutePath
    destination: Annotated[str, Field(pattern=r"^/[^\x00]*[^/\x00]$")]
    options: list[Annotated[str, Field(pattern=r"^[a-z0-9_=]+$")]] = ["rbind", "rprivate", "ro"]


class CdiSettings(Section):
    """Device vendors' own descriptions (Container Device Interface)."""

    spec_dirs: list[AbsolutePath] = ["/etc/cdi", "/var/run/cdi"]
    """A device in a later directory replaces one of that name in an earlier."""


class CniSettings(Section):
    """Where CNI configuration and plugins are."""

    conf_dir: AbsolutePath = "/etc/cni/net.d"
    bin_dirs: list[AbsolutePath] = ["/opt/cni/bin", "/usr/lib/cni"]
    timeout: Seconds = 90.0
    """Seconds one plugin may take; past them it is killed with its group."""
    conf_template: OptionalPath = ""
    """Made into a configuration in conf_dir when kubelet tells the node's pod CIDR; empty: the CIDR is not used."""


class ImageSettings(Section):
    """The image store and its registries."""

    certs_dir: AbsolutePath = "/etc/ocishim/certs.d"
    """Registry hosts, as HOST/hosts.toml in containerd's form."""
    auth_file: OptionalPath = ""
    """Credentials of registries in the form of docker's config.json, for pulls whose request brings none."""
    short_names: list[Annotated[str, Field(pattern=r"^[^\s/@]+(/[^\s@]+)*$")]] = ["docker.io"]
    """Registries (HOST or HOST/PATH) in which a name such as `busybox` is looked for, in this order."""
    policy: OptionalPath = ""
    """Which images may be pulled, in the form of containers-policy.json; empty: all."""
    pinned: list[str] = []
    """Images that are never removed by RemoveImage: names as they are pulled, in which * stands for anything."""
    parallel_layers: Annotated[int, Field(ge=1, le=64)] = 3
    """Layers fetched and unpacked at a time by one pull."""
    pull_progress_timeout: Seconds = 60.0
    """Seconds without a byte after which a pull is given up."""
    largest_layer: Annotated[int, Field(ge=1 << 20)] = 1 << 38
    """Bytes that one layer may unpack to."""
    keep_free: Annotated[int, Field(ge=0)] = 128 << 20
    """Bytes of the store's filesystem that unpacking leaves free."""


class StreamingSettings(Section):
    """The server behind exec, attach and port-forward URLs."""

    address: IpAddress = "127.0.0.1"
    """Where it listens, and what its URLs name; of 0.0.0.0 and :: they name the loopback address."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0: any that is free."""
    tls: bool = False
    cert_file: OptionalPath = ""
    """PEM, with the chain; empty: a certificate is made at every start."""
    key_file: OptionalPath = ""
    """PEM; empty: the key is in cert_file."""
    idle_timeout: Seconds = 4 * 3600.0
    """Seconds without a byte either way after which a session is ended."""
    creation_timeout: Seconds = 30.0
    """Seconds that a client gets to open the streams it asked for."""
    sessions: Annotated[int, Field(ge=1, le=65536)] = 512
    """At a time; more are refused with HTTP 503."""


class ContainerSettings(Section):
    """What every container gets, and how long its runtime may take."""

    runtime_timeout: Seconds = 120.0
    """Seconds one call of the OCI runtime or of conmon may take."""
    conmon: AbsolutePath = "/usr/bin/conmon"
    seccomp_profile: OptionalPath = ""
    """What RuntimeDefault means; empty: the profile that comes with the server."""
    seccomp_localhost_root: AbsolutePath = "/var/lib/kubelet/seccomp"
    """Where Localhost profiles are looked for that are no absolute path."""
    apparmor_profile: Annotated[str, Field(pattern=r"^[^\s/]*$")] = ""
    """What RuntimeDefault means to AppArmor: a profile that is loaded; empty: none."""
    pause: AbsolutePath = "/usr/bin/catatonit"
    """Started as `pause -P` in pods that share one PID namespace."""
    cgroup_driver: CgroupDriverName = "cgroupfs"
    """Who makes cgroups: this server and the runtime in the file system, or systemd for them. As kubelet's."""
    cgroup_parent: CgroupParent = ""
    """The parent of pods whose request names none: a path, or with systemd a slice. Empty: ocishim."""
    monitor_cgroup: MonitorCgroup = "pod"
    """What conmon is accounted to: `pod`, or a cgroup of all pods' monitors (a path, or with systemd a slice)."""
    pids_limit: Annotated[int, Field(ge=0, le=4 << 20)] = 0
    """Processes and threads that one container may have; 0: no limit of its own."""
    exec_sync_output: Annotated[int, Field(ge=4096, le=15 << 20)] = 15 << 20
    """Bytes of stdout and stderr together that one ExecSync returns; kubelet takes 16 MiB at most."""
    env: list[Annotated[str, Field(pattern=r"^[^=\x00]+=[^\x00]*$")]] = []
    """NAME=VALUE for every container; the image's and the request's win."""
    mounts: list[MountSettings] = []
    capabilities: list[Annotated[str, Field(pattern=r"^(CAP_)?[A-Z_]+$")]] | None = None
    """What a container has that asks for nothing; absent: the ecosystem's fourteen."""
    rlimits: dict[RlimitName, RlimitSettings] = {}
    """By name (nofile, nproc, core, ...); what is not here is as the server's own."""
    sysctls: dict[SysctlName, Annotated[str, Field(pattern=r"^[^\n\r\x00+]*$")]] = {}
    """For every pod that has the namespace they belong to; the request's win."""
    timezone: Annotated[str, Field(pattern=r"^(local|[A-Za-z0-9+_-]+(/[A-Za-z0-9+_-]+)*)?$")] = ""
    """/etc/localtime of every container: `local`, or a name such as Europe/Berlin; empty: the image's."""


class StatsSettings(Section):
    """What is sampled for the statistics of pods and containers, while somebody reads them."""

    interval: Annotated[float, Field(ge=1, le=3600)] = 10.0
    """Seconds between two samples: of CPU counters for rates, and of what writable layers take."""


class MetricsSettings(Section):
    """The server's own metrics, for Prometheus."""

    address: Annotated[str, Field(pattern=r"^((\[[0-9a-fA-F:.]+\]|[^\s:\[\]/]+):[0-9]{1,5})?$")] = ""
    """HOST:PORT to serve /metrics on; empty: nowhere."""


class LogSettings(Section):
    """The server's own log."""

    level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    format: Literal["auto", "text", "json"] = "auto"
    """auto: text on a terminal, JSON elsewhere."""


class TracingSettings(Section):
    """Spans for OpenTelemetry (`pip install ocishim[otel]`)."""

    endpoint: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    """OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces; empty: no tracing."""
    sample: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The share of traces that are kept, where the client's own trace context does not say."""


class Settings(Section):
    """Everything the server reads from its configuration files and command line."""

    root: AbsolutePath = "/var/lib/ocishim"
    """What must survive a reboot: images, records, writable layers."""
    state: AbsolutePath = "/run/ocishim"
    """What belongs to this boot: namespaces, bundles, sockets."""
    listen: Annotated[str, Field(pattern=r"^unix:///[^\x00]+$")] = "unix:///run/ocishim/ocishim.sock"
    image_listen: Annotated[str, Field(pattern=r"^(unix:///[^\x00]+)?$")] = ""
    """A socket of its own for the image service; empty: it shares `listen`."""
    default_runtime: str = ""
    """A name of `runtimes`; empty: crun, else runc, the first that this host can run."""
    runtimes: dict[Name, RuntimeSettings] = {}
    cni: CniSettings = CniSettings()
    cdi: CdiSettings = CdiSettings()
    images: ImageSettings = ImageSettings()
    streaming: StreamingSettings = StreamingSettings()
    containers: ContainerSettings = ContainerSettings()
    stats: StatsSettings = StatsSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()

    def cgroups_of(self, runtime: str) -> CgroupSettings:
        """What holds for the pods of one runtime. Raises InvalidArgument where parts are in different notations."""
        own, common = self.runtimes.get(runtime), self.containers
        driver: CgroupDriverName = (own.cgroup_driver if own else "") or common.cgroup_driver
        monitor = (own.monitor_cgroup if own else "") or common.monitor_cgroup
        default = "ocishim.slice" if driver == "systemd" else "/ocishim"
        parent = common.cgroup_parent or default
        if _is_slice(parent) != (driver == "systemd"):
            if driver == common.cgroup_driver:
                raise InvalidArgument(f"containers.cgroup_parent: {parent!r} is not in the notation of {driver}")
            parent = default  # the other driver's notation is what is configured, for the runtimes that use it
        if monitor != "pod" and _is_slice(monitor) != (driver == "systemd"):
            raise InvalidArgument(
                f"monitor_cgroup of runtime {runtime!r}: {monitor!r} is not in {driver}'s notation, its cgroup_driver"
            )
        if ".." in (*parent.split("/"), *monitor.split("/")) or not monitor.strip("/."):
            raise InvalidArgument(
                f"cgroup_parent {parent!r}, monitor_cgroup {monitor!r}: neither may hold '..', and "
                "monitors cannot be in the root of all cgroups"
            )
        return CgroupSettings(driver, parent, monitor)


class CgroupSettings(NamedTuple):
    """How the cgroups of one runtime's pods are made."""

    driver: CgroupDriverName
    parent: str
    """Of pods whose request names none."""
    monitor: str
    """`pod`, or the cgroup of all monitors."""


def _is_slice(value: str) -> bool:
    return value.endswith(".slice")


def load(file: Path | None, overrides: dict[str, str] | None = None) -> Settings:
    """Read the configuration file and its drop-ins (FILE.d/*.toml in name order), then `overrides`.

    Only the default file may be absent. Raises InvalidArgument that names file, key and what was expected.
    """
    main = DEFAULT_FILE if file is None else file
    merged: dict[str, object] = {}
    origin: dict[str, Path] = {}
    for path in _existing(main, required=file is not None):
        table = _read(path)
        _merge(merged, table, origin, path)
    merged.update(overrides or {})
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise InvalidArgument("\n".join(_explain(error, origin, main))) from error


def _existing(main: Path, *, required: bool) -> Iterable[Path]:
    if required or main.exists():
        yield main
    yield from sorted(Path(f"{main}.d").glob("*.toml"))


def _read(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path}: not TOML: {error}") from error


def _merge(
    into: dict[str, object], table: dict[str, object], origin: dict[str, Path], path: Path, prefix: str = ""
) -> None:
    """Later files win key by key; tables are merged, arrays replaced."""
    for key, value in table.items():
        here = f"{prefix}{key}"
        origin[here] = path
        present = into.get(key)
        if isinstance(value, dict):
            below: dict[str, object] = present if isinstance(present, dict) else {}
            into[key] = below
            _merge(below, value, origin, path, f"{here}.")
        else:
            into[key] = value


def _explain(error: ValidationError, origin: dict[str, Path], main: Path) -> Iterable[str]:
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"] if part != "[key]")
        parts = key.split(".")
        file = next((origin[name] for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in origin), main)
        yield f"{file}: {key}: {_expected(item['type'], item['msg'], item.get('input'))}"


def _expected(kind: str, message: str, value: Any) -> str:  # noqa: ANN401 - pydantic's own input, any TOML value
    if kind == "extra_forbidden":
        return "unknown key"
    return f"{message} (found {value!r})"
