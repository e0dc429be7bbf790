"""ExecSync: a command in a running container, its output collected."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocishim.errors import DeadlineExceeded
from ocishim.lifecycle import exec_start
from ocishim.linux import process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What the command left."""

    stdout: bytes
    stderr: bytes
    exit_code: int


async def exec_sync(node: Node, container: Container, command: Sequence[str], timeout: float) -> ExecResult:  # noqa: ASYNC109 - the RPC's own, with a meaning of its own
    """Run a command and wait for it, `timeout` seconds at most; 0 means for ever.

    A command that is not there or cannot be executed is an exit code, 127 or 126. Past the timeout, or when the
    caller goes away, the command is killed with its session and the container lives on. Raises DeadlineExceeded,
    FailedPrecondition where the container does not run, OperationFailed in the runtime's words.
    """
    exec_start.check(container, command)
    async with _collected(node, container, command) as (child, out, err):
        if isinstance(child, exec_start.Refusal):
            return ExecResult(b"", f"{child.words}\n".encode(), child.exit_code)
        try:
            async with asyncio.timeout(timeout or None):
                returncode = await child.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{container.title}: {command[0]!r} did not end within {timeout:g} s and was killed"
            ) from error
        # A child of the command may hold the pipes for ever: what was written until now is the output.
        return ExecResult(out.finish(), err.finish(), exec_start.exit_code(returncode))


@asynccontextmanager
async def _collected(
    node: Node, container: Container, command: Sequence[str]
) -> AsyncIterator[tuple[process.Process | exec_start.Refusal, process.Collector, process.Collector]]:
    budget = process.Budget(node.settings.containers.exec_sync_output)
    with ExitStack() as ours, ExitStack() as theirs:
        collectors, ends = [], []
        for _ in ("stdout", "stderr"):
            read, write = os.pipe()
            theirs.callback(os.close, write)
            ends.append(write)
            collectors.append(collector := process.Collector(read, budget))
            ours.callback(collector.abandon)
        async with exec_start.started(node, container, command, exec_start.Ends(None, *ends)) as child:
            theirs.close()
            yield child, collectors[0], collectors[1]
