"""What the server is doing right now, for a person who wonders: written to the log on SIGUSR1.

Operations with their steps, locks that are held, every task and where it waits, and what threads are at.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocishim.lifecycle.node import Node

log = logging.getLogger(__name__)

_DEEPEST: Final = 50
_THREAD_FRAMES: Final = 4


def write(node: Node) -> None:
    """Write all of it, a line of the log each."""
    for title, lines in (
        ("operation", node.jobs.under_way()),
        ("lock", list(held_locks(node))),
        ("task", list(tasks())),
        ("thread", list(threads())),
    ):
        log.info("dump: %d %ss", len(lines), title)
        for line in lines:
            log.info("dump: %s %s", title, line)


def held_locks(node: Node) -> Iterator[str]:
    """Which pods and containers are locked."""
    for sandbox in node.sandboxes:
        if sandbox.lock.locked():
            yield f"of {sandbox.title} ({sandbox.id[:13]})"
    for container in node.containers:
        if container.lock.locked():
            yield f"of {container.title}"
        if container.checkpointing.locked():
            yield f"of {container.title}, for its checkpoint"
        if container.stop is not None and not container.ended.is_set():
            left = container.stop.deadline - asyncio.get_running_loop().time()
            yield f"of {container.title}: none, but its stop is under way and kills it in {max(left, 0):.1f} s"


def tasks() -> Iterator[str]:
    """Every task by name, and the chain of calls down to what it waits for."""
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        calls = " > ".join(awaited(task.get_coro()))
        yield f"{task.get_name()}: {calls or 'running'}"


def awaited(coroutine: Any) -> Iterator[str]:  # noqa: ANN401 - coroutines, generators, futures: whatever awaits what
    """Where a suspended coroutine is, from the outermost call to the innermost."""
    at = coroutine
    for _ in range(_DEEPEST):
        frame = next(
            (found for name in ("cr_frame", "gi_frame", "ag_frame") if (found := getattr(at, name, None))), None
        )
        if frame is None:
            return
        yield f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
        at = next(
            (found for name in ("cr_await", "gi_yieldfrom", "ag_await") if (found := getattr(at, name, None))), None
        )


def threads() -> Iterator[str]:
    """Every thread by name, and its innermost calls."""
    frames = sys._current_frames()  # noqa: SLF001 - documented, for debugging
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is not None and thread is not threading.current_thread():
            calls = traceback.extract_stack(frame, limit=None)[-_THREAD_FRAMES:]
            yield f"{thread.name}: {' > '.join(f'{call.name} ({call.filename}:{call.lineno})' for call in calls)}"
