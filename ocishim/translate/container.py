"""A container's config.json: what the CRI asked for, in the OCI runtime's terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import betterproto

from ocishim.api.runtime import v1
from ocishim.spec import runtime as spec
from ocishim.translate import cdi, mounts, process, resources, security, userns
from ocishim.translate.annotations import CONTAINER_TYPE
from ocishim.translate.cgroups import runtime_annotations
from ocishim.translate.sandbox import TYPES

if TYPE_CHECKING:
    from ocishim.translate.facts import ContainerInputs


def container_spec(inputs: ContainerInputs) -> spec.RuntimeSpec:
    """The bundle's config.json. Raises FailedPrecondition where the host lacks what was asked for by name."""
    config = inputs.config
    context = config.linux.security_context
    mappings = inputs.sandbox.mappings
    limits = resources.new_container(config.linux.resources, inputs.host, pids_limit=inputs.pids_limit)
    limits.devices = security.device_rules(
        inputs.devices, privileged=context.privileged and not inputs.without_host_devices
    )
    bound = mounts.renamed(inputs)
    nodes = [each for each in inputs.devices if each not in bound]
    label = security.selinux_label(context, inputs.host)
    made = spec.RuntimeSpec(
        process=_process(inputs, label),
        hostname=inputs.sandbox.hostname if inputs.in_vm else None,
        root=spec.Root(path=inputs.rootfs, readonly=context.readonly_rootfs),
        mounts=mounts.mounts(inputs),
        linux=spec.Linux(
            cgroups_path=inputs.cgroup,
            namespaces=_namespaces(inputs),
            resources=limits,
            devices=security.device_nodes(nodes, inputs.host_devices, privileged=context.privileged),
            masked_paths=[] if context.privileged else list(context.masked_paths),
            readonly_paths=[] if context.privileged else list(context.readonly_paths),
            rootfs_propagation=mounts.rootfs_propagation(config),
            seccomp=None if context.privileged else inputs.seccomp,
            mount_label=security.mount_label(label),
            uid_mappings=userns.in_spec(mappings.uids) if mappings else None,
            gid_mappings=userns.in_spec(mappings.gids) if mappings else None,
        ),
        annotations=_annotations(inputs),
    )
    return cdi.apply(made, inputs.cdi) if inputs.cdi.edits else made


def _process(inputs: ContainerInputs, label: str | None) -> spec.Process:
    config, identity = inputs.config, inputs.identity
    context = config.linux.security_context
    return spec.Process(
        terminal=config.tty,
        user=spec.User(uid=identity.uid, gid=identity.gid, additional_gids=list(identity.additional_gids)),
        args=process.arguments(config, inputs.image),
        env=process.environment(config, inputs.image, identity, inputs.sandbox.hostname, defaults=inputs.defaults.env),
        cwd=process.working_directory(config, inputs.image),
        capabilities=security.capabilities(
            context, inputs.host, root=identity.uid == 0, default=inputs.defaults.capabilities
        ),
        rlimits=list(inputs.defaults.rlimits) or None,
        no_new_privileges=context.no_new_privs,
        apparmor_profile=inputs.apparmor,
        selinux_label=label,
        oom_score_adj=resources.oom_score_adj(config.linux.resources.oom_score_adj, inputs.host),
    )


def _namespaces(inputs: ContainerInputs) -> list[spec.Namespace]:
    pinned = inputs.sandbox.namespaces
    result = [spec.Namespace(type="mount")]
    result += [
        spec.Namespace(type=TYPES[kind], path=pinned[kind]) for kind in ("user", "net", "ipc", "uts") if kind in pinned
    ]
    options = inputs.config.linux.security_context.namespace_options
    mode = options.pid if betterproto.serialized_on_wire(options) else v1.NamespaceMode.POD
    if mode == v1.NamespaceMode.TARGET:
        result.append(spec.Namespace(type="pid", path=inputs.target_pid_namespace))
    elif mode == v1.NamespaceMode.POD and "pid" in pinned:
        result.append(spec.Namespace(type="pid", path=pinned["pid"]))
    elif mode != v1.NamespaceMode.NODE:
        result.append(spec.Namespace(type="pid"))
    if inputs.host.cgroup_v2 and not inputs.config.linux.security_context.privileged:
        result.append(spec.Namespace(type="cgroup"))
    return result


def _annotations(inputs: ContainerInputs) -> dict[str, str]:
    """The names under which the ecosystem's hooks and VM runtimes look for the pod."""
    sandbox = inputs.sandbox
    return {
        **inputs.annotations,
        **runtime_annotations(inputs.cgroup),
        CONTAINER_TYPE: "container",
        "io.kubernetes.cri.container-name": inputs.config.metadata.name,
        "io.kubernetes.cri.image-name": inputs.image_name,
        "io.kubernetes.cri.sandbox-id": sandbox.id,
        "io.kubernetes.cri.sandbox-name": sandbox.name,
        "io.kubernetes.cri.sandbox-namespace": sandbox.namespace,
        "io.kubernetes.cri.sandbox-uid": sandbox.uid,
    }
