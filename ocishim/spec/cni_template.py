"""A CNI configuration with places for the node's pod CIDRs, in the form of containerd's `conf_template`.

Of Go's template language it takes what such templates use: `{{.PodCIDR}}` is the first CIDR, and
`{{range $i, $each := .PodCIDRRanges}}{{if $i}}, {{end}}… {{$each}} …{{end}}` (or `.Routes`) repeats for each.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

Network = IPv4Network | IPv6Network

_RANGE: Final = re.compile(
    r"\{\{-?\s*range\s+\$(?P<index>\w+)\s*,\s*\$(?P<each>\w+)\s*:=\s*\.(?P<of>PodCIDRRanges|Routes)\s*-?\}\}"
    r"(?:\{\{-?\s*if\s+\$(?P=index)\s*-?\}\}(?P<between>[^{}]*)\{\{-?\s*end\s*-?\}\})?"
    r"(?P<body>.*?)\{\{-?\s*end\s*-?\}\}",
    re.DOTALL,
)
_FIRST: Final = re.compile(r"\{\{-?\s*\.PodCIDR\s*-?\}\}")
_ACTION: Final = re.compile(r"\{\{.*?(\}\}|$)", re.DOTALL)
_EVERYTHING: Final = {4: "0.0.0.0/0", 6: "::/0"}


def parse_cidrs(text: str) -> list[Network]:
    """The CIDRs of kubelet's comma-separated list. Raises ValueError that says what is wrong."""
    return [ip_network(part.strip()) for part in text.split(",")]


def render(template: str, cidrs: Sequence[Network]) -> str:
    """The template with the CIDRs in their places. Raises ValueError that quotes what it does not understand."""
    values = {
        "PodCIDRRanges": [str(cidr) for cidr in cidrs],
        "Routes": [_EVERYTHING[version] for version in dict.fromkeys(cidr.version for cidr in cidrs)],
    }

    def repeated(match: re.Match[str]) -> str:
        each = re.compile(r"\{\{-?\s*\$" + re.escape(match["each"]) + r"\s*-?\}\}")
        return (match["between"] or "").join(each.sub(value, match["body"]) for value in values[match["of"]])

    filled = _FIRST.sub(str(cidrs[0]), _RANGE.sub(repeated, template))
    left = _ACTION.search(filled)
    if left is not None:
        raise ValueError(
            f"{left[0]!r} is not understood: only .PodCIDR, and range over .PodCIDRRanges and .Routes, are"
        )
    return filled
