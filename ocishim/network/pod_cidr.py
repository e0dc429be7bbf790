"""The node's pod CIDR made into a CNI configuration, for nodes whose network is no more than a template."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final

from ocishim.errors import FailedPrecondition, InvalidArgument
from ocishim.linux import files
from ocishim.spec import cni as spec
from ocishim.spec.cni_template import Network, parse_cidrs, render

if TYPE_CHECKING:
    from ocishim.config import CniSettings
    from ocishim.network.cni import Cni

log = logging.getLogger(__name__)

FILE: Final = "10-ocishim-pod-cidr.conflist"
_LARGEST: Final = 1 << 20


async def set_pod_cidr(cni: Cni, settings: CniSettings, cidr: str) -> None:
    """Write the configuration that `conf_template` makes of the CIDRs, a comma-separated list.

    Nothing is done without a template or a CIDR, nor where the node has a usable network from somebody else: a
    network plugin that brings its own configuration knows better. Raises InvalidArgument for a CIDR that is none,
    FailedPrecondition for a template that cannot be read or does not make a configuration.
    """
    if not cidr:
        return
    try:
        cidrs = parse_cidrs(cidr)
    except ValueError as error:
        raise InvalidArgument(f"runtime_config.network_config.pod_cidr: {cidr!r}: {error}") from error
    if not settings.conf_template:
        log.info("pod CIDR %s is not used: cni.conf_template is not configured", cidr)
        return
    path = f"{settings.conf_dir}/{FILE}"
    if cni.readiness().ready and cni.file != path:
        log.info("pod CIDR %s is not used: %s is the node's network", cidr, cni.file)
        return
    await asyncio.to_thread(_write, settings.conf_template, path, cidrs)
    log.info("%s is made for pod CIDR %s", path, cidr)


def _write(source: str, path: str, cidrs: list[Network]) -> None:
    try:
        with open(source, encoding="utf-8") as file:
            content = render(file.read(_LARGEST), cidrs).encode()
        spec.parse_conflist(content, is_list=True)
    except OSError as error:
        raise FailedPrecondition(f"cni.conf_template {source} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FailedPrecondition(f"cni.conf_template {source} makes no configuration: {error}") from error
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    files.write_atomic(path, content, mode=0o644)
