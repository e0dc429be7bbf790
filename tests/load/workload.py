"""A node at work: pods that come and go, probes, relists and logs, and a record of what it costs the server.

Used by a short test of the suite and by a long run by hand (soak.py).
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from cri_api.v1 import api_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rpc.node import Node, Pods

PROBE_MAY_MEET = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)
"""Answers that are right where the container is just being stopped."""
WRITER = "trap 'exit 0' TERM; while :; do head -c {chunk} /dev/zero | tr '\\0' x; echo; sleep 0.1; done"
SLEEPER = "trap 'exit 0' TERM; while :; do sleep 0.2; done"
DEADLINE = 120.0
"""Seconds that kubelet gives nearly every call."""
_LINES_A_SECOND = 10
_RSS = 1
"""The field of /proc/PID/statm."""


@dataclass(frozen=True)
class Sample:
    """The server at one moment."""

    at: float
    """Seconds since the beginning."""
    rss: int
    """Bytes."""
    descriptors: int
    running: int
    """Containers."""


@dataclass
class Workload:
    """What goes on, and what was seen of it."""

    node: Node
    pods: Pods
    together: int = 16
    """Pods that are made or ended at a time."""
    log_bytes: int = 0
    """That all containers together write in a second."""
    failures: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    latencies: defaultdict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    """Of each RPC: when it began, and what it took, in seconds."""
    running: set[str] = field(default_factory=set)
    """Containers that were started and that nobody has begun to stop."""
    began: float = field(default_factory=time.monotonic)
    _over: threading.Event = field(default_factory=threading.Event)

    def call(self, rpc: str, request: object, *, may_meet: tuple[grpc.StatusCode, ...] = ()) -> object | None:
        """One RPC, timed; a failure is noted, not raised."""
        began = time.monotonic()
        try:
            answer: object = getattr(self.node.runtime, rpc)(request, timeout=DEADLINE)
        except grpc.RpcError as error:
            if error.code() not in may_meet:
                self.failures.append(f"{rpc}: {error.code().name}: {error.details()}")
            return None
        self.latencies[rpc].append((began - self.began, time.monotonic() - began))
        return answer

    def up(self, containers: int) -> str | None:
        """A pod with so many containers, all running; None where something failed."""
        config = self.pods.config()
        answer = self.call("RunPodSandbox", pb.RunPodSandboxRequest(config=config))
        if not isinstance(answer, pb.RunPodSandboxResponse):
            return None
        for number in range(containers):
            self._start(answer.pod_sandbox_id, number)
        return answer.pod_sandbox_id

    def _start(self, pod: str, number: int) -> None:
        chunk = self.log_bytes // _LINES_A_SECOND
        script = WRITER.format(chunk=chunk) if chunk and not number else SLEEPER
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=f"c{number}"),
            image=pb.ImageSpec(image="busybox"),
            command=["sh", "-c", script],
            log_path=f"{secrets.token_hex(4)}.log",
        )
        answer = self.call("CreateContainer", pb.CreateContainerRequest(pod_sandbox_id=pod, config=config))
        if not isinstance(answer, pb.CreateContainerResponse):
            return
        if self.call("StartContainer", pb.StartContainerRequest(container_id=answer.container_id)) is not None:
            self.running.add(answer.container_id)

    def down(self, pod: str) -> None:
        """End a pod as kubelet does: its containers, itself, and then what is left of it."""
        request = pb.ListContainersRequest(filter=pb.ContainerFilter(pod_sandbox_id=pod))
        answer = self.call("ListContainers", request)
        containers = [each.id for each in answer.containers] if isinstance(answer, pb.ListContainersResponse) else []
        self.running.difference_update(containers)
        for container in containers:
            self.call("StopContainer", pb.StopContainerRequest(container_id=container, timeout=10))
        self.call("StopPodSandbox", pb.StopPodSandboxRequest(pod_sandbox_id=pod))
        for container in containers:
            self.call("RemoveContainer", pb.RemoveContainerRequest(container_id=container))
        self.call("RemovePodSandbox", pb.RemovePodSandboxRequest(pod_sandbox_id=pod))

    @contextmanager
    def observed(self, *, probes: float, relists: float) -> Iterator[None]:
        """Probe, relist and take samples for the time of the block; rates are in calls a second."""
        loops = (
            threading.Thread(target=self._every, args=(1 / probes, self._probe)),
            threading.Thread(target=self._every, args=(1 / relists, self._relist)),
            threading.Thread(target=self._every, args=(0.5, self._sample)),
            threading.Thread(target=self._every, args=(0.1, self._version)),
        )
        for loop in loops:
            loop.start()
        try:
            yield
        finally:
            self._over.set()
            for loop in loops:
                loop.join()

    def _every(self, seconds: float, act: Callable[[], None]) -> None:
        while not self._over.wait(seconds):
            act()

    def _probe(self) -> None:
        candidates = list(self.running)
        if candidates:
            request = pb.ExecSyncRequest(container_id=random.choice(candidates), cmd=["true"], timeout=30)
            self.call("ExecSync", request, may_meet=PROBE_MAY_MEET)

    def _relist(self) -> None:
        self.call("ListPodSandbox", pb.ListPodSandboxRequest())
        self.call("ListContainers", pb.ListContainersRequest())

    def _version(self) -> None:
        """Does nothing in the server: how long it takes is how long the event loop had something else to do."""
        self.call("Version", pb.VersionRequest())

    def _sample(self) -> None:
        assert self.node.process is not None
        self.samples.append(sample(self.node.process.pid, time.monotonic() - self.began, len(self.running)))

    def percentile(self, rpc: str, share: float) -> float:
        """Seconds that so large a share of the calls stayed within; 0 where there were none."""
        times = sorted(seconds for _, seconds in self.latencies[rpc])
        return times[min(int(len(times) * share), len(times) - 1)] if times else 0.0


def sample(pid: int, at: float, running: int) -> Sample:
    """Look at a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[_RSS])
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(at, pages * os.sysconf("SC_PAGE_SIZE"), descriptors, running)
