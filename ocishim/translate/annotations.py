"""Which annotations reach the runtime: those that its handler allows, and the names its kind looks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ocishim.api.runtime import v1

CONTAINER_TYPE: Final = "io.kubernetes.cri.container-type"
"""By it a VM runtime tells the container that makes the sandbox from those that join it."""
_SANDBOX: Final = "io.kubernetes.cri.sandbox-"


def passed_on(allowed: Iterable[str], *given: Mapping[str, str]) -> dict[str, str]:
    """Those of the annotations that the handler allows, by name or by a prefix that ends in `*`; later ones win."""
    exact = {pattern for pattern in allowed if not pattern.endswith("*")}
    prefixes = tuple(pattern[:-1] for pattern in allowed if pattern.endswith("*"))
    return {
        key: value
        for annotations in given
        for key, value in annotations.items()
        if key in exact or key.startswith(prefixes)
    }


def of_sandbox(config: v1.PodSandboxConfig, sandbox_id: str) -> dict[str, str]:
    """What the container that stands for the whole pod says of it, so that a VM is made large enough."""
    metadata, resources = config.metadata, config.linux.resources
    found = {
        CONTAINER_TYPE: "sandbox",
        f"{_SANDBOX}id": sandbox_id,
        f"{_SANDBOX}name": metadata.name,
        f"{_SANDBOX}namespace": metadata.namespace,
        f"{_SANDBOX}uid": metadata.uid,
        f"{_SANDBOX}log-directory": config.log_directory,
    }
    sizes = {
        "cpu-period": resources.cpu_period,
        "cpu-quota": resources.cpu_quota,
        "cpu-shares": resources.cpu_shares,
        "memory": resources.memory_limit_in_bytes,
    }
    return found | {f"{_SANDBOX}{key}": str(value) for key, value in sizes.items() if value}
