"""RestorePod: a pod with containers that go on where their checkpoint was, all of it or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim.lifecycle.container_create import create_container
from ocishim.lifecycle.container_start import start_container
from ocishim.lifecycle.restore import read_pod_checkpoint
from ocishim.lifecycle.sandbox import SandboxName
from ocishim.lifecycle.sandbox_run import run_sandbox
from ocishim.lifecycle.sandbox_stop import remove_sandbox
from ocishim.linux.uncancelled import to_the_end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocishim.api.runtime import v1
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.restore import PodCheckpoint

Restored = tuple[str, list[tuple[str, str]]]
"""The pod's id, and name and id of each container."""


async def restore_sandbox(
    node: Node, path: str, config: v1.PodSandboxConfig, handler: str, containers: Sequence[v1.ContainerConfig]
) -> Restored:
    """Make a pod from the directory that CheckpointPod wrote, or join the call that is making it.

    Each of its containers needs a configuration of its name. Raises what RunPodSandbox, CreateContainer and
    StartContainer do, InvalidArgument for a directory that is no pod's checkpoint; then no pod is left.
    """
    checkpoint = await read_pod_checkpoint(path, config)
    given = {each.metadata.name: each for each in containers}
    configs = [checkpoint.config_of(name, given) for name in checkpoint.containers]
    metadata = checkpoint.config.metadata
    name = SandboxName(metadata.namespace, metadata.name, metadata.uid, metadata.attempt)
    return await node.jobs.run(
        ("restore-sandbox", name),
        f"RestorePod {name}",
        (path, checkpoint.config, handler, configs),
        lambda: _restore(node, checkpoint, handler, configs, is_new=node.sandboxes.named(name) is None),
    )


async def _restore(
    node: Node, checkpoint: PodCheckpoint, handler: str, configs: Sequence[v1.ContainerConfig], *, is_new: bool
) -> Restored:
    sandbox = node.sandbox(await run_sandbox(node, checkpoint.config, handler))
    restored = []
    try:
        for config in configs:
            container = node.container(await create_container(node, sandbox, config))
            if container.status.is_created:  # not by an earlier attempt whose answer got lost
                await start_container(node, container)
            restored.append((config.metadata.name, container.id))
    except BaseException:
        if is_new:
            await to_the_end(remove_sandbox(node, sandbox))
        raise
    return sandbox.id, restored
