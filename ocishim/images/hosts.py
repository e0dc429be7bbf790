"""Where a registry is: the endpoints of an image's domain, by certs.d or by its name, and this machine's own name.

certs.d is read for each pull, so that a change needs no restart.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import ssl
from dataclasses import dataclass
from typing import Final

from ocishim.errors import FailedPrecondition, InvalidArgument
from ocishim.spec import hosts_toml
from ocishim.spec import proxy as proxies

_DOCKER_HUB: Final = "registry-1.docker.io"
_LARGEST_FILE: Final = 1 << 20
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

    host: hosts_toml.Host
    is_mirror: bool = False
    """Whether it is another server than the image's name says."""
    tls: ssl.SSLContext | None = None
    """For the host itself: with its authorities, client certificates and verification; None: as the system has it."""
    trust: ssl.SSLContext | None = None
    """For hosts it sends us to: with its authorities, and neither its client certificates nor its leniency."""

    @property
    def url(self) -> str:
        """Its API, without a slash at the end."""
        return self.host.url

    @property
    def name(self) -> str:
        """Host and port, as images and auth files name it."""
        return self.url.partition("://")[2].partition("/")[0]


class RegistryHosts:
    """The endpoints of every registry, by a directory in containerd's form."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._contexts: dict[tuple[object, ...], ssl.SSLContext] = {}

    def endpoints(self, domain: str) -> list[Endpoint]:
        """Where to ask for a domain's images, the best first. Blocks on the disk.

        Raises FailedPrecondition that names the file where what is there cannot be used.
        """
        found = self._read(domain)
        own = [found.server] if found.server else [found.upstream(url) for url in _by_name(domain)]
        hosts = [(host, True) for host in found.mirrors] + [(host, False) for host in own]
        return [self._endpoint(host, is_mirror=is_mirror) for host, is_mirror in hosts]

    def _read(self, domain: str) -> hosts_toml.Hosts:
        for name in hosts_toml.directories(domain):
            directory = f"{self._directory}/{name}"
            if not os.path.isdir(directory):
                continue
            path = f"{directory}/hosts.toml"
            try:
                if not os.path.lexists(path):
                    return _as_docker_has_it(directory)
                with open(path, "rb") as file:
                    return hosts_toml.parse(file.read(_LARGEST_FILE), path, directory)
            except OSError as error:
                raise FailedPrecondition(f"{path} cannot be read: {error.strerror}") from error
            except InvalidArgument as error:
                raise FailedPrecondition(str(error)) from error
        return hosts_toml.Hosts((), None, hosts_toml.Host(""))

    def _endpoint(self, host: hosts_toml.Host, *, is_mirror: bool) -> Endpoint:
        if not (host.ca or host.client or host.skip_verify) or host.url.startswith("http://"):
            return Endpoint(host, is_mirror)
        tls = self._context(host.ca, host.client, skip_verify=host.skip_verify)
        trust = self._context(host.ca, (), skip_verify=False) if host.ca else None
        return Endpoint(host, is_mirror, tls, trust)

    def _context(
        self, ca: tuple[str, ...], client: tuple[tuple[str, str], ...], *, skip_verify: bool
    ) -> ssl.SSLContext:
        """The same one as long as the files are the same: connections are kept by it."""
        files = (*ca, *(name for pair in client for name in pair if name))
        key = (ca, client, skip_verify, tuple(_changed(path) for path in files))
        if key not in self._contexts:
            stale = [other for other in self._contexts if other[:3] == key[:3]]
            for other in stale:
                del self._contexts[other]
            self._contexts[key] = _tls(ca, client, skip_verify=skip_verify)
        return self._contexts[key]


def _by_name(domain: str) -> list[str]:
    """Only this machine's own addresses may speak plain HTTP; they are asked so first and by TLS if that is no use."""
    if domain == "docker.io":
        return [f"https://{_DOCKER_HUB}/v2"]
    if is_loopback(_host(domain)):
        return [f"http://{domain}/v2", f"https://{domain}/v2"]
    return [f"https://{domain}/v2"]


def _as_docker_has_it(directory: str) -> hosts_toml.Hosts:
    """Certificates without a hosts.toml: *.crt are authorities, NAME.cert and NAME.key a client's."""
    names = sorted(os.listdir(directory))
    ca = tuple(f"{directory}/{name}" for name in names if name.endswith(".crt"))
    client = tuple(
        (f"{directory}/{name}", f"{directory}/{name.removesuffix('.cert')}.key")
        for name in names
        if name.endswith(".cert")
    )
    return hosts_toml.Hosts((), None, hosts_toml.Host("", ca=ca, client=client))


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError as error:
        raise FailedPrecondition(f"{path} cannot be read: {error.strerror}") from error


def _tls(ca: tuple[str, ...], client: tuple[tuple[str, str], ...], *, skip_verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for path in ca:
        try:
            context.load_verify_locations(path)
        except (OSError, ssl.SSLError) as error:
            raise FailedPrecondition(f"{path} holds no certificates that can be read: {error}") from error
    for certificate, key in client:
        try:
            # A key with a password would ask the terminal for it.
            context.load_cert_chain(certificate, key or None, password=b"")
        except (OSError, ssl.SSLError) as error:
            raise FailedPrecondition(f"{certificate} and {key or 'its key'} cannot be used: {error}") from error
    return context


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


def proxy(scheme: str, host: str, port: int) -> str | None:
    """The proxy that the environment names for a server; never one for this machine itself.

    Raises FailedPrecondition where what it names is no proxy.
    """
    return None if is_loopback(host) else proxies.choose(scheme, host, port, os.environ)


def architecture() -> tuple[str, str]:
    """This machine's architecture and variant, as images name them."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, (machine, ""))
