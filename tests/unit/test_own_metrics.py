"""The server's own metrics as Prometheus reads them."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ocishim.errors import FailedPrecondition
from ocishim.metrics.meter import Meter
from ocishim.metrics.prometheus import PrometheusMeter, served


async def scraped(port: int, path: str = "/metrics") -> tuple[int, dict[tuple[str, frozenset[tuple[str, str]]], float]]:
    """Status, and samples by name and labels."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        text = await answer.text()
        if answer.status != 200:
            return answer.status, {}
        families = text_string_to_metric_families(text)
        return 200, {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }


def labels(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


async def test_what_was_counted_is_served() -> None:
    meter = PrometheusMeter()
    meter.rpc("Version", "OK", 0.002)
    meter.rpc("Version", "OK", 0.2)
    meter.rpc("RunPodSandbox", "INVALID_ARGUMENT", 0.001)
    meter.cni("bridge", "ADD", 0.03, failed=False)
    meter.cni("bridge", "DEL", 0.03, failed=True)
    meter.pull(4096, 1.5, failed=False)
    meter.finding("container-changed")
    meter.watch("ocishim_sessions", "Sessions.", "kind", lambda: {"exec": 2, "attach": 0})
    async with served(meter, "127.0.0.1:0") as port:
        status, found = await scraped(port)
    assert status == 200
    assert found["ocishim_rpc_seconds_count", labels(method="Version", code="OK")] == 2
    assert found["ocishim_rpc_seconds_bucket", labels(method="Version", code="OK", le="0.0025")] == 1
    assert found["ocishim_rpc_seconds_count", labels(method="RunPodSandbox", code="INVALID_ARGUMENT")] == 1
    assert found["ocishim_cni_seconds_count", labels(plugin="bridge", verb="DEL", result="failed")] == 1
    assert found["ocishim_image_pull_bytes_total", labels()] == 4096
    assert found["ocishim_image_pull_seconds_sum", labels(result="ok")] == 1.5
    assert found["ocishim_recovery_findings_total", labels(kind="container-changed")] == 1
    assert found["ocishim_sessions", labels(kind="exec")] == 2
    assert found["ocishim_sessions", labels(kind="attach")] == 0
    assert found["process_open_fds", labels()] > 0


async def test_a_loop_that_is_held_up_is_seen_to_lag() -> None:
    meter = PrometheusMeter()
    async with served(meter, "127.0.0.1:0") as port:
        await asyncio.sleep(0.1)
        blocking = asyncio.get_running_loop().time() + 0.5
        while asyncio.get_running_loop().time() < blocking:
            pass
        await asyncio.sleep(0.05)
        _, found = await scraped(port)
    assert found["ocishim_event_loop_lag_seconds_sum", labels()] >= 0.25


@pytest.mark.parametrize("path", ["/", "/metrics/x", "/../etc/passwd", "/debug"])
async def test_there_is_nothing_else_to_see(path: str) -> None:
    async with served(PrometheusMeter(), "127.0.0.1:0") as port:
        assert (await scraped(port, path))[0] == 404


async def test_garbage_is_refused_and_the_next_is_served() -> None:
    async with served(PrometheusMeter(), "127.0.0.1:0") as port:
        for garbage in (
            b"\x00\xff\r\n\r\n",
            b"GET /metrics HTTP/9\r\n\r\n",
            b"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(garbage)
            assert (await reader.readline()).split()[1:2] in ([b"400"], [b"405"])
            writer.close()
            await writer.wait_closed()
        assert (await scraped(port))[0] == 200


async def test_an_address_in_use_is_said_by_the_key_that_chose_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(FailedPrecondition, match=rf"metrics.address: cannot listen on {address}"):
            async with served(PrometheusMeter(), address):
                pass


async def test_a_port_that_is_none_is_said_too() -> None:
    with pytest.raises(FailedPrecondition, match=r"metrics.address: cannot listen on 127.0.0.1:99999"):
        async with served(PrometheusMeter(), "127.0.0.1:99999"):
            pass


def test_a_server_without_metrics_is_told_the_same_and_counts_nothing() -> None:
    meter = Meter()
    meter.rpc("Version", "OK", 0.1)
    meter.cni("bridge", "ADD", 0.1, failed=False)
    meter.pull(1, 0.1, failed=True)
    meter.finding("x")
    meter.watch("x", "X.", "kind", dict)
