"""Operations that run to their end, and callers that come and go."""

from __future__ import annotations

import asyncio

import pytest

from ocishim.errors import AlreadyExists, NotFound, Unavailable
from ocishim.lifecycle.jobs import Jobs, step
from ocishim.linux.uncancelled import to_the_end


class Operation:
    """Counts its runs and ends when told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.may_end = asyncio.Event()
        self.ended = False

    async def __call__(self) -> str:
        self.runs += 1
        with step("waiting"):
            await self.may_end.wait()
        self.ended = True
        return "done"


async def test_a_second_caller_joins_the_first() -> None:
    jobs, operation = Jobs(), Operation()
    both = [asyncio.create_task(jobs.run("key", "it", "same", operation)) for _ in range(2)]
    await asyncio.sleep(0)
    operation.may_end.set()
    assert await asyncio.gather(*both) == ["done", "done"]
    assert operation.runs == 1


async def test_another_request_under_the_same_key_is_refused_with_the_step() -> None:
    jobs, operation = Jobs(), Operation()
    first = asyncio.create_task(jobs.run("key", "making it", "one", operation))
    await asyncio.sleep(0.01)
    with pytest.raises(AlreadyExists, match=r"making it \(for .* at step 'waiting'\)"):
        await jobs.run("key", "making it", "two", operation)
    operation.may_end.set()
    await first


async def test_a_caller_that_goes_away_cancels_only_itself() -> None:
    jobs, operation = Jobs(), Operation()
    caller = asyncio.create_task(jobs.run("key", "it", None, operation))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    retry = asyncio.create_task(jobs.run("key", "it", None, operation))
    operation.may_end.set()
    assert await retry == "done"
    assert operation.runs == 1


async def test_the_key_is_free_after_the_end_and_after_a_failure() -> None:
    jobs = Jobs()

    async def fail() -> None:
        raise NotFound("nothing there")

    for _ in range(2):
        with pytest.raises(NotFound):
            await jobs.run("key", "it", None, fail)
    assert jobs.under_way() == []


async def test_closing_waits_for_what_is_under_way_and_takes_nothing_new() -> None:
    jobs, operation = Jobs(), Operation()
    caller = asyncio.create_task(jobs.run("key", "it", None, operation))
    await asyncio.sleep(0)
    closing = asyncio.create_task(jobs.close(5))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await jobs.run("other", "it", None, operation)
    operation.may_end.set()
    await closing
    assert operation.ended
    assert await caller == "done"


async def test_closing_cancels_what_outlasts_the_grace() -> None:
    jobs, operation = Jobs(), Operation()
    caller = asyncio.create_task(jobs.run("key", "it", None, operation))
    background = jobs.spawn(asyncio.sleep(1000), "sleeper")
    await asyncio.sleep(0)
    await jobs.close(0.01)
    assert background.cancelled()
    assert not operation.ended
    with pytest.raises(Unavailable, match="it: the server is shutting down"):
        await caller


async def test_closing_does_not_wait_for_what_its_next_attempt_resumes() -> None:
    jobs, operation = Jobs(), Operation()
    caller = asyncio.create_task(jobs.run("key", "it", None, operation, resumes=True))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await jobs.close(1000)
    assert not operation.ended
    with pytest.raises(Unavailable):
        await caller


async def test_work_to_the_end_outlasts_two_cancellations() -> None:
    operation = Operation()
    waiting = asyncio.create_task(to_the_end(operation()))
    for _ in range(2):
        await asyncio.sleep(0.01)
        waiting.cancel()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    operation.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert operation.ended


async def test_those_under_way_are_counted_by_their_rpc() -> None:
    jobs, operation = Jobs(), Operation()
    names = ("RunPodSandbox a", "RunPodSandbox b", "PullImage c")
    callers = [asyncio.create_task(jobs.run(name, name, None, operation)) for name in names]
    await asyncio.sleep(0)
    assert jobs.kinds() == {"RunPodSandbox": 2, "PullImage": 1}
    operation.may_end.set()
    await asyncio.gather(*callers)
    await asyncio.sleep(0)
    assert jobs.kinds() == {}
