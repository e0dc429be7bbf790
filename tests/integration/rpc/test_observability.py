"""The server's log, its dump on SIGUSR1, and its traces as a collector receives them."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cri_api.v1 import api_pb2 as pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpc.node import Node, Pods

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        collector = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def wait_for(self, name: str) -> list[Any]:
        """All spans of our trace, once the one of that name is among them."""
        deadline = time.monotonic() + 20
        while not any(span.name == name for span in self.spans):
            assert time.monotonic() < deadline, [span.name for span in self.spans]
            time.sleep(0.05)
        return [span for span in self.spans if span.trace_id.hex() == TRACE]


def configured(node: Node, text: str) -> Iterator[None]:
    """The server with more configuration."""
    drop_ins = Path(f"{node.config}.d")
    drop_ins.mkdir()
    (drop_ins / "more.toml").write_text(text)
    node.restart()
    yield
    (drop_ins / "more.toml").unlink()
    drop_ins.rmdir()
    node.restart()


@pytest.fixture
def collector(node: Node) -> Iterator[Collector]:
    made = Collector()
    yield from (made for _ in configured(node, f'[tracing]\nendpoint = "{made.endpoint}"\n[log]\nformat = "json"\n'))
    made.close()


def events(node: Node) -> list[dict[str, Any]]:
    return [json.loads(line) for line in node.log().splitlines() if line.startswith("{") and line.endswith("}")]


def test_a_pods_start_is_one_trace_with_its_network_runtime_and_monitor(
    node: Node, pods: Pods, collector: Collector
) -> None:
    config = pods.config()
    metadata = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)
    sandbox_id = node.runtime.RunPodSandbox(pb.RunPodSandboxRequest(config=config), metadata=metadata).pod_sandbox_id
    assert pods.run(config) == sandbox_id
    container_id = pods.create(sandbox_id, "true")
    node.runtime.StartContainer(pb.StartContainerRequest(container_id=container_id), metadata=metadata)
    spans = collector.wait_for("runtime.v1.RuntimeService/StartContainer")
    by_id = {span.span_id: span for span in spans}
    tree: dict[str, set[str]] = defaultdict(set)
    for span in spans:
        parent = by_id.get(span.parent_span_id)
        tree[parent.name if parent else ""].add(span.name)
    run, start = (f"runtime.v1.RuntimeService/{rpc}" for rpc in ("RunPodSandbox", "StartContainer"))
    assert tree[""] == {run, start}
    assert {span.parent_span_id.hex() for span in spans if span.name in (run, start)} == {SPAN}
    assert {"write the record", "make namespaces", f"CNI ADD of network {node.word}"} <= tree[run]
    assert tree[f"CNI ADD of network {node.word}"] == {"CNI ADD"}
    assert {f"create by {node.runtime_name}", f"start by {node.runtime_name}"} <= tree[start]
    assert tree[f"create by {node.runtime_name}"] == {"conmon"}
    assert tree[f"start by {node.runtime_name}"] == {"runtime start"}
    plugins = {
        attribute.value.string_value for span in spans if span.name == "CNI ADD" for attribute in span.attributes
    }
    assert {"bridge", "portmap"} <= plugins
    (line,) = [each for each in events(node) if each.get("rpc") == "StartContainer"]
    assert (line["trace_id"], line["code"], line["level"]) == (TRACE, "OK", "info")
    assert line["ms"] > 0
    assert "container" in line["about"]


def test_a_collector_that_is_gone_disturbs_nobody(node: Node, pods: Pods, collector: Collector) -> None:
    collector.close()
    container_id = pods.sleeper(pods.run())
    assert pods.exec(container_id, "echo", "hi").stdout == b"hi\n"


def test_sigusr1_has_the_server_tell_what_it_is_at(node: Node, pods: Pods) -> None:
    container_id = pods.start(pods.run(), "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    stopping = node.runtime.StopContainer.future(pb.StopContainerRequest(container_id=container_id, timeout=60))
    try:
        deadline = time.monotonic() + 10
        while True:
            assert node.process is not None
            node.process.send_signal(signal.SIGUSR1)
            time.sleep(0.1)
            said = (node.scratch / "server.log").read_text()
            if "its stop is under way and kills it in" in said:
                break
            assert time.monotonic() < deadline, said[-6000:]
        assert "dump: task exit-watch: " in said
        assert "dump: task stop container c" in said
        assert "/ocishim/lifecycle/container_stop.py:" in said
        assert "dump: thread " in said
        assert "dump: 0 operations" in said
    finally:
        node.runtime.StopContainer(pb.StopContainerRequest(container_id=container_id, timeout=0))
        stopping.result()
