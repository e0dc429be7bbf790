"""Image references, normalised as the ecosystem does: `busybox` is docker.io/library/busybox:latest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_DOMAIN: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
_LEGACY_DOMAIN: Final = "index.docker.io"
_LONGEST_NAME: Final = 255

_DOMAIN: Final = re.compile(
    r"^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])"
    r"(?::[0-9]{1,5})?\Z"
)
_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"^{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG: Final = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_DIGEST: Final = re.compile(r"^sha256:[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised reference: at least one of tag and digest is there."""

    domain: str
    path: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        """host/name."""
        return f"{self.domain}/{self.path}"

    @property
    def tagged(self) -> str | None:
        """host/name:tag, None for a reference by digest only."""
        return f"{self.name}:{self.tag}" if self.tag else None

    @property
    def digested(self) -> str | None:
        """host/name@sha256:…"""
        return f"{self.name}@{self.digest}" if self.digest else None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def is_digest(text: str) -> bool:
    """Whether text is a sha256 digest as registries write it."""
    return bool(_DIGEST.match(text))


def parse(text: str) -> Reference:
    """Parse and normalise. Raises InvalidArgument for what is no reference."""
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise InvalidArgument(f"image reference {text!r}: {digest!r} is no sha256 digest")
    tag = ""
    slash, colon = rest.rfind("/"), rest.rfind(":")
    if colon > slash:
        rest, tag = rest[:colon], rest[colon + 1 :]
        if not _TAG.match(tag):
            raise InvalidArgument(f"image reference {text!r}: {tag!r} is no tag")
    domain, path = _split_domain(rest)
    if not _DOMAIN.match(domain) or not _PATH.match(path) or len(domain) + len(path) >= _LONGEST_NAME:
        raise InvalidArgument(f"image reference {text!r} is not of the form [HOST/]NAME[:TAG][@DIGEST]")
    if not tag and not digest:
        tag = DEFAULT_TAG
    return Reference(domain, path, tag or None, digest or None)


def candidates(text: str, search: Sequence[str]) -> list[Reference]:
    """What a name may stand for: itself, or for a short name one of each registry (or HOST/PATH) of the search list.

    Raises InvalidArgument for what is no reference, and for a short name where the list is empty.
    """
    if _names_registry(text.partition("@")[0]):
        return [parse(text)]
    if not search:
        raise InvalidArgument(
            f"image reference {text!r} names no registry and images.short_names lists none: write HOST/{text}"
        )
    return [parse(f"{registry}/{text}") for registry in search]


def _names_registry(name: str) -> bool:
    first, slash, _ = name.partition("/")
    return bool(slash) and (any(mark in first for mark in ".:[") or first == "localhost" or first != first.lower())


def _split_domain(name: str) -> tuple[str, str]:
    if not _names_registry(name):
        domain, path = DEFAULT_DOMAIN, name
    else:
        domain, _, path = name.partition("/")
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = f"library/{path}"
    return domain, path
