"""Which proxy a request goes through, by HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, as curl and Go read them."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final

from ocishim.errors import FailedPrecondition

if TYPE_CHECKING:
    from collections.abc import Mapping

_KINDS: Final = ("http", "https")


def choose(scheme: str, host: str, port: int, environment: Mapping[str, str]) -> str | None:
    """The URL of the proxy for a server; None: it is asked directly. A proxy without a scheme speaks HTTP.

    Raises FailedPrecondition that names the variable where it names a proxy of another kind. The variables' names are
    looked for in small letters first.
    """
    if _bypassed(host.lower(), str(port), _value(environment, "no_proxy")):
        return None
    for name in (f"{scheme}_proxy", "all_proxy"):
        found = _value(environment, name)
        if not found:
            continue
        url = found if "://" in found else f"http://{found}"
        kind = url.partition("://")[0].lower()
        if kind not in _KINDS:
            raise FailedPrecondition(
                f"{name.upper()} names a proxy of kind {kind!r}: this server knows {' and '.join(_KINDS)}"
            )
        return url
    return None


def _value(environment: Mapping[str, str], name: str) -> str:
    return (environment.get(name) or environment.get(name.upper()) or "").strip()


def _bypassed(host: str, port: str, no_proxy: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    return any(_matches(entry.strip().lower(), host, port, address) for entry in no_proxy.split(","))


def _matches(entry: str, host: str, port: str, address: IPv4Address | IPv6Address | None) -> bool:
    """Whether an entry means the server: *, an address, a network, or a domain with all below it; some with a port."""
    if entry == "*":
        return True
    with suppress(ValueError):
        network = ip_network(entry, strict=False)
        return address is not None and address in network
    name, colon, wanted = entry.rpartition(":")
    if colon and wanted.isdigit():
        if wanted != port:
            return False
        entry = name.strip("[]")
    domain = entry.removeprefix("*").removeprefix(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))
