"""The kernel's small text files as numbers: what cannot be read is absent, and nothing here ever fails.

A container may vanish between two reads, a controller may be missing, and a file may be odd: each value stands for
itself, and an absent one is None, never 0. Formats: cgroup v1's and v2's documents under Documentation/admin-guide of
the kernel, proc(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Source: TypeAlias = "Callable[[str, str], bytes | None]"
"""The content of one cgroup's file, by controller and name; None where it cannot be read."""

LARGEST: Final = 2**64 - 1
_UNLIMITED: Final = 1 << 62
"""cgroup v1 says 'no limit' by the largest number of whole pages; whatever is above this means it."""
_KEYED: Final = re.compile(rb"^([\w.]+) ([0-9]{1,20})$", re.MULTILINE)
_A_MICROSECOND: Final = 1000
_PRESSURE: Final = re.compile(
    rb"^(some|full) avg10=([0-9]{1,3}\.[0-9]{1,2}) avg60=([0-9]{1,3}\.[0-9]{1,2}) avg300=([0-9]{1,3}\.[0-9]{1,2})"
    rb" total=([0-9]{1,16})$",
    re.MULTILINE,
)
_DEVICE: Final = re.compile(rb"^([0-9]{1,10}):([0-9]{1,10}) (.*)$", re.MULTILINE)
_INTERFACE: Final = re.compile(rb"^ *([^\s:]+):((?: +[0-9]{1,20}){16}) *$", re.MULTILINE)
_OPEN_FILES: Final = re.compile(rb"^Max open files +([0-9]{1,20}) ", re.MULTILINE)
_RX_BYTES, _RX_PACKETS, _RX_ERRORS, _RX_DROPPED = 0, 1, 2, 3
_TX_BYTES, _TX_PACKETS, _TX_ERRORS, _TX_DROPPED = 8, 9, 10, 11


@dataclass(frozen=True, slots=True)
class Stall:
    """One line of a pressure file."""

    total: int
    """Nanoseconds."""
    avg10: float
    """Per cent of the last ten seconds."""
    avg60: float
    avg300: float


@dataclass(frozen=True, slots=True)
class Pressure:
    """Pressure stall information: how long tasks have waited for a resource."""

    some: Stall | None
    full: Stall | None


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface's counters since it was made."""

    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


def number(data: bytes | None) -> int | None:
    """The number that a file holds and nothing else."""
    if data is None:
        return None
    text = data.strip()
    if not text.isdigit() or len(text) > len(str(LARGEST)):
        return None
    value = int(text)
    return value if value <= LARGEST else None


def limit(data: bytes | None) -> int | None:
    """A limit; 0 where there is none, which the kernel writes as `max`, -1, or a very large number."""
    if data is None:
        return None
    if data.strip() in (b"max", b"-1"):
        return 0
    value = number(data)
    return 0 if value is not None and value > _UNLIMITED else value


def nanoseconds(microseconds: int | None) -> int | None:
    """A time that the kernel counts in microseconds."""
    return None if microseconds is None else min(microseconds * _A_MICROSECOND, LARGEST)


class Keyed:
    """A file of lines such as `pgfault 12`."""

    def __init__(self, data: bytes | None) -> None:
        self._values: dict[bytes, bytes] = dict(_KEYED.findall(data or b""))

    def __call__(self, key: bytes) -> int | None:
        """The value of a key."""
        return number(self._values.get(key))


def pressure(data: bytes | None) -> Pressure | None:
    """A pressure file; the kernel counts in microseconds."""
    stalls = {
        kind: Stall(int(total) * _A_MICROSECOND, float(avg10), float(avg60), float(avg300))
        for kind, avg10, avg60, avg300, total in _PRESSURE.findall(data or b"")
    }
    return Pressure(stalls.get(b"some"), stalls.get(b"full")) if stalls else None


def per_device(data: bytes | None) -> Iterator[tuple[int, int, bytes]]:
    """Major and minor number and the rest of each line of a block I/O file."""
    for major, minor, rest in _DEVICE.findall(data or b""):
        yield int(major), int(minor), rest


def interfaces(data: bytes | None) -> tuple[Interface, ...]:
    """/proc/PID/net/dev without the loopback interface."""
    found = []
    for name, counters in _INTERFACE.findall(data or b""):
        values = [min(int(each), LARGEST) for each in counters.split()]
        if name != b"lo":
            found.append(
                Interface(
                    name.decode(errors="backslashreplace"),
                    values[_RX_BYTES],
                    values[_RX_PACKETS],
                    values[_RX_ERRORS],
                    values[_RX_DROPPED],
                    values[_TX_BYTES],
                    values[_TX_PACKETS],
                    values[_TX_ERRORS],
                    values[_TX_DROPPED],
                )
            )
    return tuple(found)


def open_files_limit(data: bytes | None) -> int | None:
    """The soft limit of open files of /proc/PID/limits; None also where there is none."""
    found = _OPEN_FILES.search(data or b"")
    return number(found[1]) if found else None
