"""A pod CIDR made into a CNI configuration, and changes of it that the kernel tells of."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.config import CniSettings
from ocishim.errors import FailedPrecondition, InvalidArgument
from ocishim.linux import inotify
from ocishim.network.cni import Cni
from ocishim.network.pod_cidr import FILE, set_pod_cidr
from ocishim.spec.cni_template import parse_cidrs, render

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEMPLATE = """{"cniVersion": "1.0.0", "name": "made", "plugins": [{"type": "bridge", "mtu": 1400,
  "ipam": {"type": "host-local", "first": "{{.PodCIDR}}",
    "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
    "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]}}]}
"""


def networks(version: int, size: int) -> st.SearchStrategy[str]:
    return st.builds(
        lambda address, length: str(ip_network((address, length), strict=False)),
        st.integers(0, 2**size - 1).map(lambda number: number.to_bytes(size // 8, "big")),
        st.integers(0, size),
    )


@given(st.lists(networks(4, 32) | networks(6, 128), min_size=1, max_size=4))
def test_every_cidr_has_its_range_and_every_family_its_route(cidrs: list[str]) -> None:
    made = json.loads(render(TEMPLATE, parse_cidrs(", ".join(cidrs))))
    ipam = made["plugins"][0]["ipam"]
    assert ipam["ranges"] == [[{"subnet": cidr}] for cidr in cidrs]
    assert ipam["first"] == cidrs[0]
    routes = {"::/0" if ":" in cidr else "0.0.0.0/0" for cidr in cidrs}
    assert {route["dst"] for route in ipam["routes"]} == routes


@pytest.mark.parametrize("template", ["{{.Nonsense}}", "{{range .PodCIDRRanges}}x{{end}}", "{{ .PodCIDR", "{{if $i}}"])
def test_what_is_not_understood_is_quoted(template: str) -> None:
    with pytest.raises(ValueError, match=r"\{\{"):
        render(template, parse_cidrs("10.0.0.0/8"))


@given(st.text(max_size=60))
def test_templates_of_any_text_are_rendered_or_refused(template: str) -> None:
    try:
        assert "{{" not in render(template, parse_cidrs("10.0.0.0/8"))
    except ValueError:
        pass


class Site:
    """A configuration directory that is not there yet, plugins, a template."""

    def __init__(self, directory: Path) -> None:
        self.conf, self.bin, self.template = directory / "etc" / "net.d", directory / "bin", directory / "template"
        self.bin.mkdir()
        (self.bin / "bridge").write_text("#!/bin/sh\n")
        (self.bin / "bridge").chmod(0o755)
        self.template.write_text(TEMPLATE)
        self.settings = CniSettings(conf_dir=str(self.conf), bin_dirs=[str(self.bin)], conf_template=str(self.template))
        self.cni = Cni(self.settings)

    async def set(self, cidr: str) -> None:
        await set_pod_cidr(self.cni, self.settings, cidr)

    def ranges(self) -> object:
        return json.loads((self.conf / FILE).read_text())["plugins"][0]["ipam"]["ranges"]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_the_cidr_becomes_the_nodes_network_and_a_new_one_replaces_it(site: Site) -> None:
    await site.set("10.1.0.0/24,fd00::/64")
    assert site.ranges() == [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]
    assert site.cni.readiness().ready
    await site.set("10.2.0.0/24")
    assert site.ranges() == [[{"subnet": "10.2.0.0/24"}]]
    assert [path.name for path in site.conf.iterdir()] == [FILE]


async def test_a_network_of_somebody_elses_is_left_alone(site: Site) -> None:
    site.conf.mkdir(parents=True)
    (site.conf / "50-theirs.conflist").write_text(render(TEMPLATE, parse_cidrs("10.9.0.0/16")))
    await site.set("10.1.0.0/24")
    assert [path.name for path in site.conf.iterdir()] == ["50-theirs.conflist"]


async def test_without_a_template_or_a_cidr_nothing_is_made(site: Site) -> None:
    await site.set("")
    await set_pod_cidr(site.cni, site.settings.model_copy(update={"conf_template": ""}), "10.1.0.0/24")
    assert not site.conf.exists()


@pytest.mark.parametrize("cidr", ["10.0.0.0/33", "ten", "10.0.0.1/8", ",", '10.0.0.0/8","x":"'])
async def test_what_is_no_cidr_is_refused_by_its_field(site: Site, cidr: str) -> None:
    with pytest.raises(InvalidArgument, match=r"runtime_config\.network_config\.pod_cidr"):
        await site.set(cidr)


@pytest.mark.parametrize("template", ["{{.Nonsense}}", "no JSON", "{}", None])
async def test_a_template_that_makes_no_configuration_leaves_nothing(site: Site, template: str | None) -> None:
    if template is None:
        site.template.unlink()
    else:
        site.template.write_text(template)
    with pytest.raises(FailedPrecondition, match=str(site.template)):
        await site.set("10.1.0.0/24")
    assert not site.conf.exists()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what it waits for is the kernel's to tell another
            await asyncio.sleep(0.005)


async def test_a_configuration_that_comes_goes_and_comes_again_is_noticed(site: Site) -> None:
    def file() -> str:
        return site.cni.file

    async with site.cni.followed():
        assert not site.cni.readiness().ready
        for number in range(3):
            (site.conf).mkdir(parents=True)
            path = site.conf / f"{number}.conflist"
            path.write_text(render(TEMPLATE, parse_cidrs("10.9.0.0/16")))
            await until(lambda expected=str(path): file() == expected)  # type: ignore[misc] # bound for this round
            path.unlink()
            site.conf.rmdir()
            site.conf.parent.rmdir()
            await until(lambda: not file())


async def test_while_nothing_changes_no_file_is_looked_at(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.set("10.1.0.0/24")
    async with site.cni.followed():
        await until(lambda: bool(site.cni.file))
        await asyncio.sleep(0.05)
        # A look would find nothing.
        monkeypatch.setattr(site.cni, "_listing", list)
        assert all(site.cni.readiness().ready for _ in range(10))


async def test_a_plugin_that_goes_is_noticed(site: Site) -> None:
    await site.set("10.1.0.0/24")
    async with site.cni.followed():
        await until(lambda: site.cni.readiness().ready)
        (site.bin / "bridge").unlink()
        await until(lambda: not site.cni.readiness().ready)
        assert "bridge" in site.cni.readiness().message


async def test_without_inotify_every_call_looks(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inotify, "_watch", refuse)
    async with site.cni.followed():
        assert not site.cni.readiness().ready
        await site.set("10.1.0.0/24")
        assert site.cni.readiness().ready
