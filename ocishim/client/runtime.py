"""Calls about pods and containers, as any CRI server has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ocishim.api.runtime import v1

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

QUICK: Final = 10.0
"""Seconds that a call which only reads may take."""
PATIENT: Final = 120.0
"""Seconds for a call that changes something, as kubelet allows them."""


class Runtime:
    """What can be asked about pods and containers; `translated` gives failures their names.

    The word for what a call is about begins the message of its failure.
    """

    def __init__(
        self, service: v1.RuntimeServiceStub, translated: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        self._service = service
        self._translated = translated

    async def version(self) -> v1.VersionResponse:
        """Whom we talk to."""
        with self._translated("the version"):
            return await self._service.version(v1.VersionRequest(), timeout=QUICK)

    async def containers(self) -> Sequence[v1.Container]:
        """All containers."""
        with self._translated("the containers"):
            return (await self._service.list_containers(v1.ListContainersRequest(), timeout=QUICK)).containers

    async def pods(self) -> Sequence[v1.PodSandbox]:
        """All pods."""
        with self._translated("the pods"):
            return (await self._service.list_pod_sandbox(v1.ListPodSandboxRequest(), timeout=QUICK)).items

    async def container_status(self, container_id: str, what: str) -> v1.ContainerStatusResponse:
        """A container with all that is known of it."""
        with self._translated(what):
            request = v1.ContainerStatusRequest(container_id=container_id, verbose=True)
            return await self._service.container_status(request, timeout=QUICK)

    async def pod_status(self, pod_id: str, what: str) -> v1.PodSandboxStatusResponse:
        """A pod with all that is known of it."""
        with self._translated(what):
            request = v1.PodSandboxStatusRequest(pod_sandbox_id=pod_id, verbose=True)
            return await self._service.pod_sandbox_status(request, timeout=QUICK)

    async def stop_container(self, container_id: str, what: str, grace: int) -> None:
        """Stop a container, killing what is left of it after so many seconds."""
        with self._translated(what):
            request = v1.StopContainerRequest(container_id=container_id, timeout=grace)
            await self._service.stop_container(request, timeout=grace + PATIENT)

    async def remove_container(self, container_id: str, what: str) -> None:
        """Remove a container; its log stays."""
        with self._translated(what):
            await self._service.remove_container(v1.RemoveContainerRequest(container_id=container_id), timeout=PATIENT)

    async def stop_pod(self, pod_id: str, what: str) -> None:
        """Stop a pod with its containers."""
        with self._translated(what):
            await self._service.stop_pod_sandbox(v1.StopPodSandboxRequest(pod_sandbox_id=pod_id), timeout=PATIENT)

    async def remove_pod(self, pod_id: str, what: str) -> None:
        """Remove a pod with its containers."""
        with self._translated(what):
            await self._service.remove_pod_sandbox(v1.RemovePodSandboxRequest(pod_sandbox_id=pod_id), timeout=PATIENT)

    async def exec_url(self, request: v1.ExecRequest, what: str) -> str:
        """Where the session of a command is to be had, once and soon."""
        with self._translated(what):
            return (await self._service.exec(request, timeout=PATIENT)).url

    async def attach_url(self, request: v1.AttachRequest, what: str) -> str:
        """Where the session with a container's own process is to be had, once and soon."""
        with self._translated(what):
            return (await self._service.attach(request, timeout=PATIENT)).url

    async def forward_url(self, request: v1.PortForwardRequest, what: str) -> str:
        """Where a connection into a pod is to be had, once and soon."""
        with self._translated(what):
            return (await self._service.port_forward(request, timeout=PATIENT)).url
