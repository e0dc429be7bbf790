"""Operations that run to their end whoever still waits, and that a second caller joins.

kubelet's deadlines are shorter than a slow disk. A caller that goes away cancels its own waiting, nothing else;
its retry finds the job by key and gets the result.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ocishim import tracing
from ocishim.errors import AlreadyExists, OcishimError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Iterator

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class Job(Generic[T]):
    """One operation under way."""

    what: str
    request: object
    resumes: bool = False
    """Whether its next attempt goes on where it was, so that shutdown need not wait for it."""
    since: float = field(default_factory=time.monotonic)
    step: str = ""
    """What it is doing now, for errors and the debug dump."""

    def describe(self) -> str:
        """A line for a person: what, since when, at which step."""
        step = f", at step '{self.step}'" if self.step else ""
        return f"{self.what} (for {time.monotonic() - self.since:.1f} s{step})"


_current: ContextVar[Job[Any] | None] = ContextVar("job", default=None)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Name what the current job is doing, in errors, the debug dump and traces."""
    job = _current.get()
    with tracing.span(name):
        if job is None:
            yield
            return
        before, job.step = job.step, name
        try:
            yield
        finally:
            job.step = before


class Jobs:
    """All operations under way."""

    def __init__(self) -> None:
        self._jobs: dict[Hashable, tuple[Job[Any], asyncio.Task[Any]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def run(
        self,
        key: Hashable,
        what: str,
        request: object,
        operation: Callable[[], Coroutine[Any, Any, T]],
        *,
        resumes: bool = False,
    ) -> T:
        """Start the operation, or join the one of that key, and wait for its result.

        Raises AlreadyExists where the one under way was asked for something else, Unavailable at shutdown.
        """
        found = self._jobs.get(key)
        if found is not None:
            job, task = found
            if job.request != request:
                raise AlreadyExists(f"{what}: another request of that name is under way: {job.describe()}")
        else:
            if self._closing:
                raise Unavailable(f"{what}: the server is shutting down; try again")
            job = Job(what, request, resumes)
            task = asyncio.create_task(self._run(job, operation), name=what)
            self._jobs[key] = (job, task)
            task.add_done_callback(lambda _: self._jobs.pop(key, None))
            task.add_done_callback(_note_failure)
        try:
            # The same coroutine type went in under this key.
            return cast("T", await asyncio.shield(task))
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and not (caller and caller.cancelling()):
                raise Unavailable(f"{what}: the server is shutting down; try again") from None
            raise

    async def _run(self, job: Job[T], operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        _current.set(job)
        return await operation()

    def spawn(self, operation: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Own a task in the background; it is cancelled at shutdown."""
        task = asyncio.create_task(operation, name=name, context=tracing.detached())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_note_failure)
        return task

    def under_way(self) -> list[str]:
        """A line each, oldest first."""
        return [job.describe() for job, _ in self._jobs.values()]

    def kinds(self) -> dict[str, int]:
        """How many are under way, by the first word of what they are: the RPC's name."""
        return dict(Counter(job.what.partition(" ")[0] for job, _ in list(self._jobs.values())))

    async def close(self, grace: float) -> None:
        """Take no new jobs, wait up to `grace` seconds for those under way, then cancel what is left."""
        self._closing = True
        for job, task in self._jobs.values():
            if job.resumes:
                task.cancel()
        jobs = {task for _, task in self._jobs.values()}
        if jobs:
            log.info("waiting for %d operations: %s", len(jobs), "; ".join(self.under_way()))
            await asyncio.wait(jobs, timeout=grace)
        left = {task for task in jobs | self._tasks if not task.done()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


def _note_failure(task: asyncio.Task[Any]) -> None:
    """Look at the result, so that one which nobody waits for any more is not called lost."""
    if task.cancelled():
        return
    error = task.exception()
    if error is not None and not isinstance(error, OcishimError | OSError):
        log.error("%s failed", task.get_name(), exc_info=error)
