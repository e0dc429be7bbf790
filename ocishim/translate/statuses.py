"""Records in the CRI's words: list entries and statuses."""

from __future__ import annotations

import dataclasses
import signal
from typing import TYPE_CHECKING

from ocishim.api.runtime import v1

if TYPE_CHECKING:
    from ocishim.model import ContainerMetadata, ContainerStatus, SandboxMetadata, SandboxStatus


def sandbox_state(status: SandboxStatus) -> v1.PodSandboxState:
    """SANDBOX_READY from RunPodSandbox to StopPodSandbox."""
    state = v1.PodSandboxState.SANDBOX_READY if status.is_ready else v1.PodSandboxState.SANDBOX_NOTREADY
    return v1.PodSandboxState(state)


def container_state(status: ContainerStatus) -> v1.ContainerState:
    """The state that the timestamps tell."""
    if status.has_exited:
        return v1.ContainerState(v1.ContainerState.CONTAINER_EXITED)
    if status.is_running:
        return v1.ContainerState(v1.ContainerState.CONTAINER_RUNNING)
    return v1.ContainerState(v1.ContainerState.CONTAINER_CREATED)


def container_resources(status: ContainerStatus, config: v1.ContainerConfig) -> v1.LinuxContainerResources:
    """A container's limits: as it was made, or as they were changed last."""
    if status.resources is None:
        return config.linux.resources
    return v1.LinuxContainerResources().parse(status.resources)


def sandbox_resources(
    status: SandboxStatus, config: v1.PodSandboxConfig
) -> tuple[v1.LinuxContainerResources, v1.LinuxContainerResources]:
    """The sum of a pod's containers, and its overhead: as it was made, or as they were changed last."""
    if status.resources is None or status.overhead is None:
        return config.linux.resources, config.linux.overhead
    return (
        v1.LinuxContainerResources().parse(status.resources),
        v1.LinuxContainerResources().parse(status.overhead),
    )


def _sandbox_metadata(metadata: SandboxMetadata) -> v1.PodSandboxMetadata:
    return v1.PodSandboxMetadata(
        name=metadata.name, namespace=metadata.namespace, uid=metadata.uid, attempt=metadata.attempt
    )


def sandbox_entry(metadata: SandboxMetadata, status: SandboxStatus, config: v1.PodSandboxConfig) -> v1.PodSandbox:
    """What ListPodSandbox shows."""
    return v1.PodSandbox(
        id=metadata.id,
        metadata=_sandbox_metadata(metadata),
        state=sandbox_state(status),
        created_at=metadata.created_at,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=metadata.runtime_handler,
    )


def sandbox_status(
    metadata: SandboxMetadata, status: SandboxStatus, config: v1.PodSandboxConfig
) -> v1.PodSandboxStatus:
    """What PodSandboxStatus shows; `network` is absent where the pod has none of its own, or no more."""
    answer = v1.PodSandboxStatus(
        id=metadata.id,
        metadata=_sandbox_metadata(metadata),
        state=sandbox_state(status),
        created_at=metadata.created_at,
        linux=v1.LinuxPodSandboxStatus(
            namespaces=v1.Namespace(options=config.linux.security_context.namespace_options)
        ),
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=metadata.runtime_handler,
    )
    if status.ips and not status.stopped_at:
        answer.network = v1.PodSandboxNetworkStatus(
            ip=status.ips[0], additional_ips=[v1.PodIp(ip=ip) for ip in status.ips[1:]]
        )
    return answer


def _image_spec(metadata: ContainerMetadata, config: v1.ContainerConfig) -> v1.ImageSpec:
    """The image as the user wrote it; never empty, also when the image is gone."""
    return v1.ImageSpec(
        image=metadata.user_specified_image,
        annotations=config.image.annotations,
        user_specified_image=config.image.user_specified_image,
        runtime_handler=config.image.runtime_handler,
    )


def container_entry(metadata: ContainerMetadata, status: ContainerStatus, config: v1.ContainerConfig) -> v1.Container:
    """What ListContainers shows."""
    return v1.Container(
        id=metadata.id,
        pod_sandbox_id=metadata.sandbox_id,
        metadata=v1.ContainerMetadata(name=metadata.name, attempt=metadata.attempt),
        image=_image_spec(metadata, config),
        image_ref=metadata.image_ref,
        state=container_state(status),
        created_at=metadata.created_at,
        labels=config.labels,
        annotations=config.annotations,
        image_id=metadata.image_id,
    )


def _mounts(metadata: ContainerMetadata, config: v1.ContainerConfig) -> list[v1.Mount]:
    """The request's mounts; those of image volumes say by digest what was mounted."""
    references = {volume.container_path: volume.image_ref for volume in metadata.volumes}
    mounts = []
    for asked in config.mounts:
        shown = asked
        if asked.image.image:
            image = dataclasses.replace(asked.image, image_ref=references.get(asked.container_path, ""))
            shown = dataclasses.replace(asked, image=image)
        mounts.append(shown)
    return mounts


def container_status(
    metadata: ContainerMetadata, status: ContainerStatus, config: v1.ContainerConfig
) -> v1.ContainerStatus:
    """What ContainerStatus shows."""
    answer = v1.ContainerStatus(
        id=metadata.id,
        metadata=v1.ContainerMetadata(name=metadata.name, attempt=metadata.attempt),
        state=container_state(status),
        created_at=metadata.created_at,
        started_at=status.started_at,
        finished_at=status.finished_at,
        exit_code=status.exit_code,
        image=_image_spec(metadata, config),
        image_ref=metadata.image_ref,
        reason=status.reason,
        message=status.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=_mounts(metadata, config),
        log_path=metadata.log_path,
        resources=v1.ContainerResources(linux=container_resources(status, config)),
        image_id=metadata.image_id,
        stop_signal=signal_name(metadata.stop_signal),
    )
    if status.user is not None:
        answer.user = v1.ContainerUser(
            linux=v1.LinuxContainerUser(
                uid=status.user.uid,
                gid=status.user.gid,
                supplemental_groups=list(status.user.additional_gids),
            )
        )
    return answer


_RTMIN, _RTMAX = 34, 64
_HALFWAY = 49


def signal_name(number: int) -> v1.Signal:
    """The CRI's name of a signal's number."""
    if _RTMIN <= number <= _RTMAX:
        if number in (_RTMIN, _RTMAX):
            name = "RTMIN" if number == _RTMIN else "RTMAX"
        elif number <= _HALFWAY:
            name = f"RTMINPLUS{number - _RTMIN}"
        else:
            name = f"RTMAXMINUS{_RTMAX - number}"
        return v1.Signal.from_string(f"SIG{name}")
    try:
        return v1.Signal.from_string(signal.Signals(number).name)
    except ValueError:
        return v1.Signal(v1.Signal.RUNTIME_DEFAULT)
