"""A pod's attachment to a network: all that ADD was given, so that DEL can be given the same, and its result."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict

from ocishim.errors import InvalidArgument
from ocishim.spec.cni import Conflist, JsonObject, Result  # noqa: TC001 - pydantic reads them

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INTERFACE: Final = "eth0"
_INGRESS: Final = "kubernetes.io/ingress-bandwidth"
_EGRESS: Final = "kubernetes.io/egress-bandwidth"
_BURST_SECONDS: Final = 0.5
_QUANTITY: Final = re.compile(r"^(?P<number>\d+(\.\d+)?)(?P<suffix>[kMGTPE]|[KMGTPE]i|m|)$")
_DECIMAL: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_BINARY: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_LARGEST_BURST: Final = 2**32 - 1


class Attachment(BaseModel):
    """Kept on disk from before ADD until DEL has succeeded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sandbox_id: str
    netns: str
    interface: str = INTERFACE
    conflist: Conflist
    arguments: str
    """CNI_ARGS."""
    capabilities: JsonObject
    """runtimeConfig by capability, for the plugins that declare it."""
    result: Result | None = None

    @property
    def ips(self) -> tuple[str, ...]:
        """The pod's addresses without prefix length, the primary one first."""
        if self.result is None:
            return ()
        return tuple(entry.address.partition("/")[0] for entry in self.result.ips)


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of the host that leads to one of the pod."""

    protocol: str
    container_port: int
    host_port: int
    host_ip: str


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """What the network is told of a pod."""

    sandbox_id: str
    name: str
    namespace: str
    uid: str
    netns: str
    port_mappings: Sequence[PortMapping] = ()
    dns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


def arguments(pod: PodNetwork) -> str:
    """CNI_ARGS with the names that Kubernetes' plugins read. Raises InvalidArgument where a value would break out."""
    pairs = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": pod.namespace,
        "K8S_POD_NAME": pod.name,
        "K8S_POD_INFRA_CONTAINER_ID": pod.sandbox_id,
        "K8S_POD_UID": pod.uid,
    }
    for key, value in pairs.items():
        if any(character in value for character in ";=\n\r\0"):
            raise InvalidArgument(f"{key}: {value!r} holds ';', '=' or a line break and cannot be a CNI argument")
    return ";".join(f"{key}={value}" for key, value in pairs.items())


def capabilities(pod: PodNetwork) -> JsonObject:
    """runtimeConfig for every capability that the pod uses (CNI conventions)."""
    result: JsonObject = {}
    mappings = [
        {
            "hostPort": mapping.host_port,
            "containerPort": mapping.container_port,
            "protocol": mapping.protocol.lower(),
            "hostIP": mapping.host_ip,
        }
        for mapping in pod.port_mappings
        if mapping.host_port > 0
    ]
    if mappings:
        result["portMappings"] = mappings
    limits = bandwidth(pod.annotations)
    if limits:
        result["bandwidth"] = limits
    if any(pod.dns.values()):
        result["dns"] = {key: list(values) for key, values in pod.dns.items()}
    if pod.annotations:
        result["io.kubernetes.cri.pod-annotations"] = dict(pod.annotations)
    return result


def bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    """Rates in bit/s and bursts in bits from the pod's annotations. Raises InvalidArgument for nonsense."""
    limits: dict[str, int] = {}
    for key, direction in ((_INGRESS, "ingress"), (_EGRESS, "egress")):
        if key in annotations:
            rate = quantity(key, annotations[key])
            limits[f"{direction}Rate"] = rate
            limits[f"{direction}Burst"] = min(int(rate * _BURST_SECONDS), _LARGEST_BURST)
    return limits


def quantity(key: str, text: str) -> int:
    """A Kubernetes quantity such as 10M or 1.5Gi, at least 1. Raises InvalidArgument for nonsense."""
    match = _QUANTITY.match(text.strip())
    if match is None:
        raise InvalidArgument(f"annotation {key}: {text!r} is no quantity such as 10M")
    suffix = match["suffix"]
    factor = Decimal(_BINARY.get(suffix) or _DECIMAL.get(suffix) or 0)
    if suffix == "m":
        factor = Decimal("0.001")
    value = int(Decimal(match["number"]) * factor)
    if not 1 <= value < 2**63:
        raise InvalidArgument(f"annotation {key}: {text!r} is out of range")
    return value
