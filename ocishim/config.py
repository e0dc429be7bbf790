"""Settings: what the operator may choose, with defaults that work on a plain Debian."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ocishim.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_FILE = Path("/etc/ocishim/config.toml")

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00]*$")]
OptionalPath = Annotated[str, Field(pattern=r"^(/[^\x00]+)?$")]
Seconds = Annotated[float, Field(gt=0, le=86400)]
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
    cgroup_driver: CgroupDriverName | Literal[""] = ""
    """For pods of this runtime; empty: as `containers` has it."""
    monitor_cgroup: MonitorCgroup | Literal[""] = ""
    """For pods of this runtime; empty: as `containers` has it."""


class CniSettings(Section):
    """Where CNI configuration and plugins are."""

    conf_dir: AbsolutePath = "/etc/cni/net.d"
    bin_dirs: list[AbsolutePath] = ["/opt/cni/bin", "/usr/lib/cni"]
    timeout: Seconds = 90.0
    """Seconds one plugin may take; past them it is killed with its group."""


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

    address: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0


class ContainerSettings(Section):
    """What every container gets, and how long its runtime may take."""

    runtime_timeout: Seconds = 120.0
    """Seconds one call of the OCI runtime or of conmon may take."""
    conmon: AbsolutePath = "/usr/bin/conmon"
    seccomp_profile: AbsolutePath = "/usr/share/containers/seccomp.json"
    """What RuntimeDefault means; Debian ships it in golang-github-containers-common."""
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


class LogSettings(Section):
    """The server's own log."""

    level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"


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
    images: ImageSettings = ImageSettings()
    streaming: StreamingSettings = StreamingSettings()
    containers: ContainerSettings = ContainerSettings()
    log: LogSettings = LogSettings()

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
