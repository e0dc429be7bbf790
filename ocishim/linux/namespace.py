"""A pod's namespaces without a pause process: made in a short-lived thread and pinned by bind mounts.

A namespace lives while a process is in it or a mount of its file exists (namespaces(7)). The thread that
calls unshare(2) is made for the purpose and ends after it, so that no other code runs in the new namespaces. Where the
pod has a user namespace of its own, that owns the others, so that root in the pod may configure them.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from ocishim.effects import effect
from ocishim.errors import InvalidArgument, OperationFailed
from ocishim.linux import libc, mount, userns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ocishim.translate.userns import IdMappings

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
    mappings: IdMappings | None = None
    """Of the kind `user`, where it is among the kinds."""

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


@effect
def _pin(pins: Pins) -> None:
    if pins.mappings is None:
        with _explained(pins):
            libc.unshare(_flags(pins))
        _fill_and_bind(pins, "thread-self")
    else:
        userns.inside(pins.mappings, _flags(pins), lambda pid: _pin_owned(pins, pid))


def _flags(pins: Pins) -> int:
    flags = 0
    for kind in pins.kinds:
        flags |= CLONE_FLAGS.get(kind, 0)
    return flags


def _pin_owned(pins: Pins, pid: int) -> None:
    """With namespaces that a child is in, and that its user namespace owns."""
    with _explained(pins):
        for kind in pins.kinds:
            if kind in CLONE_FLAGS:
                _enter(f"/proc/{pid}/ns/{kind}", CLONE_FLAGS[kind])
    _fill_and_bind(pins, str(pid))


def _enter(path: str, flag: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.setns(fd, flag)
    finally:
        os.close(fd)


@contextmanager
def _explained(pins: Pins) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OperationFailed(
            f"the pod's {', '.join(pins.kinds)} namespaces cannot be made: {error.strerror} "
            "(the server needs CAP_SYS_ADMIN; see `ocishim check`)"
        ) from error


def _fill_and_bind(pins: Pins, process: str) -> None:
    """Set what is set in the namespaces, which this thread is in, and pin those of a process."""
    with _explained(pins):
        if "uts" in pins.kinds:
            socket.sethostname(pins.hostname)
        if "net" in pins.kinds:
            _bring_loopback_up()
    for name, value in pins.sysctls.items():
        if pins.mappings is None or name.startswith("net."):
            _write_sysctl(name, value)
        else:
            # The IPC namespace's are its owner's to write, whatever else one may do (ipc_permissions in the kernel).
            with _as_user(pins.mappings.uid(0)):
                _write_sysctl(name, value)
    _bind_all(pins, process)


def _bind_all(pins: Pins, process: str) -> None:
    os.makedirs(pins.directory, mode=0o700, exist_ok=True)
    with ExitStack() as undo:
        for kind in pins.kinds:
            target = pins.path(kind)
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
            undo.callback(os.unlink, target)
            mount.bind(f"/proc/{process}/ns/{kind}", target)
            undo.callback(mount.unmount, target)
        undo.pop_all()


def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        reply = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack(_IFREQ, b"lo", 0))
        flags: int = struct.unpack(_IFREQ, reply)[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack(_IFREQ, b"lo", flags | _IFF_UP))


@contextmanager
def _as_user(uid: int) -> Iterator[None]:
    """This thread, and no other, as a user without privileges."""
    libc.set_thread_euid(uid)
    try:
        yield
    finally:
        libc.set_thread_euid(0)


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
        enter(path, "net")
        return socket.socket(family, socket.SOCK_STREAM)

    return await in_fresh_thread(make, "socket-in-pod")


def enter(path: str, kind: str) -> None:
    """Join a pinned namespace: only for a thread that is made for it and ends after it. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.setns(fd, CLONE_FLAGS[kind])
    finally:
        os.close(fd)


@effect
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
