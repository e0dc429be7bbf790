"""What the server tells of itself: its log, the dump of what it is at, and traces."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ocishim import dump, logs, tracing
from ocishim.config import LogSettings, TracingSettings
from ocishim.cri.traced import traced
from ocishim.lifecycle.jobs import Jobs, step
from ocishim.tracing.otel import OtelTracer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("ocishim.x", logging.INFO, "file.py", 1, message, arguments, None)
    made.__dict__.update(extra)
    return made


@given(st.text(), st.dictionaries(st.text(), st.integers() | st.text()))
def test_any_event_is_one_line_of_json(text: str, fields: dict[str, object]) -> None:
    line = logs.JsonFormatter().format(record("said %s", text, fields=fields))
    assert "\n" not in line
    event = json.loads(line)
    assert (event["message"], event["level"], event["logger"]) == (f"said {text}", "info", "ocishim.x")
    assert all(
        event[key] == value for key, value in fields.items() if key not in ("message", "level", "logger", "time")
    )


def test_a_traceback_is_part_of_its_event() -> None:
    made = record("a bug")
    try:
        int("broken\nin two lines")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = logs.JsonFormatter().format(made)
    assert "\n" not in line
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root, ours, grpc = logging.getLogger(), logging.getLogger("ocishim"), logging.getLogger("grpclib")
    before = (root.handlers[:], root.level, ours.level, grpc.level)
    yield
    root.handlers[:] = before[0]
    for logger, level in zip((root, ours, grpc), before[1:], strict=True):
        logger.setLevel(level)


@pytest.mark.parametrize(
    ("format_", "stream", "is_json"),
    [("auto", Terminal, False), ("auto", io.StringIO, True), ("text", io.StringIO, False), ("json", Terminal, True)],
)
def test_a_terminal_gets_text_and_a_file_json_unless_the_settings_choose(
    logging_restored: None, monkeypatch: pytest.MonkeyPatch, format_: Any, stream: type[io.StringIO], is_json: bool
) -> None:
    written = stream()
    monkeypatch.setattr(sys, "stderr", written)
    logs.configure(LogSettings(format=format_))
    logging.getLogger("ocishim.rpc").info("hello", extra={"fields": {"rpc": "Version"}})
    logging.getLogger("ocishim.rpc").debug("not this")
    (line,) = written.getvalue().splitlines()
    assert line.startswith("{") == is_json
    assert "hello" in line
    if is_json:
        assert json.loads(line)["rpc"] == "Version"


async def test_the_dump_tells_where_each_task_waits() -> None:
    event = asyncio.Event()

    async def inner() -> None:
        await event.wait()

    async def outer() -> None:
        await inner()

    task = asyncio.create_task(outer(), name="the one")
    await asyncio.sleep(0)
    (line,) = [line for line in dump.tasks() if line.startswith("the one: ")]
    assert [call.split(" (")[0].rsplit(".", 1)[1] for call in line.removeprefix("the one: ").split(" > ")] == [
        "outer",
        "inner",
        "wait",
    ]
    event.set()
    await task


async def test_the_dump_follows_asynchronous_generators() -> None:
    event = asyncio.Event()

    async def numbers() -> Any:
        await event.wait()
        yield 1

    async def reader() -> None:
        async for _ in numbers():
            pass

    task = asyncio.create_task(reader(), name="reader")
    await asyncio.sleep(0)
    assert any(line.startswith("reader: ") and "reader" in line for line in dump.tasks())
    event.set()
    await task


async def test_the_dump_has_operations_locks_tasks_and_threads(caplog: pytest.LogCaptureFixture) -> None:
    jobs, release, in_thread = Jobs(), asyncio.Event(), threading.Event()

    async def operation() -> None:
        with step("waiting for the disk"):
            await release.wait()

    lock = asyncio.Lock()
    await lock.acquire()
    stop = SimpleNamespace(deadline=asyncio.get_running_loop().time() + 30)
    sandbox = SimpleNamespace(lock=lock, title="pod a/b", id="f" * 64)
    container = SimpleNamespace(
        lock=asyncio.Lock(), checkpointing=lock, title="container c", stop=stop, ended=asyncio.Event()
    )
    node: Any = SimpleNamespace(jobs=jobs, sandboxes=[sandbox], containers=[container])
    running = asyncio.create_task(jobs.run("key", "RunPodSandbox a/b", None, operation))
    thread = threading.Thread(target=in_thread.wait, name="blocked")
    thread.start()
    await asyncio.sleep(0.01)
    with caplog.at_level(logging.INFO, "ocishim.dump"):
        dump.write(node)
    release.set()
    in_thread.set()
    await running
    thread.join()
    said = "\n".join(caplog.messages)
    assert "RunPodSandbox a/b (for " in said
    assert "at step 'waiting for the disk'" in said
    assert "dump: lock of pod a/b (fffff" in said
    assert "dump: lock of container c, for its checkpoint" in said
    assert "its stop is under way and kills it in" in said
    assert "dump: thread blocked: " in said
    assert "dump: lock of container c\n" not in said


class Traces:
    """A tracer and the spans that it has let go."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer = OtelTracer(TracingSettings(), self._exporter)

    async def spans(self) -> Sequence[ReadableSpan]:
        await self.tracer.close()
        return self._exporter.get_finished_spans()


def handlers(func: Any) -> dict[str, Handler]:
    return {"/runtime.v1.RuntimeService/Version": Handler(func, Cardinality.UNARY_UNARY, object, object)}


async def call(tracer: OtelTracer | None, func: Any, metadata: dict[str, Any] | None = None) -> None:
    (handler,) = traced(handlers(func), tracer).values()
    stream: Any = SimpleNamespace(metadata=metadata)
    await handler.func(stream)


async def test_a_call_is_a_span_below_the_clients_and_its_steps_are_below_it() -> None:
    traces, jobs = Traces(), Jobs()

    async def operation() -> None:
        with step("write the record"), tracing.span("CNI ADD", plugin="bridge"):
            assert tracing.trace_id() == CLIENTS.split("-")[1]
            await asyncio.sleep(0)

    async def served(_: object) -> None:
        await jobs.run("key", "it", None, operation)

    await call(traces.tracer, served, {"traceparent": CLIENTS, "binary-bin": b"\xff"})
    spans = {span.name: span for span in await traces.spans()}
    rpc, wrote, plugin = (spans[name] for name in ("runtime.v1.RuntimeService/Version", "write the record", "CNI ADD"))
    assert rpc.parent is not None
    assert f"{rpc.parent.span_id:016x}" == CLIENTS.split("-")[2]
    assert rpc.attributes is not None
    assert dict(rpc.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": "runtime.v1.RuntimeService",
        "rpc.method": "Version",
        "rpc.grpc.status_code": 0,
    }
    assert wrote.parent == rpc.context
    assert plugin.parent == wrote.context
    assert plugin.attributes == {"plugin": "bridge"}


async def test_a_failed_call_says_its_code_and_words() -> None:
    traces = Traces()

    async def served(_: object) -> None:
        raise GRPCError(Status.NOT_FOUND, "no such thing")

    with pytest.raises(GRPCError):
        await call(traces.tracer, served)
    (span,) = await traces.spans()
    assert span.attributes is not None
    assert span.attributes["rpc.grpc.status_code"] == 5
    assert span.status.description == "no such thing"


async def test_what_goes_on_after_the_call_is_no_part_of_its_trace() -> None:
    traces, jobs, done = Traces(), Jobs(), asyncio.Event()

    async def background() -> None:
        with tracing.span("much later"):
            done.set()

    async def served(_: object) -> None:
        jobs.spawn(background(), "background")

    await call(traces.tracer, served)
    await done.wait()
    assert [span.name for span in await traces.spans()] == ["runtime.v1.RuntimeService/Version"]


@pytest.mark.parametrize("given", ["", "garbage", "00-zz-zz-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_trace_context_that_is_none_begins_a_trace_of_its_own(given: str) -> None:
    traces = Traces()

    async def served(_: object) -> None:
        assert tracing.trace_id()

    await call(traces.tracer, served, {"traceparent": given})
    (span,) = await traces.spans()
    assert span.parent is None


async def test_without_a_tracer_nothing_is_wrapped_and_spans_are_nothing() -> None:
    async def served(_: object) -> None:
        with tracing.span("x", a="b") as nothing:
            assert nothing is None
        assert not tracing.trace_id()

    made = handlers(served)
    assert traced(made, None) is made
    await call(None, served)


def test_a_server_that_does_not_trace_does_not_load_what_traces() -> None:
    script = "import ocishim.daemon, sys; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
