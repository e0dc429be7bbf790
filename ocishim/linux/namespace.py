"""A pod's namespaces without a pause process: made in a short-lived thread and pinned by bind mounts.

A namespace lives while a process is in it or a mount of its file exists (namespaces(7)). The thread that
calls unshare(2) is made for the purpose and ends after it, so that no other code runs in the new namespaces.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from ocishim.errors import InvalidArgument, OperationFailed
from ocishim.linux import libc, mount

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

CLONE_FLAGS: Final = {"net": libc.CLONE_NEWNET, "ipc": libc.CLONE_NEWIPC, "uts": libc.CLONE_NEWUTS}
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1
_IFREQ: Final = "16sH14x"


@dataclass(frozen=True, slots=True)
class Pins:
    """Which namespaces to make, where to pin them, and what to set inside before anyone joins."""

    directory: str
    kinds: tuple[str, ...]
    hostname: str
    sysctls: Mapping[str, str] = field(default_factory=dict)

    def path(self, kind: str) -> str:
        """The file that names the namespace of that kind."""
        return os.path.join(self.directory, kind)


async def in_fresh_thread(work: Callable[[], T], name: str) -> T:
    """Run `work` in a thread that is used for nothing else; its namespaces and root die with it."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.cancelled():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type] # None only where T is None

    def body() -> None:
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001 - carried to the awaiting task
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, value, None)

    threading.Thread(target=body, name=name, daemon=True).start()
    # A thread cannot be cancelled: its end is awaited even when the caller is told to stop.
    return await asyncio.shield(result)


async def pin(pins: Pins) -> None:
    """Make and pin the namespaces; on failure nothing stays.

    Raises InvalidArgument for a sysctl that the kernel does not take, OperationFailed for the rest.
    """
    await in_fresh_thread(lambda: _pin(pins), "pin-namespaces")


def _pin(pins: Pins) -> None:
    flags = 0
    for kind in pins.kinds:
        flags |= CLONE_FLAGS[kind]
    try:
        libc.unshare(flags)
        if "uts" in pins.kinds:
            socket.sethostname(pins.hostname)
        if "net" in pins.kinds:
            _bring_loopback_up()
    except OSError as error:
        raise OperationFailed(
            f"the pod's {', '.join(pins.kinds)} namespaces cannot be made: {error.strerror} "
            "(the server needs CAP_SYS_ADMIN; see `ocishim check`)"
        ) from error
    for name, value in pins.sysctls.items():
        _write_sysctl(name, value)
    _bind_all(pins)


def _bind_all(pins: Pins) -> None:
    os.makedirs(pins.directory, mode=0o700, exist_ok=True)
    with ExitStack() as undo:
        for kind in pins.kinds:
            target = pins.path(kind)
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
            undo.callback(os.unlink, target)
            mount.bind(f"/proc/thread-self/ns/{kind}", target)
            undo.callback(mount.unmount, target)
        undo.pop_all()


def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        reply = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack(_IFREQ, b"lo", 0))
        flags: int = struct.unpack(_IFREQ, reply)[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack(_IFREQ, b"lo", flags | _IFF_UP))


def _write_sysctl(name: str, value: str) -> None:
    path = "/proc/sys/" + name.replace("/", "\0").replace(".", "/").replace("\0", ".")
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    except (OSError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise InvalidArgument(f"linux.sysctls[{name}] = {value!r}: the kernel says: {reason}") from error


async def socket_in(path: str, family: int) -> socket.socket:
    """A TCP socket that belongs to the network namespace pinned at path. Raises OSError."""

    def make() -> socket.socket:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc.setns(fd, libc.CLONE_NEWNET)
        finally:
            os.close(fd)
        return socket.socket(family, socket.SOCK_STREAM)

    return await in_fresh_thread(make, "socket-in-pod")


def unpin(directory: str) -> None:
    """Let the namespaces pinned in directory go; content where they are gone already. Blocks shortly."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(directory, name)
        mount.unmount_all(path)
        os.unlink(path)
    os.rmdir(directory)


def is_pinned(path: str) -> bool:
    """Whether a namespace is mounted at path, rather than the bare file that is left after a reboot."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False
