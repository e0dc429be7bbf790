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
from ocishim.lifecycle.container import Container, ContainerName
from ocishim.lifecycle.container_mounts import image_volumes, mount_all, shift_of, sources
from ocishim.lifecycle.container_remove import release_container
from ocishim.lifecycle.jobs import step
from ocishim.linux import device, files, host
from ocishim.model import ContainerId, ContainerMetadata, ContainerStatus, ImageVolume, ResolvedUser
from ocishim.translate import process, seccomp, userns
from ocishim.translate.container import container_spec
from ocishim.translate.facts import ContainerInputs, GrantedDevice, ImageFacts, SandboxFacts
from ocishim.translate.identity import resolve_identity
from ocishim.translate.security import capabilities
from ocishim.translate.validate import validate_container

if TYPE_CHECKING:
    from ocishim.images.store import ImageRecord
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.spec.runtime import Seccomp

_PASSWD_LIMIT: Final = 16 << 20
_PROFILE_LIMIT: Final = 8 << 20


async def create_container(node: Node, sandbox: Sandbox, config: v1.ContainerConfig) -> ContainerId:
    """Make a container, or find the one that this very request has made or is making.

    Raises InvalidArgument before anything is made, NotFound for its image, FailedPrecondition in a pod that is
    not ready, AlreadyExists where the name belongs to another request.
    """
    validate_container(config, sandbox.config)
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
    async with sandbox.lock:
        if not sandbox.is_ready:
            raise FailedPrecondition(
                f"{sandbox.title} ({sandbox.id[:13]}) is not ready: no container can be made in it"
            )
        image = node.images.find(config.image.image)
        if image is None:
            raise NotFound(f"container {config.metadata.name}: image {config.image.image!r} is not here; pull it first")
        metadata = _metadata(sandbox, config, image, image_volumes(node, config))
        node.images.hold(metadata.id, metadata.layers)
        container = Container(metadata, ContainerStatus(), node.container_records)
        try:
            with step("write the record"):
                await node.container_records.create(container.id, metadata, container.status)
            with step("mount the root filesystem"):
                await mount_all(node, container, shift_of(node, sandbox))
            with step("make the bundle"):
                user = await asyncio.to_thread(_make, node, sandbox, container, image)
            with step("record that it is created"):
                await container.update(ContainerStatus(created_at=metadata.created_at, user=user))
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
        cgroup=f"{sandbox.metadata.cgroup_parent}/{container_id}",
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


def _make(node: Node, sandbox: Sandbox, container: Container, image: ImageRecord) -> ResolvedUser:
    """Everything else that touches the disk, in one thread: some ten system calls and two small files."""
    config, metadata = container.config, container.metadata
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
    privileged = config.linux.security_context.privileged
    inputs = ContainerInputs(
        id=metadata.id,
        config=config,
        sandbox=_sandbox_facts(node, sandbox),
        image=facts,
        image_name=config.image.image,
        identity=identity,
        host=node.host,
        rootfs=paths.rootfs,
        cgroup=metadata.cgroup,
        mounts=tuple(sources(paths, config, shift_of(node, sandbox))),
        devices=tuple(_granted_devices(config)),
        host_devices=tuple(device.host_devices()) if privileged else (),
        target_pid_namespace=_target_pid_namespace(node, sandbox, config),
        seccomp=_seccomp(node, config, root=identity.uid == 0),
    )
    files.write_atomic(paths.spec, container_spec(inputs).to_json(), durable=False)
    if metadata.log_path:
        os.makedirs(os.path.dirname(metadata.log_path), 0o755, exist_ok=True)
    return ResolvedUser(uid=identity.uid, gid=identity.gid, additional_gids=identity.additional_gids)


def _sandbox_facts(node: Node, sandbox: Sandbox) -> SandboxFacts:
    metadata = sandbox.metadata
    paths = node.layout.sandbox(metadata.id)
    namespaces = {kind: f"{paths.namespaces}/{kind}" for kind in metadata.namespaces}
    if sandbox.status.pause is not None:
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


def _granted_devices(config: v1.ContainerConfig) -> list[GrantedDevice]:
    granted: list[GrantedDevice] = []
    for request in config.devices:
        found = device.devices_at(request.host_path)
        is_directory = os.path.isdir(request.host_path)
        for each in found:
            below = os.path.relpath(each.path, request.host_path)
            path = f"{request.container_path.rstrip('/')}/{below}" if is_directory else request.container_path
            granted.append(GrantedDevice(each, path, request.permissions))
    return granted


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


def _seccomp(node: Node, config: v1.ContainerConfig, *, root: bool) -> Seccomp | None:
    context = config.linux.security_context
    chosen = seccomp.choice(context)
    if chosen.kind == "unconfined":
        return None
    path = chosen.path if chosen.kind == "localhost" else node.settings.containers.seccomp_profile
    try:
        with open(path, "rb") as file:
            profile = seccomp.parse(file.read(_PROFILE_LIMIT), path)
    except OSError as error:
        raise FailedPrecondition(
            f"container {config.metadata.name}: seccomp profile {path} cannot be read: {error.strerror}"
        ) from error
    return seccomp.seccomp_filter(
        profile,
        machine=node.host.architecture,
        capabilities=capabilities(context, node.host, root=root).bounding,
        kernel=seccomp.kernel_version(host.kernel_release()),
    )
