"""certs.d/HOST/hosts.toml: which servers have a registry's images, and how they are spoken to.

The form is containerd's (its docs/hosts.md), so that a node's directory can be used as it is.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ocishim.errors import InvalidArgument

Capability = Literal["pull", "resolve", "push"]

_ALL: Final[frozenset[Capability]] = frozenset({"pull", "resolve", "push"})
_DURATION: Final = re.compile(r"^(?:[0-9]+(?:\.[0-9]+)?(?:ms|us|s|m|h))+\Z")
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|us|s|m|h)")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_HEADER_NAME: Final = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


@dataclass(frozen=True, slots=True)
class Host:
    """One server that has images of a registry."""

    url: str
    """Scheme, host, port and the path of its API, `/v2` as a rule; no slash at the end."""
    capabilities: frozenset[Capability] = _ALL
    ca: tuple[str, ...] = ()
    """Files of certificates that are trusted besides the system's."""
    client: tuple[tuple[str, str], ...] = ()
    """Files of a certificate and its key; an empty key: both are in the first."""
    skip_verify: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    dial_timeout: float | None = None
    """Seconds to wait for a connection."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """What a hosts.toml says."""

    mirrors: tuple[Host, ...]
    """In the order in which they are asked, before the registry itself."""
    server: Host | None
    """The registry itself; None: where its name says, spoken to as `defaults` says."""
    defaults: Host

    def upstream(self, url: str) -> Host:
        """The registry itself, where the file names none."""
        return self.server or replace(self.defaults, url=url)


class _Host(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    capabilities: list[Capability] = []
    ca: str | list[str] = []
    client: str | list[str | Annotated[list[str], Field(min_length=1, max_length=2)]] = []
    skip_verify: bool = False
    header: dict[str, str | list[str]] = {}
    override_path: bool = False
    dial_timeout: str = ""


class _File(_Host):
    server: str = ""
    host: dict[str, _Host] = {}


def directories(host: str) -> tuple[str, ...]:
    """Where below certs.d a registry's files may be, the first that is there counts; `host` may have a port."""
    name, colon, port = host.rpartition(":")
    return (*((f"{name}_{port}_",) if colon and port.isdigit() else ()), host, "_default")


def parse(content: bytes, what: str, directory: str) -> Hosts:
    """Read a file; its relative names start from directory. Raises InvalidArgument that names the key."""
    try:
        file = _File.model_validate(tomllib.loads(content.decode()))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        raise InvalidArgument(f"{what}: {where}: {problem}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"{what}: not TOML: {error}") from error
    defaults = _host("https://registry.invalid", file, what, directory)
    mirrors = tuple(_host(url, each, f'{what}: host."{url}"', directory) for url, each in file.host.items())
    server = _host(file.server, file, f"{what}: server", directory) if file.server else None
    return Hosts(mirrors, server, defaults)


def _host(url: str, found: _Host, what: str, directory: str) -> Host:
    return Host(
        url=_url(url, what, override_path=found.override_path),
        capabilities=frozenset(found.capabilities) or _ALL,
        ca=tuple(_below(directory, path) for path in _listed(found.ca)),
        client=tuple(
            _pair(each, directory) for each in ([found.client] if isinstance(found.client, str) else found.client)
        ),
        skip_verify=found.skip_verify,
        headers=tuple(_headers(found.header, what)),
        dial_timeout=_seconds(found.dial_timeout, what),
    )


def api_url(url: str, what: str) -> str:
    """The URL of a registry's API, from that of the registry. Raises InvalidArgument."""
    return _url(url, what, override_path=False)


def _url(text: str, what: str, *, override_path: bool) -> str:
    if "://" not in text:
        text = f"https://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidArgument(f"{what}: {text!r} is no URL: {error}") from error
    extras = parts.username or parts.password or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not parts.hostname or extras or not text.isascii() or " " in text:
        raise InvalidArgument(f"{what}: {text!r} is no URL of the form http[s]://HOST[:PORT][/PATH]")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = posixpath.normpath("/" + parts.path.lstrip("/")).rstrip("/") if parts.path.strip("/") else ""
    if not override_path and not path.endswith("/v2"):
        path = f"{path}/v2"
    return f"{parts.scheme}://{host}{f':{port}' if port is not None else ''}{path}"


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _below(directory: str, path: str) -> str:
    return posixpath.join(directory, path)


def _pair(value: str | list[str], directory: str) -> tuple[str, str]:
    certificate, *key = _listed(value)
    return _below(directory, certificate), _below(directory, key[0]) if key else ""


def _headers(header: dict[str, str | list[str]], what: str) -> list[tuple[str, str]]:
    pairs = [(name, each) for name, value in header.items() for each in _listed(value)]
    for name, value in pairs:
        if not _HEADER_NAME.match(name):
            raise InvalidArgument(f"{what}: header: {name!r} is no name of a header")
        if not value.isascii() or not value.isprintable():
            # The value may be a secret.
            raise InvalidArgument(f"{what}: header.{name}: the value holds characters that a header cannot")
    return pairs


def _seconds(text: str, what: str) -> float | None:
    if not text:
        return None
    if not _DURATION.match(text):
        raise InvalidArgument(f"{what}: dial_timeout: {text!r} is no duration such as 5s or 1m30s")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
