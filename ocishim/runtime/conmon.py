"""conmon: one small process a container that holds its output and log and outlives this server.

conmon is started with two pipes. It waits for a byte on the start pipe (so that it can be placed in a cgroup
first), forks itself into the background, has the runtime create the container, and answers on the sync pipe.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim import tracing
from ocishim.errors import DeadlineExceeded, OcishimError, OperationFailed
from ocishim.linux import process
from ocishim.protocol import conmon as messages
from ocishim.protocol import runtime_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ocishim.runtime.oci import OciRuntime

_RESIZE: Final = "1 {height} {width}\n"
_REOPEN: Final = "2 0 0\n"
_ANSWER_LIMIT: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Launch:
    """All that conmon is told of one container."""

    container_id: str
    name: str
    bundle: str
    pidfile: str
    log_path: str
    """Empty: no log."""
    exit_dir: str
    socket_dir: str
    tty: bool
    stdin: bool
    stdin_once: bool
    restore: str = ""
    """CRIU's files, where the container is not created but restored; its process runs then."""
    systemd_cgroup: bool = False
    """Whether the bundle names its cgroup as systemd's slice:prefix:name."""


def argv(conmon: str, runtime: OciRuntime, launch: Launch) -> list[str]:
    """conmon's command line (conmon(8))."""
    line = [conmon, "--cid", launch.container_id, "--cuuid", launch.container_id, "--name", launch.name]
    line += ["--runtime", runtime.path, "--runtime-arg", f"--root={runtime.root}"]
    if launch.systemd_cgroup:
        line.append("--systemd-cgroup")
    line += ["--bundle", launch.bundle, "--persist-dir", launch.bundle]
    line += ["--container-pidfile", launch.pidfile, "--conmon-pidfile", f"{launch.bundle}/conmon.pid"]
    line += ["--log-path", f"k8s-file:{launch.log_path or '/dev/null'}", "--log-level", "error"]
    line += ["--exit-dir", launch.exit_dir, "--socket-dir-path", launch.socket_dir]
    if launch.tty:
        line.append("--terminal")
    if launch.stdin:
        line.append("--stdin")
        if not launch.stdin_once:
            line.append("--leave-stdin-open")
    if launch.restore:
        line += ["--restore", launch.restore]
    return line


async def create(conmon: str, runtime: OciRuntime, launch: Launch, place: Callable[[int], Awaitable[None]]) -> int:
    """Have conmon create the container; returns the pid of its init process.

    `place` moves conmon to its cgroup, before it has children or a background half. Raises what `place` does,
    OperationFailed with the runtime's words, DeadlineExceeded when nothing answers in time (conmon and the runtime's
    call are then killed with their group).
    """
    what = f"{runtime.name} create"
    log_file = f"{launch.bundle}/conmon.log"
    with tracing.span("conmon", runtime=runtime.name, container=launch.container_id):
        line = await _answer(argv(conmon, runtime, launch), log_file, runtime.timeout, what, place)
    try:
        said = messages.parse_sync(line)
    except (ValueError, TypeError) as error:
        log = await asyncio.to_thread(_tail, log_file)
        raise OperationFailed(f"{what}: conmon answered {line!r}: {log}") from error
    if isinstance(said, messages.Refused):
        raise OperationFailed(f"{what}: {runtime_error.words(said.message)}")
    return said.pid


async def _answer(
    command: list[str], log_file: str, within: float, what: str, place: Callable[[int], Awaitable[None]]
) -> bytes:
    """Start conmon and let it go on; its answer, empty when it died without one."""
    with ExitStack() as ours, ExitStack() as theirs:
        sync_read, sync_write = os.pipe()
        start_read, start_write = os.pipe()
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for fd in (sync_write, start_read, log):
            theirs.callback(os.close, fd)
        ours.callback(os.close, start_write)
        environment = process.CLEAN_ENVIRONMENT | {
            "_OCI_SYNCPIPE": str(sync_write),
            "_OCI_STARTPIPE": str(start_read),
        }
        answer = process.Collector(sync_read, process.Budget(_ANSWER_LIMIT))
        ours.callback(answer.abandon)
        launcher = process.spawn(command, stdout=log, stderr=log, pass_fds=(sync_write, start_read), env=environment)
        theirs.close()
        try:
            async with asyncio.timeout(within):
                await _place(launcher, place)
                with suppress(BrokenPipeError):  # it has ended, and its log says why
                    os.write(start_write, b"\0")
                await launcher.wait()
                return await answer.line()
        except TimeoutError as error:
            _kill_background(launcher, os.path.dirname(log_file))
            raise DeadlineExceeded(f"{what}: {command[0]} did not answer within {within:g} s") from error


async def _place(launcher: process.Process, place: Callable[[int], Awaitable[None]]) -> None:
    try:
        await place(launcher.pid)
    except OcishimError:
        # Where it has ended by itself, what it wrote to its log explains more than that it is not there.
        if launcher.returncode is None:
            launcher.kill_group()
            raise
    except BaseException:
        launcher.kill_group()
        raise


def _kill_background(launcher: process.Process, bundle: str) -> None:
    """conmon leads a session of its own once it is in the background; its pid file names it."""
    launcher.kill_group()
    with suppress(OSError, ValueError), open(f"{bundle}/conmon.pid", encoding="ascii") as file:
        os.killpg(int(file.read()), signal.SIGKILL)


async def reopen_log(bundle: str) -> None:
    """Make conmon close its log and open the path again, after a rotation.

    Raises OperationFailed where conmon is not there.
    """
    await asyncio.to_thread(_control, bundle, _REOPEN)


async def resize(bundle: str, *, width: int, height: int) -> None:
    """Tell the container's terminal its size in characters. Raises OperationFailed without a conmon."""
    await asyncio.to_thread(_control, bundle, _RESIZE.format(width=width, height=height))


def _control(bundle: str, command: str) -> None:
    path = f"{bundle}/ctl"
    try:
        # Without a reader the open fails at once instead of waiting for one.
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(fd, command.encode("ascii"))
        finally:
            os.close(fd)
    except OSError as error:
        raise OperationFailed(f"{path}: conmon cannot be told {command.strip()!r}: {error.strerror}") from error


def _tail(path: str) -> str:
    with suppress(OSError), open(path, "rb") as file:
        return file.read(_ANSWER_LIMIT).decode("utf-8", "replace").strip()
    return ""
