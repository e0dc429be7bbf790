"""What the guest is made of and how it is started, decided without touching anything."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SUITE = "bookworm"
PYTHON = "3.11"
"""The suite's Python, for which packages are fetched."""
GLIBC_MINOR = 36
"""The suite's C library is 2.36: what wheels may ask for."""
KERNEL = "linux-image-cloud-amd64"
GUEST_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod", "procps"),
    *("apparmor", "python3", "e2fsprogs", KERNEL),
)
"""What makes a root file system a host; what ocishim needs comes on top."""
DEFAULT_MIRROR = "http://deb.debian.org/debian"
RECIPE = 1
"""Counted up when image.py makes something else of the same packages."""

Cgroup = Literal["v2", "hybrid", "v1"]
Driver = Literal["cgroupfs", "systemd"]
HIERARCHIES: dict[Cgroup, tuple[str, ...]] = {
    "v2": ("systemd.unified_cgroup_hierarchy=1",),
    "hybrid": ("systemd.unified_cgroup_hierarchy=0",),
    "v1": ("systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=1"),
}
"""The kernel's parameters by which systemd 252 mounts control groups (kernel-command-line(7))."""
IDLE_UNITS = (
    *("docker-registry.service", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer"),
    *("fstrim.timer", "e2scrub_all.timer", "e2scrub_reap.service", "getty@tty1.service"),
    *("serial-getty@ttyS0.service", "systemd-timesyncd.service", "systemd-networkd.service"),
)
"""Debian starts these by default; no test has a use for them, and an emulated processor is slow."""

DEFAULT_TESTS = (
    "tests/integration/rpc/test_check.py",
    "tests/integration/rpc/test_runtime.py",
    "tests/integration/rpc/test_pods.py",
    "tests/integration/rpc/test_containers.py",
    "tests/integration/rpc/test_exec_sync.py",
    "tests/integration/rpc/test_systemd.py",
)
PATIENCE = 10
"""How many times longer than usual a test may wait for things, when the processor is emulated."""
TEST_TIMEOUT = 120
"""Seconds for one test on a plain machine, as pyproject.toml has it."""


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    cgroup: Cgroup
    driver: Driver
    """Of the servers that the tests start."""
    cpus: int
    memory: int
    """MiB."""
    time_limit: float
    """Seconds from the start of the machine on."""
    packages: tuple[str, ...]
    """Debian packages that ocishim and its tests need."""
    pytest: tuple[str, ...]


def options(arguments: Sequence[str]) -> Options:
    """Parse the command line; what is no option of ours is pytest's. SystemExit when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="./dev test-vm",
        allow_abbrev=False,
        description="Run integration tests in a QEMU guest: Debian's kernel, systemd, control groups as chosen.",
        epilog="All other arguments go to pytest; without any, the tests are " + ", ".join(DEFAULT_TESTS) + ".",
    )
    parser.add_argument("--cgroup", choices=tuple(HIERARCHIES), default="v2", help="hierarchy in the guest")
    parser.add_argument(
        "--driver", choices=("cgroupfs", "systemd"), default="cgroupfs", help="cgroup driver that the tests use"
    )
    parser.add_argument("--cpus", type=_positive, default=2, metavar="N", help="the guest's processors")
    parser.add_argument("--memory", type=_positive, default=2048, metavar="MIB", help="the guest's memory")
    parser.add_argument(
        "--time-limit", type=_positive, default=3600, metavar="SECONDS", help="end the guest when it takes longer"
    )
    parser.add_argument("--packages", default="", help=argparse.SUPPRESS)
    found, rest = parser.parse_known_args(arguments)
    return Options(
        cgroup=found.cgroup,
        driver=found.driver,
        cpus=found.cpus,
        memory=found.memory,
        time_limit=found.time_limit,
        packages=tuple(found.packages.split()),
        pytest=tuple(rest),
    )


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def guest_packages(extra: Iterable[str]) -> tuple[str, ...]:
    """All that debootstrap installs, in an order of its own, so that equal sets are equal."""
    return tuple(sorted({*GUEST_PACKAGES, *extra}))


def fingerprint(*parts: object) -> str:
    """A short name for content: the same for the same parts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def requirements(pyproject: str) -> tuple[str, ...]:
    """What the server and its tests import, by pyproject.toml's text."""
    project = tomllib.loads(pyproject)["project"]
    return (*project["dependencies"], *project["optional-dependencies"]["test"])


def pip_arguments(target: str, wanted: Iterable[str]) -> list[str]:
    """Arguments of pip that put packages for the guest's Python, not for the one that runs pip, into `target`."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC_MINOR, 16, -1)]
    return [
        *("install", "--quiet", "--disable-pip-version-check", "--root-user-action", "ignore"),
        *("--target", target, "--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON),
        *(word for name in (*platforms, "manylinux2014_x86_64", "linux_x86_64") for word in ("--platform", name)),
        *wanted,
    ]


def mirror(index_targets: str) -> str:
    """The Debian mirror that apt uses here, by lines of `URI CODENAME ORIGIN`; Debian's own if none has the suite."""
    for line in index_targets.splitlines():
        uri, codename, origin = (*line.split(" "), "", "", "")[:3]
        if (codename, origin) == (SUITE, "Debian") and uri.startswith(("http://", "https://")):
            return uri.rstrip("/")
    return DEFAULT_MIRROR


def accelerator(cpuinfo: str, *, kvm_opens: bool) -> Literal["kvm", "tcg"]:
    """KVM where the processor has it too: some hosts offer /dev/kvm to guests of a kind of their own only."""
    flags = set(re.findall(r"\b(?:vmx|svm)\b", cpuinfo))
    return "kvm" if kvm_opens and flags else "tcg"


def kernel_command_line(cgroup: Cgroup) -> str:
    """Parameters of the guest's kernel and of its systemd."""
    return " ".join(
        (
            *("console=ttyS0", "root=/dev/vda", "rw", "rootfstype=ext4", "panic=-1", "quiet"),
            *("mitigations=off", "audit=0", "apparmor=1", "security=apparmor"),
            *("systemd.show_status=false", "systemd.unit=multi-user.target"),
            *HIERARCHIES[cgroup],
            *(f"systemd.mask={unit}" for unit in IDLE_UNITS),
        )
    )


@dataclass(frozen=True)
class Machine:
    """Files of one run, and what the processor is."""

    kernel: str
    initrd: str
    image: str
    """The root file system; stays as it is."""
    job: str
    """A tar archive as a disk: the checkout and what to do with it."""
    console: str
    """Where the kernel's and systemd's words go."""
    accelerator: Literal["kvm", "tcg"]


def qemu_command(machine: Machine, wanted: Options) -> list[str]:
    """The command line of QEMU, whose standard output is what the tests write. See qemu-system-x86_64(1)."""
    disk = "if=virtio,format=raw"
    # Fewer instructions to emulate: "max" has vectors, which the C library would use and TCG is slow at.
    processor = ("kvm", "host") if machine.accelerator == "kvm" else ("tcg,thread=multi", "qemu64")
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-machine", "q35", "-accel", processor[0], "-cpu", processor[1]),
        *("-smp", str(wanted.cpus), "-m", f"{wanted.memory}M", "-device", "virtio-rng-pci"),
        *("-drive", f"file={_escaped(machine.image)},{disk},snapshot=on"),
        *("-drive", f"file={_escaped(machine.job)},{disk},readonly=on"),
        *("-serial", f"file:{machine.console}"),
        *("-device", "virtio-serial-pci", "-chardev", "file,id=tests,path=/dev/fd/1"),
        *("-device", "virtserialport,chardev=tests,name=ocishim.tests"),
        *("-kernel", machine.kernel, "-initrd", machine.initrd, "-append", kernel_command_line(wanted.cgroup)),
    ]


def _escaped(path: str) -> str:
    return path.replace(",", ",,")  # QEMU's way to write a comma inside a value


def pytest_arguments(wanted: Sequence[str], patience: int) -> list[str]:
    """Arguments of pytest in the guest: the user's, or the default tests; before them what the user may override."""
    return [
        *("-p", "no:cacheprovider", "-o", f"timeout={TEST_TIMEOUT * patience}", "--durations", "10"),
        *(wanted or ("-v", *DEFAULT_TESTS)),
    ]


def environment(wanted: Options, patience: int) -> dict[str, str]:
    """Variables that the tests heed; tests/integration/rpc/node.py reads them."""
    return {"OCISHIM_TEST_PATIENCE": str(patience), "OCISHIM_TEST_CGROUP_DRIVER": wanted.driver}


@dataclass(frozen=True)
class Event:
    """The guest says of itself, not of the tests: its `name` and the rest of its line."""

    name: str
    detail: str


def event(line: str, token: str) -> Event | None:
    """The event in a line of the guest's output, which must hold the run's token; None for what the tests write."""
    _, mark, rest = line.rstrip("\r\n").partition(f"::{token} ")
    if not mark:
        return None
    name, _, detail = rest.partition(" ")
    return Event(name, detail)


def exit_code(detail: str) -> int:
    """The tests' exit code by an exit event's detail; 1 for one that is none, which must never look like success."""
    return int(detail) if re.fullmatch(r"[0-9]{1,3}", detail) and int(detail) < 256 else 1
