"""User namespaces and the namespaces they own: made by a child that sleeps, since a process with threads may not.

unshare(2) and setns(2) refuse a user namespace to such a process. The child shares the server's memory, so that nothing
is copied, executes one function of libc on a stack of its own, so that no Python runs twice, and has no descriptor of
the server's, so that nothing is held where the server is killed meanwhile. It is killed as soon as the work is done,
and before the thread that made it ends, whose thread-local storage it uses.
"""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from ocishim.errors import OperationFailed
from ocishim.linux import files, libc, mount
from ocishim.translate.userns import IdMappings, IdRange, id_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_SLEEP: Final = 10
"""Seconds; a child that the killed server has left ends after them."""
_STACK: Final = 64 << 10
_PROBED_ID: Final = 65536
_WALL: Final = 0x40000000
"""__WALL of waitpid(2)."""


def inside(mappings: IdMappings, flags: int, work: Callable[[int], T]) -> T:
    """Make a user namespace, and of it those that flags name (CLONE_NEWNET and so on); call work with a pid in them.

    All last until work returns, unless it pins them by way of /proc/PID/ns. work runs in a thread of its own that has
    none of the server's descriptors. Blocks. Raises OperationFailed where the kernel refuses.
    """
    return _in_bare_thread(lambda: _inside(mappings, flags, work))


def refusal(state: str) -> str:
    """Why pods, whose bundles lie in a directory, cannot have user namespaces here; empty where they can. Blocks.

    Their root must get to the directory. They need tmpfs with mapped ids too (Linux 6.3): kubelet keeps secrets in one.
    """
    if closed := files.closed_to_others(state):
        return f"{closed} lets no other user in: chmod o+x {closed}"
    ids = (IdRange(0, _PROBED_ID, 1),)
    try:
        inside(IdMappings(ids, ids), 0, lambda pid: mount.try_idmapped_tmpfs(f"/proc/{pid}/ns/user"))
    except OperationFailed as error:
        return str(error)
    except OSError as error:
        return f"ids of a tmpfs cannot be mapped: {error.strerror}"
    return ""


def _inside(mappings: IdMappings, flags: int, work: Callable[[int], T]) -> T:
    with _sleeper(libc.CLONE_NEWUSER | flags) as pid:
        try:
            for name, ranges in (("uid_map", mappings.uids), ("gid_map", mappings.gids)):
                _write(f"/proc/{pid}/{name}", id_map(ranges).encode("ascii"))
        except OSError as error:
            raise OperationFailed(f"{name} {id_map(ranges).splitlines()}: the kernel says: {error.strerror}") from error
        return work(pid)


@contextmanager
def _sleeper(flags: int) -> Iterator[int]:
    """A child in namespaces of its own. A signal handler in it would act on the server's memory: it gets no signals."""
    stack = libc.Stack(_STACK)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = libc.clone_asleep(libc.CLONE_VM | flags, stack, _SLEEP)
    except OSError as error:
        raise OperationFailed(
            f"a user namespace cannot be made: {error.strerror} (see /proc/sys/user/max_user_namespaces; "
            "the server needs CAP_SYS_ADMIN)"
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield pid
    finally:
        # Nobody else can have waited for it, so that the pid is its own still.
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, _WALL)


def _in_bare_thread(work: Callable[[], T]) -> T:
    """Run work in a thread with a descriptor table of its own, and that empty."""
    outcome: Future[T] = Future()

    def body() -> None:
        try:
            libc.unshare(libc.CLONE_FILES)
            libc.close_range(0)
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - carried to the waiting thread
            outcome.set_exception(error)

    thread = threading.Thread(target=body, name="user-namespace", daemon=True)
    thread.start()
    thread.join()
    return outcome.result()


def _write(path: str, content: bytes) -> None:
    """In one write(2), as the kernel wants a map."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)
