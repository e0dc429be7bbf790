"""Hours of churn on one server, and a picture of what it did to it.

    sudo ./dev soak MINUTES [--pods N] [--plot FILE.png] [--output table|json]

Pods come and go at 16 at a time while there are probes, relists and logs. Exit code 1 where a call failed, something
was left on the host, or the server's memory or descriptors kept growing.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rpc import layouts, leaks
from rpc.node import Node, Pods

from load.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from load.workload import Sample

GROWTH = 0.15
"""How much more memory the last quarter may have than the second, when the caches are long full."""
MIB = 1 << 20


def churn(work: Workload, pods: int, until: float) -> None:
    """Keep about so many pods on the node, each replaced in its turn, and take all away at the end."""
    turns = threading.BoundedSemaphore(work.together)

    def one_place(_: int) -> None:
        while time.monotonic() < until:
            with turns:
                pod = work.up(2)
            time.sleep(random.uniform(0, 10))
            if pod is not None:
                with turns:
                    work.down(pod)

    with ThreadPoolExecutor(pods) as places:
        list(places.map(one_place, range(pods)))


def verdict(work: Workload, leaked: Sequence[str]) -> list[str]:
    """What is wrong, in words."""
    wrong = [f"{len(work.failures)} calls failed, the first: {work.failures[0]}"] if work.failures else []
    wrong += [f"left on the host: {item}" for item in leaked]
    quarter = len(work.samples) // 4
    if quarter:
        for name in ("rss", "descriptors"):
            early, late = (
                _middle(part, name) for part in (work.samples[quarter : 2 * quarter], work.samples[-quarter:])
            )
            if late > early * (1 + GROWTH):
                wrong.append(f"{name} grew from {early} to {late}")
    return wrong


def _middle(samples: Sequence[Sample], name: str) -> int:
    return int(statistics.median(getattr(each, name) for each in samples))


def plot(work: Workload, file: Path) -> None:
    """Memory, descriptors and latencies over time."""
    import matplotlib as mpl  # noqa: PLC0415 - only who wants a picture needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    figure, (memory, fds, times) = plt.subplots(3, 1, sharex=True, figsize=(10, 9), layout="constrained")
    at = [each.at / 60 for each in work.samples]
    memory.plot(at, [each.rss / MIB for each in work.samples])
    memory.set(ylabel="server's RSS, MiB", ylim=(0, None))
    fds.plot(at, [each.descriptors for each in work.samples], label="descriptors")
    fds.plot(at, [each.running for each in work.samples], label="running containers")
    fds.legend()
    fds.set(ylim=(0, None))
    for rpc in ("RunPodSandbox", "StartContainer", "ExecSync", "Version"):
        found = work.latencies[rpc]
        times.plot([began / 60 for began, _ in found], [took * 1000 for _, took in found], ".", markersize=2, label=rpc)
    times.legend()
    times.set(yscale="log", ylabel="latency, ms", xlabel="minutes")
    figure.savefig(file, dpi=110)


def main() -> int:
    """Run, report, and judge."""
    parser = argparse.ArgumentParser(description="a long run of one server under churn")
    parser.add_argument("minutes", type=float)
    parser.add_argument("--pods", type=int, default=40)
    parser.add_argument("--runtime", choices=("crun", "runc"), default="crun")
    parser.add_argument("--plot", type=Path, help="write a picture there")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    chosen = parser.parse_args()
    node = Node(chosen.runtime)
    with tempfile.TemporaryDirectory() as layout:
        layouts.write(Path(layout))
        try:
            node.prepare()
            node.config.write_text(node.config.read_text().replace('level = "debug"', 'level = "info"'))
            node.start()
            node.load(Path(layout))
            before = leaks.held(node)
            work = Workload(node, Pods(node), log_bytes=100_000)
            with work.observed(probes=20, relists=1):
                _churn_with_a_bar(work, chosen.pods, chosen.minutes * 60)
            wrong = verdict(work, leaks.compare(node, before))
        finally:
            node.clean()
    if chosen.plot:
        plot(work, chosen.plot)
    _report(work, wrong, chosen.output)
    return 1 if wrong else 0


def _churn_with_a_bar(work: Workload, pods: int, seconds: float) -> None:
    began = time.monotonic()
    churning = threading.Thread(target=churn, args=(work, pods, began + seconds))
    churning.start()
    console = Console(stderr=True)
    with Progress(TextColumn("soaking"), BarColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("soaking", total=seconds)
        while churning.is_alive():
            bar.update(task, completed=min(time.monotonic() - began, seconds))
            churning.join(1)


def _report(work: Workload, wrong: list[str], output: str) -> None:
    rows = {
        rpc: {"calls": len(found), "p50": work.percentile(rpc, 0.5), "p99": work.percentile(rpc, 0.99)}
        for rpc, found in sorted(work.latencies.items())
    }
    memory = [each.rss for each in work.samples]
    if output == "json":
        print(json.dumps({"rpcs": rows, "rss": memory, "wrong": wrong}))  # noqa: T201
        return
    print(f"{'':24}{'calls':>8}{'p50 ms':>10}{'p99 ms':>10}")  # noqa: T201
    for rpc, row in rows.items():
        print(f"{rpc:24}{row['calls']:8}{row['p50'] * 1000:10.1f}{row['p99'] * 1000:10.1f}")  # noqa: T201
    print(f"RSS {memory[0] / MIB:.0f} MiB at first, {max(memory) / MIB:.0f} at most, {memory[-1] / MIB:.0f} at last")  # noqa: T201
    for each in wrong:
        print(f"wrong: {each}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
