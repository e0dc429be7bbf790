"""CreateContainer: a root filesystem and a bundle. No process yet: the runtime is called by StartContainer.

So a command that cannot be executed fails StartContainer, as kubelet expects, a created container costs no
memory, and one that a crash left half made has nothing running.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from typing import TYPE_CHECKING, Final

import betterproto

from ocishim.api.runtime import v1
from ocishim.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from ocishim.lifecycle import container_facts as facts_of
from ocishim.lifecycle import pod_cgroup
from ocishim.lifecycle.container import Container, ContainerName
from ocishim.lifecycle.container_mounts import image_volumes, mount_all, shift_of, sources
from ocishim.lifecycle.container_remove import release_container
from ocishim.lifecycle.jobs import step
from ocishim.lifecycle.restore import checkpoint_of
from ocishim.linux import files
from ocishim.model import ContainerId, ContainerMetadata, ContainerStatus, ImageVolume, ResolvedUser
from ocishim.translate import process, userns
from ocishim.translate.container import container_spec
from ocishim.translate.facts import ContainerInputs, ImageFacts, SandboxFacts
from ocishim.translate.identity import resolve_identity
from ocishim.translate.resource_checks import check_on_host
from ocishim.translate.validate import validate_container

if TYPE_CHECKING:
    from ocishim.images.store import ImageRecord
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.spec.runtime import RuntimeSpec

_PASSWD_LIMIT: Final = 16 << 20


async def create_container(node: Node, sandbox: Sandbox, config: v1.ContainerConfig) -> ContainerId:
    """Make a container, or find the one that this very request has made or is making.

    Raises InvalidArgument before anything is made, NotFound for its image, FailedPrecondition in a pod that is
    not ready, AlreadyExists where the name belongs to another request.
    """
    validate_container(config, sandbox.config)
    facts_of.check_runtime(node.runtimes.choose(sandbox.metadata.runtime), config)
    check_on_host("config.linux.resources", config.linux.resources, node.host)
    name = ContainerName(sandbox.id, config.metadata.name, config.metadata.attempt)
    made = node.containers.named(name)
    if made is not None:
        if made.config == config:
            return made.metadata.id
        raise AlreadyExists(f"container {name}: {made.id} has that name and was made by a different request")
    return await node.jobs.run(
        ("create-container", name), f"CreateContainer {name}", config, lambda: _create(node, sandbox, config)
    )


async def _create(node: Node, sandbox: Sandbox, config: v1.ContainerConfig) -> ContainerId:
    checkpoint = await checkpoint_of(node, config.image.image)
    inside = config
    if checkpoint is not None:
        inside = checkpoint.config(config)
        validate_container(inside, sandbox.config)
    with sandbox.makings.one():
        if not sandbox.is_ready:
            raise FailedPrecondition(
                f"{sandbox.title} ({sandbox.id[:13]}) is not ready: no container can be made in it"
            )
        image = checkpoint.image if checkpoint else node.images.find(config.image.image)
        if image is None:
            raise NotFound(f"container {config.metadata.name}: image {config.image.image!r} is not here; pull it first")
        metadata = _metadata(sandbox, config, image, image_volumes(node, config))
        if checkpoint is not None:
            metadata = metadata.model_copy(update={"restored": True})
            node.images.hold(metadata.id, checkpoint.holds)
        node.images.hold(metadata.id, metadata.layers)
        container = Container(metadata, ContainerStatus(), node.container_records)
        try:
            with step("write the record"):
                await node.container_records.create(container.id, metadata, container.status)
            with step("mount the root filesystem"):
                await mount_all(node, container, shift_of(node, sandbox))
            if checkpoint is not None:
                with step("lay out the checkpoint"):
                    await checkpoint.lay_out(node, container, userns.of_pod(sandbox.config))
            with step("make the bundle"):
                made = await asyncio.to_thread(_make, node, sandbox, container, image, inside)
            if checkpoint is not None:
                checkpoint.check_mounts(made)
            with step("record that it is created"):
                await container.update(ContainerStatus(created_at=metadata.created_at, user=_user(made)))
            node.containers.add(container)
        except BaseException:
            await release_container(node, container)
            raise
        return metadata.id


def _metadata(
    sandbox: Sandbox, config: v1.ContainerConfig, image: ImageRecord, volumes: tuple[ImageVolume, ...]
) -> ContainerMetadata:
    container_id = ContainerId(secrets.token_hex(32))
    log_path = f"{sandbox.config.log_directory}/{config.log_path}" if config.log_path else ""
    return ContainerMetadata(
        id=container_id,
        sandbox_id=sandbox.metadata.id,
        name=config.metadata.name,
        attempt=config.metadata.attempt,
        created_at=time.time_ns(),
        boot_id=sandbox.metadata.boot_id,
        runtime=sandbox.metadata.runtime,
        image_id=image.id,
        diff_ids=image.diff_ids,
        user_specified_image=config.image.user_specified_image or config.image.image,
        image_ref=image.id,
        log_path=os.path.normpath(log_path) if log_path else "",
        cgroup=pod_cgroup.container_cgroup(sandbox.metadata, container_id),
        stop_signal=process.stop_signal(config, image_facts(image)),
        tty=config.tty,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        config=bytes(config),
        volumes=volumes,
    )


def image_facts(image: ImageRecord) -> ImageFacts:
    """The image's defaults, as translation takes them."""
    defaults = image.config.config
    return ImageFacts(
        user=defaults.user,
        env=tuple(defaults.env),
        entrypoint=tuple(defaults.entrypoint),
        cmd=tuple(defaults.cmd),
        working_dir=defaults.working_dir,
        stop_signal=defaults.stop_signal,
    )


def _make(
    node: Node, sandbox: Sandbox, container: Container, image: ImageRecord, config: v1.ContainerConfig
) -> RuntimeSpec:
    """Everything else that touches the disk, in one thread: some ten system calls and two small files."""
    metadata = container.metadata
    paths = node.layout.container(metadata.id)
    facts = image_facts(image)
    identity = resolve_identity(
        config.linux.security_context,
        facts.user,
        files.read_beneath(paths.rootfs, "/etc/passwd", limit=_PASSWD_LIMIT) or b"",
        files.read_beneath(paths.rootfs, "/etc/group", limit=_PASSWD_LIMIT) or b"",
    )
    mappings = userns.of_pod(sandbox.config)
    userns.check_identity(identity, mappings)
    owner = (mappings.uid(0), mappings.gid(0)) if mappings else (0, 0)
    files.make_directory_beneath(paths.rootfs, process.working_directory(config, facts), owner)
    facts_of.set_timezone(node, config, paths.rootfs)
    runtime = node.runtime_of(container)
    inputs = ContainerInputs(
        id=metadata.id,
        config=config,
        sandbox=_sandbox_facts(node, sandbox),
        image=facts,
        image_name=config.image.image,
        identity=identity,
        host=node.host,
        rootfs=paths.rootfs,
        cgroup=pod_cgroup.runtime_path(sandbox.metadata, metadata.id),
        pids_limit=node.settings.containers.pids_limit,
        mounts=tuple(sources(paths, config, shift_of(node, sandbox))),
        target_pid_namespace=_target_pid_namespace(node, sandbox, config),
    )
    inputs = facts_of.completed(node, sandbox, runtime, inputs)
    made = facts_of.with_hooks(node, runtime, sandbox, config, container_spec(inputs))
    files.write_atomic(paths.spec, made.to_json(), durable=False)
    if metadata.log_path:
        os.makedirs(os.path.dirname(metadata.log_path), 0o755, exist_ok=True)
    return made


def _user(made: RuntimeSpec) -> ResolvedUser:
    user = made.process.user
    return ResolvedUser(uid=user.uid, gid=user.gid, additional_gids=tuple(user.additional_gids or ()))


def _sandbox_facts(node: Node, sandbox: Sandbox) -> SandboxFacts:
    metadata = sandbox.metadata
    paths = node.layout.sandbox(metadata.id)
    namespaces = {kind: f"{paths.namespaces}/{kind}" for kind in metadata.namespaces}
    if sandbox.status.pause is not None and metadata.shared_pid:
        namespaces["pid"] = f"/proc/{sandbox.status.pause.pid}/ns/pid"
    return SandboxFacts(
        id=metadata.id,
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        hostname=metadata.hostname,
        namespaces=namespaces,
        resolv_conf=paths.resolv_conf,
        hostname_file=paths.hostname,
        shm=paths.shm if "ipc" in metadata.namespaces else "/dev/shm",  # noqa: S108 - the host's IPC includes its shm
        host_mqueue=os.path.isdir("/dev/mqueue"),
        mappings=userns.of_pod(sandbox.config),
    )


def _target_pid_namespace(node: Node, sandbox: Sandbox, config: v1.ContainerConfig) -> str | None:
    options = config.linux.security_context.namespace_options
    if options.pid != v1.NamespaceMode.TARGET or not betterproto.serialized_on_wire(options):
        return None
    target = node.containers.find(options.target_id)
    if target is None or target.metadata.sandbox_id != sandbox.id or target.process is None:
        raise InvalidArgument(
            "config.linux.security_context.namespace_options.target_id: "
            f"{options.target_id!r} is no running container of {sandbox.title}"
        )
    return f"/proc/{target.process.pid}/ns/pid"
