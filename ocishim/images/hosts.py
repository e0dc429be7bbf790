"""Where a registry is: the endpoints of an image's domain, and this machine as images name it.

certs.d/HOST/hosts.toml will add mirrors and certificates here; nothing else knows how endpoints are chosen.
"""

from __future__ import annotations

import ipaddress
import platform
from dataclasses import dataclass
from typing import Final

_DOCKER_HUB: Final = "registry-1.docker.io"
_ARCHITECTURES: Final = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "i386": ("386", ""),
    "loongarch64": ("loong64", ""),
    "ppc64le": ("ppc64le", ""),
    "riscv64": ("riscv64", ""),
    "s390x": ("s390x", ""),
}
"""Go's names of architecture and variant, which images use, by the kernel's."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place that serves a domain's images."""

    url: str
    """Scheme, host and port, without a slash at the end."""


def endpoints(domain: str) -> list[Endpoint]:
    """Where to ask for a domain's images, the best first.

    Only this machine's own addresses may speak plain HTTP; they are asked so first and by TLS if that is no use.
    """
    if domain == "docker.io":
        return [Endpoint(f"https://{_DOCKER_HUB}")]
    if is_loopback(_host(domain)):
        return [Endpoint(f"http://{domain}"), Endpoint(f"https://{domain}")]
    return [Endpoint(f"https://{domain}")]


def _host(domain: str) -> str:
    if domain.startswith("["):
        return domain[1:].partition("]")[0]
    return domain.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether traffic to host stays on this machine: localhost or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for a host, as curl and Go read it; never one for this machine itself."""
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - with the HTTP client, not at start

    if is_loopback(host):
        return None
    proxies = getproxies()
    if proxy_bypass(host):
        return None
    return proxies.get(scheme) or proxies.get("all")


def architecture() -> tuple[str, str]:
    """This machine's architecture and variant, as images name them."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, (machine, ""))
