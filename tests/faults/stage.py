"""A server with a watched seam, and what one fault in one operation must come to."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from cri_api.v1 import api_pb2 as pb
from rpc import leaks
from rpc.node import Node, Pods

from faults.plan import Plan

if TYPE_CHECKING:
    from faults.plan import Fault

TESTS = Path(__file__).resolve().parents[1]
PATIENCE = 30.0
"""Seconds that kubelet waits, and then some less: a test that hangs should say so soon."""
STALL = 0.8
GIVES_UP = 0.3
"""Seconds after which a client goes away from a call that stalls; it comes back at once."""
TRIES = 5


class WatchedNode(Node):
    """A server whose effects a plan can hold, fail, or make its last."""

    def __init__(self, runtime: str) -> None:
        super().__init__(runtime)
        self.plan = self.scratch / "plan.json"
        self.seen = self.scratch / "seen"
        self.checked = 0

    def command(self) -> list[str]:
        """The server's, with the watcher around it."""
        return [sys.executable, "-m", "faults.serve", str(self.scratch), "serve", "--config", str(self.config)]

    def environment(self) -> dict[str, str]:
        """Where the watcher's modules are."""
        return super().environment() | {"PYTHONPATH": str(TESTS)}

    def arm(self, plan: Plan) -> None:
        """From now on."""
        self.seen.unlink(missing_ok=True)
        plan.write(self.plan)

    def disarm(self) -> list[str]:
        """No more; returns the points that were passed."""
        self.plan.unlink(missing_ok=True)
        return self.seen.read_text().splitlines() if self.seen.exists() else []

    def has_died(self, *, within: float = 0.0) -> bool:
        """Whether the server has ended."""
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(within)
        return self.process.poll() is not None

    def new_log(self) -> str:
        """What it logged since this was last asked."""
        text = (self.scratch / "server.log").read_text()
        new, self.checked = text[self.checked :], len(text)
        return new


State = dict[str, str]
Step = Callable[["Stage", State], None]


@dataclass(frozen=True)
class Operation:
    """An RPC as kubelet uses it: what is there before, the call, and what must be true once it has succeeded."""

    name: str
    prepare: Step
    call: Step
    settled: Step


@dataclass
class Stage:
    """A node and what tests make on it."""

    node: WatchedNode
    pods: Pods
    port: int
    """Of the host, for this stage alone."""
    timeout: float = PATIENCE
    before: dict[str, set[str]] = field(default_factory=dict)

    def points(self, operation: Operation) -> list[str]:
        """All effects of the operation, by doing it once without a fault."""
        state = self._begin(operation)
        self.node.arm(Plan())
        operation.call(self, state)
        points = self.node.disarm()
        operation.settled(self, state)
        self._end(operation.name)
        return points

    def play(self, operation: Operation, point: str, fault: Fault) -> None:
        """One fault: the call, a restart if the server has died, the retries, and then nothing may be left."""
        state = self._begin(operation)
        self.node.arm(Plan(point, fault, STALL))
        self.timeout = GIVES_UP if fault == "stall" else PATIENCE
        with contextlib.suppress(grpc.RpcError):
            operation.call(self, state)
        self.timeout = PATIENCE
        self.node.disarm()
        if self.node.has_died(within=1.0 if fault == "kill" else 0.0):
            assert fault == "kill", f"the server has ended:\n{self.node.log()}"
            self.node.start()
        self._retry(operation, state)
        operation.settled(self, state)
        self._end(f"{operation.name}: {fault} at {point}")

    def _begin(self, operation: Operation) -> State:
        self.before = leaks.held(self.node)
        state: State = {}
        operation.prepare(self, state)
        return state

    def _retry(self, operation: Operation, state: State) -> None:
        for _ in range(TRIES - 1):
            try:
                operation.call(self, state)
            except grpc.RpcError:
                time.sleep(0.1)
            else:
                return
        operation.call(self, state)

    def _end(self, what: str) -> None:
        for pod in self.node.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items:
            self.node.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id))
        leaked = leaks.compare(self.node, self.before)
        assert not leaked, f"{what} left on the host:\n" + "\n".join(leaked)
        log = self.node.new_log()
        assert "a bug" not in log, f"{what}:\n{log}"
