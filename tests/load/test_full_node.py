"""A full node of 110 pods with two containers each, twice up and down."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from rpc import leaks
from rpc.node import Pods

from load.workload import Workload, sample

if TYPE_CHECKING:
    from rpc.node import Node

PODS = 110
CONTAINERS = 2
ROUNDS = 2
GROWTH = 12 << 20
"""Bytes that the second time may keep more than the first: what Python's allocator does not give back."""


@pytest.mark.timeout(600)
def test_a_full_node_comes_and_goes_without_a_failed_call_and_without_growing(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    assert node.process is not None
    before, descriptors = leaks.held(node), leaks.descriptors(node)
    work = Workload(node, Pods(node), log_bytes=100_000)
    settled = []
    with work.observed(probes=20, relists=1), ThreadPoolExecutor(work.together) as clients:
        for _ in range(ROUNDS):
            pods = [pod for pod in clients.map(lambda _: work.up(CONTAINERS), range(PODS)) if pod]
            assert len(work.running) == PODS * CONTAINERS, "\n".join(work.failures[:10])
            list(clients.map(work.down, pods))
            settled.append(sample(node.process.pid, 0.0, 0).rss)
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{PODS} pods, {PODS * CONTAINERS} containers, {ROUNDS} times: RSS after each "
            f"{', '.join(f'{rss >> 20} MiB' for rss in settled)}; Version p99 "
            f"{work.percentile('Version', 0.99) * 1000:.0f} ms"
        )
    assert not work.failures, f"{len(work.failures)} calls failed:\n" + "\n".join(work.failures[:20])
    leaked = leaks.compare(node, before)
    assert not leaked, "left on the host:\n" + "\n".join(leaked)
    assert leaks.descriptors(node) <= descriptors + leaks.FEW
    assert settled[-1] - settled[0] < GROWTH
