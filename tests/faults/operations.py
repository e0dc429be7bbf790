"""The operations, as kubelet does them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import grpc
from cri_api.v1 import api_pb2 as pb

from faults.stage import Operation
from ocishim.api.ocishim import v1 as own

if TYPE_CHECKING:
    from faults.stage import Stage, State

SLEEPER = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"]


def _nothing(stage: Stage, state: State) -> None:
    """Nothing need be there."""


def _name_a_pod(stage: Stage, state: State) -> None:
    state["name"] = f"p{secrets.token_hex(4)}"


def _a_pod(stage: Stage, state: State) -> None:
    _name_a_pod(stage, state)
    state["pod"] = stage.pods.run(stage.pods.config(state["name"]))


def _a_created_container(stage: Stage, state: State) -> None:
    _a_pod(stage, state)
    state["attempt"] = "0"
    _create(stage, state)


def _a_running_container(stage: Stage, state: State) -> None:
    _a_created_container(stage, state)
    stage.node.runtime.StartContainer(pb.StartContainerRequest(container_id=state["container"]))


def _run_with_a_host_port(stage: Stage, state: State) -> None:
    ports = [pb.PortMapping(protocol=pb.TCP, container_port=80, host_port=stage.port)]
    _run(stage, state, stage.pods.config(state["name"], port_mappings=ports))


def _run_with_a_shared_pid_namespace(stage: Stage, state: State) -> None:
    options = pb.NamespaceOption(pid=pb.POD)
    context = pb.LinuxSandboxSecurityContext(namespace_options=options)
    _run(stage, state, stage.pods.config(state["name"], linux=pb.LinuxPodSandboxConfig(security_context=context)))


def _run(stage: Stage, state: State, config: pb.PodSandboxConfig) -> None:
    request = pb.RunPodSandboxRequest(config=config)
    state["pod"] = stage.node.runtime.RunPodSandbox(request, timeout=stage.timeout).pod_sandbox_id


def _the_pod_is_ready_and_the_only_one(stage: Stage, state: State) -> None:
    answer = stage.node.runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=state["pod"]))
    assert answer.status.state == pb.SANDBOX_READY
    assert answer.status.network.ip
    assert [pod.id for pod in stage.node.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items] == [state["pod"]]


def _create(stage: Stage, state: State) -> None:
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c", attempt=int(state.setdefault("attempt", "0"))),
        image=pb.ImageSpec(image="busybox"),
        command=SLEEPER,
        log_path="c.log",
    )
    request = pb.CreateContainerRequest(pod_sandbox_id=state["pod"], config=config)
    state["container"] = stage.node.runtime.CreateContainer(request, timeout=stage.timeout).container_id


def _the_container_is_created_and_the_only_one(stage: Stage, state: State) -> None:
    listed = stage.node.runtime.ListContainers(pb.ListContainersRequest()).containers
    assert [(each.id, each.state) for each in listed] == [(state["container"], pb.CONTAINER_CREATED)]


def _start(stage: Stage, state: State) -> None:
    """As kubelet: one that is found running has been started; for one that has failed the next attempt is made."""
    try:
        stage.node.runtime.StartContainer(
            pb.StartContainerRequest(container_id=state["container"]), timeout=stage.timeout
        )
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
            raise
        if stage.pods.status(state["container"]).state == pb.CONTAINER_EXITED:
            state["attempt"] = str(int(state["attempt"]) + 1)
            _create(stage, state)
            raise


def _the_container_runs(stage: Stage, state: State) -> None:
    status = stage.pods.status(state["container"])
    assert status.state == pb.CONTAINER_RUNNING
    assert status.created_at <= status.started_at
    assert stage.pods.exec(state["container"], "echo", "alive").stdout == b"alive\n"


def _stop(stage: Stage, state: State) -> None:
    request = pb.StopContainerRequest(container_id=state["container"], timeout=5)
    stage.node.runtime.StopContainer(request, timeout=stage.timeout)


def _the_container_has_ended(stage: Stage, state: State) -> None:
    status = stage.pods.status(state["container"])
    assert status.state == pb.CONTAINER_EXITED
    assert status.exit_code in (0, 137)
    assert status.started_at <= status.finished_at


def _remove(stage: Stage, state: State) -> None:
    request = pb.RemoveContainerRequest(container_id=state["container"])
    stage.node.runtime.RemoveContainer(request, timeout=stage.timeout)


def _there_is_no_container(stage: Stage, state: State) -> None:
    assert not stage.node.runtime.ListContainers(pb.ListContainersRequest()).containers


def _stop_the_pod(stage: Stage, state: State) -> None:
    request = pb.StopPodSandboxRequest(pod_sandbox_id=state["pod"])
    stage.node.runtime.StopPodSandbox(request, timeout=stage.timeout)


def _the_pod_is_stopped(stage: Stage, state: State) -> None:
    answer = stage.node.runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=state["pod"]))
    assert answer.status.state == pb.SANDBOX_NOTREADY
    _the_container_has_ended(stage, state)


def _remove_the_pod(stage: Stage, state: State) -> None:
    request = pb.RemovePodSandboxRequest(pod_sandbox_id=state["pod"])
    stage.node.runtime.RemovePodSandbox(request, timeout=stage.timeout)


def _there_is_no_pod(stage: Stage, state: State) -> None:
    assert not stage.node.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items
    _there_is_no_container(stage, state)


def _exec(stage: Stage, state: State) -> None:
    request = pb.ExecSyncRequest(container_id=state["container"], cmd=["echo", "alive"])
    assert stage.node.runtime.ExecSync(request, timeout=stage.timeout).stdout == b"alive\n"


def image_operations(reference: str) -> tuple[Operation, Operation]:
    """Of an image in a registry."""
    image = pb.ImageSpec(image=reference)

    def pull(stage: Stage, state: State) -> None:
        stage.node.images.PullImage(pb.PullImageRequest(image=image), timeout=stage.timeout)

    def remove(stage: Stage, state: State) -> None:
        stage.node.images.RemoveImage(pb.RemoveImageRequest(image=image), timeout=stage.timeout)

    def the_image_is_whole(stage: Stage, state: State) -> None:
        assert stage.node.images.ImageStatus(pb.ImageStatusRequest(image=image)).image.id
        assert stage.node.channel is not None
        verdicts = stage.node.channel.unary_stream("/ocishim.v1.Images/Verify")(bytes(own.VerifyRequest()))
        found = [own.Verdict().parse(each) for each in verdicts]
        assert len(found) > 2
        assert [each.problem for each in found if each.problem] == []
        remove(stage, state)
        the_image_is_gone(stage, state)

    def the_image_is_gone(stage: Stage, state: State) -> None:
        assert not stage.node.images.ImageStatus(pb.ImageStatusRequest(image=image)).image.id
        layers = {path.name for path in (stage.node.root / "images/layers").iterdir()}
        assert len(layers) == 1, "only the layer of the image that every test uses may be there"

    return (
        Operation("PullImage", _nothing, pull, the_image_is_whole),
        Operation("RemoveImage", pull, remove, the_image_is_gone),
    )


OPERATIONS = (
    Operation("RunPodSandbox, host port", _name_a_pod, _run_with_a_host_port, _the_pod_is_ready_and_the_only_one),
    Operation(
        "RunPodSandbox, shared PID", _name_a_pod, _run_with_a_shared_pid_namespace, _the_pod_is_ready_and_the_only_one
    ),
    Operation("CreateContainer", _a_pod, _create, _the_container_is_created_and_the_only_one),
    Operation("StartContainer", _a_created_container, _start, _the_container_runs),
    Operation("ExecSync", _a_running_container, _exec, _the_container_runs),
    Operation("StopContainer", _a_running_container, _stop, _the_container_has_ended),
    Operation("RemoveContainer", _a_running_container, _remove, _there_is_no_container),
    Operation("StopPodSandbox", _a_running_container, _stop_the_pod, _the_pod_is_stopped),
    Operation("RemovePodSandbox", _a_running_container, _remove_the_pod, _there_is_no_pod),
)
