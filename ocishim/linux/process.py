"""The one door for subprocesses: a clean environment, a process group of its own, always reaped.

posix_spawn(3) and a pidfd take a third less time than asyncio's subprocesses and need no watcher thread.
Python's descriptors are close-on-exec, so that a child gets what is named here and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from ocishim.effects import async_effect, effect
from ocishim.errors import DeadlineExceeded, FailedPrecondition, OperationFailed
from ocishim.linux import libc
from ocishim.linux.uncancelled import to_the_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

CLEAN_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
_CHUNK: Final = 65536
_MOST_READS: Final = 64
"""A pipe holds a megabyte at the most; more than that is being written still."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a process left: its exit code (negative: killed by that signal) and output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    def words(self) -> str:
        """What the program itself said of its failure, for an error message."""
        said = (self.stderr.strip() or self.stdout.strip()).decode("utf-8", "replace")
        end = f"exit code {self.returncode}" if self.returncode >= 0 else f"signal {-self.returncode}"
        return said or f"no message, {end}"


class Process:
    """A running child of this server, reaped as soon as it ends."""

    _running: ClassVar[dict[int, Process]] = {}
    """By pid: as global as the kernel's own table of our children, which it mirrors."""
    _adoptions: ClassVar[int] = 0

    def __init__(self, pid: int, argv: tuple[str, ...]) -> None:
        Process._running[pid] = self
        self.pid = pid
        self.argv = argv
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(pid)
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return
        del Process._running[self.pid]
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set_result(os.waitstatus_to_exitcode(status))

    @classmethod
    @contextmanager
    def adoption(cls) -> Iterator[None]:
        """While something is started whose child becomes ours: no orphan is reaped until it has an owner."""
        cls._adoptions += 1
        try:
            yield
        finally:
            cls._adoptions -= 1
            reap_orphans()

    @classmethod
    def has_orphan(cls) -> int:
        """The pid of a dead child that nobody owns, 0 for none or while one may find an owner."""
        if cls._adoptions:
            return 0
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return 0
        return 0 if found is None or found.si_pid in cls._running else found.si_pid

    @property
    def returncode(self) -> int | None:
        """The exit code (negative: killed by that signal), None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Wait for its end; may be called by many and cancelled."""
        return await asyncio.shield(self._ended)

    def kill_group(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to the process and its group; nothing if it has been reaped."""
        if not self._ended.done():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signum)


def become_subreaper() -> None:
    """Make this process the parent of its orphaned descendants: commands started by `RUNTIME exec --detach`, and
    conmon's background half (PR_SET_CHILD_SUBREAPER in prctl(2))."""
    libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)


def reap_orphans() -> None:
    """Reap dead children that nobody owns; call it on SIGCHLD. An owned one ahead of them is left to its owner."""
    while pid := Process.has_orphan():
        os.waitpid(pid, 0)


@effect
def spawn(
    argv: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
) -> Process:
    """Start a program (absolute path first) in a process group of its own.

    Descriptors stay the caller's; None is /dev/null. pass_fds keep their numbers in the child.
    Raises FailedPrecondition where the program cannot be executed.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        # dup2 of a descriptor onto itself clears its close-on-exec flag in the child (glibc >= 2.29).
        actions = [
            (os.POSIX_SPAWN_DUP2, null if fd is None else fd, number)
            for number, fd in enumerate((stdin, stdout, stderr))
        ]
        actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in pass_fds]
        pid = os.posix_spawn(
            argv[0],
            list(argv),
            CLEAN_ENVIRONMENT if env is None else env,
            file_actions=actions,
            setpgroup=0,
            setsigmask=[],
            setsigdef=_IGNORED_BY_PYTHON,
        )
    except OSError as error:
        raise FailedPrecondition(f"{argv[0]} cannot be executed: {error.strerror}") from error
    finally:
        os.close(null)
    return Process(pid, tuple(argv))


@dataclass(slots=True)
class Budget:
    """Bytes that may still be kept; shared by collectors whose sum is bounded."""

    left: int

    def take(self, chunk: bytes) -> bytes:
        """As much of the chunk as may be kept."""
        kept = chunk[: self.left]
        self.left -= len(kept)
        return kept


class Collector:
    """Reads a pipe to its end on the event loop and keeps what the budget allows; the rest is drained.

    Owns the descriptor from the start.
    """

    def __init__(self, fd: int, budget: Budget) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._budget = budget
        self._chunks: list[bytes] = []
        self._line: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._eof: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(fd, self._read)

    def _read(self) -> bool:
        try:
            chunk = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # the other end of a pseudo-terminal is gone: EIO is its end of file
            chunk = b""
        if not chunk:
            self._close()
            return False
        if kept := self._budget.take(chunk):
            self._chunks.append(kept)
        if b"\n" in chunk:
            self._wake()
        return True

    def _wake(self) -> None:
        if self._line is not None and not self._line.done():
            self._line.set_result(None)

    def _close(self) -> None:
        if not self._eof.done():
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._eof.set_result(None)
            self._wake()

    async def line(self) -> bytes:
        """The first line, or all there was at end of file; one caller at a time."""
        if not self._eof.done() and not any(b"\n" in chunk for chunk in self._chunks):
            self._line = self._loop.create_future()
            await self._line
        return b"".join(self._chunks).partition(b"\n")[0]

    def finish(self) -> bytes:
        """All that was written until now, and no waiting: a descendant may hold the pipe for ever."""
        for _ in range(_MOST_READS):
            if self._eof.done() or not self._read():
                break
        self._close()
        return b"".join(self._chunks)

    def abandon(self) -> None:
        """Stop reading and close the pipe."""
        self._close()


def _fill(memfd: int, data: bytes) -> None:
    with open(memfd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(memfd, 0, os.SEEK_SET)


@asynccontextmanager
async def piped(
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    output: Budget,
) -> AsyncIterator[tuple[Process, Collector, Collector]]:
    """Start a program with its input at hand and its output collected; killed and reaped on the way out."""
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    source = os.memfd_create("stdin") if stdin else None
    try:
        if source is not None:
            _fill(source, stdin)
        process = spawn(argv, stdin=source, stdout=out_write, stderr=err_write, pass_fds=pass_fds, env=env)
    except BaseException:
        os.close(out_read)
        os.close(err_read)
        raise
    finally:
        os.close(out_write)
        os.close(err_write)
        if source is not None:
            os.close(source)
    out, err = Collector(out_read, output), Collector(err_read, output)
    try:
        yield process, out, err
    finally:
        process.kill_group()
        out.abandon()
        err.abandon()
        await to_the_end(process.wait())


@async_effect
async def run(
    argv: Sequence[str],
    *,
    what: str,
    within: float,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    output_limit: int = 4 << 20,
) -> Finished:
    """Run a program to its end, `within` seconds at most.

    Raises DeadlineExceeded (naming `what`) after killing its group, FailedPrecondition where it cannot be
    executed. A failing exit code is the caller's to judge: see check.
    """
    async with piped(argv, stdin=stdin, env=env, output=Budget(output_limit)) as (process, out, err):
        try:
            async with asyncio.timeout(within):
                returncode = await process.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(f"{what}: {argv[0]} did not finish within {within:g} s and was killed") from error
        return Finished(tuple(argv), returncode, out.finish(), err.finish())


def check(finished: Finished, what: str) -> Finished:
    """Raise OperationFailed with the program's own words unless it succeeded."""
    if finished.returncode != 0:
        raise OperationFailed(f"{what}: {finished.argv[0]}: {finished.words()}")
    return finished
