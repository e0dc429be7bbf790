"""CNI: which network, what its plugins are told, and what they may answer. The plugins are shell scripts."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.config import CniSettings
from ocishim.errors import FailedPrecondition, InvalidArgument, OperationFailed
from ocishim.network.attachment import Attachment, PodNetwork, PortMapping, bandwidth
from ocishim.network.cni import Cni
from ocishim.spec.cni import parse_conflist, parse_problem, parse_result

if TYPE_CHECKING:
    from pathlib import Path

RESULT = '{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"},{"address":"fd00::3/64"}],"dns":{}}'
POD = PodNetwork("abc", "pod", "ns", "uid-1", "/run/none/net")


class Host:
    """A configuration directory, plugins, and what they were told."""

    def __init__(self, directory: Path) -> None:
        self.conf, self.bin, self.told = directory / "conf", directory / "bin", directory / "told"
        self.conf.mkdir()
        self.bin.mkdir()
        self.cni = Cni(CniSettings(conf_dir=str(self.conf), bin_dirs=[str(self.bin)], timeout=5.0))

    def plugin(self, name: str, script: str = "") -> None:
        """A plugin that notes its name, command and input, then runs the script."""
        note = f'printf "{name} %s %s " "$CNI_COMMAND" "$CNI_ARGS" >> {shlex.quote(str(self.told))}'
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{note}; cat >> {self.told}; echo >> {self.told}\n{script}")
        path.chmod(0o755)

    def network(self, *plugins: dict[str, object], file: str = "10.conflist") -> None:
        content = {"cniVersion": "1.0.0", "name": "net", "plugins": plugins}
        (self.conf / file).write_text(json.dumps(content))

    def calls(self) -> list[tuple[str, str, str, dict[str, object]]]:
        lines = self.told.read_text().splitlines() if self.told.exists() else []
        found = []
        for line in lines:
            name, command, arguments, config = line.split(" ", 3)
            found.append((name, command, arguments, json.loads(config)))
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def answering(result: str = RESULT) -> str:
    return f"[ $CNI_COMMAND = DEL ] || echo {shlex.quote(result)}"


async def test_plugins_are_called_in_order_with_the_result_of_the_one_before(host: Host) -> None:
    host.plugin("first", answering())
    host.plugin("second", answering())
    host.network({"type": "first", "own": "key"}, {"type": "second"})
    attached = await host.cni.add(host.cni.plan(POD))
    assert attached.ips == ("10.1.2.3", "fd00::3")
    (one, two) = host.calls()
    assert (one[0], one[1], two[0]) == ("first", "ADD", "second")
    assert one[3]["own"] == "key"
    assert one[3]["name"] == "net"
    assert "prevResult" not in one[3]
    assert two[3]["prevResult"] == json.loads(RESULT)


async def test_delete_goes_in_reverse_with_the_result_and_without_the_directory(host: Host) -> None:
    for name in ("first", "second"):
        host.plugin(name, answering())
    host.network({"type": "first"}, {"type": "second"})
    attached = await host.cni.add(host.cni.plan(POD))
    kept = Attachment.model_validate_json(attached.model_dump_json(by_alias=True))
    assert kept == attached
    (host.conf / "10.conflist").unlink()
    host.told.unlink()
    await host.cni.delete(kept)
    assert [(name, command) for name, command, _, _ in host.calls()] == [("second", "DEL"), ("first", "DEL")]
    assert all(config["prevResult"] == json.loads(RESULT) for _, _, _, config in host.calls())


async def test_a_plugin_that_fails_to_delete_does_not_keep_the_others_from_it(host: Host) -> None:
    host.plugin("first", answering())
    stuck = """[ $CNI_COMMAND = ADD ] || { echo '{"code": 7, "msg": "stuck"}'; exit 1; }"""
    host.plugin("second", f"{answering()}; {stuck}")
    host.network({"type": "first"}, {"type": "second"})
    attached = await host.cni.add(host.cni.plan(POD))
    host.told.unlink()
    with pytest.raises(OperationFailed, match="second: stuck"):
        await host.cni.delete(attached)
    assert [name for name, _, _, _ in host.calls()] == ["second", "first"]


async def test_capabilities_go_to_those_that_declare_them(host: Host) -> None:
    host.plugin("ports", answering())
    host.plugin("plain", answering())
    host.network({"type": "ports", "capabilities": {"portMappings": True, "bandwidth": False}}, {"type": "plain"})
    pod = PodNetwork(
        *("abc", "pod", "ns", "uid", "/run/none/net"),
        port_mappings=[PortMapping("TCP", 80, 8080, "127.0.0.1"), PortMapping("udp", 53, 0, "")],
        annotations={"kubernetes.io/ingress-bandwidth": "1M"},
    )
    await host.cni.add(host.cni.plan(pod))
    (ports, plain) = host.calls()
    mapping = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}
    assert ports[3]["runtimeConfig"] == {"portMappings": [mapping]}
    assert "capabilities" not in ports[3]
    assert "runtimeConfig" not in plain[3]


async def test_the_pod_is_named_in_the_arguments(host: Host) -> None:
    host.plugin("one", answering())
    host.network({"type": "one"})
    await host.cni.add(host.cni.plan(POD))
    assert host.calls()[0][2] == (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=uid-1"
    )


@pytest.mark.parametrize("name", ["a;b", "a=b", "a\nb"])
def test_a_name_that_would_break_out_of_the_arguments_is_refused(host: Host, name: str) -> None:
    host.plugin("one")
    host.network({"type": "one"})
    with pytest.raises(InvalidArgument):
        host.cni.plan(PodNetwork("abc", name, "ns", "uid", "/net"))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('echo \'{"code": 11, "msg": "no room", "details": "at all"}\'; exit 1', r"no room: at all \(code 11\)"),
        ("echo broken >&2; exit 3", "broken"),
        ("exit 4", "exit code 4"),
        ("echo this is no JSON", "this is no JSON"),
        ("echo '[1]'", "nonsense"),
        ("echo '{\"ips\": 3}'", "nonsense"),
        ("kill -9 $$", "signal 9"),
    ],
)
async def test_a_failing_plugin_is_quoted(host: Host, script: str, words: str) -> None:
    host.plugin("bad", script)
    host.network({"type": "bad"})
    with pytest.raises(OperationFailed, match=words):
        await host.cni.add(host.cni.plan(POD))


async def test_a_plugin_that_hangs_is_killed(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.cni = Cni(CniSettings(conf_dir=str(host.conf), bin_dirs=[str(host.bin)], timeout=0.3))
    host.plugin("slow", "sleep 1000")
    host.network({"type": "slow"})
    with pytest.raises(Exception, match=r"did not finish within 0\.3 s"):
        await host.cni.add(host.cni.plan(POD))


def test_readiness_follows_the_directory(host: Host) -> None:
    assert host.cni.readiness().reason == "NetworkPluginNotReady"
    assert str(host.conf) in host.cni.readiness().message
    host.network({"type": "later"})
    assert "later" in host.cni.readiness().message
    host.plugin("later")
    assert host.cni.readiness().ready
    (host.conf / "10.conflist").unlink()
    assert not host.cni.readiness().ready
    with pytest.raises(FailedPrecondition):
        host.cni.plan(POD)


def test_the_first_usable_file_by_name_is_the_network(host: Host) -> None:
    host.plugin("one")
    (host.conf / "05-broken.conflist").write_text("{")
    (host.conf / "06-other.txt").write_text("{}")
    (host.conf / "07-old.conf").write_text('{"cniVersion": "0.3.1", "name": "old", "type": "one"}')
    host.network({"type": "one"}, file="99.conflist")
    assert host.cni.plan(POD).conflist.name == "old"
    (host.conf / "07-old.conf").unlink()
    assert host.cni.plan(POD).conflist.name == "net"
    (host.conf / "99.conflist").unlink()
    assert "05-broken" in host.cni.readiness().message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"name": "x"}',
        b'{"name": "x", "plugins": []}',
        b'{"name": "../x", "plugins": [{"type": "a"}]}',
        b'{"name": "x", "plugins": [{"type": "../a"}]}',
        b'{"cniVersion": "9.0.0", "name": "x", "plugins": [{"type": "a"}]}',
    ],
)
def test_configurations_that_are_none(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_conflist(content, is_list=True)


@given(st.binary(max_size=200))
def test_nonsense_is_one_kind_of_error(content: bytes) -> None:
    for parse in (parse_result, parse_problem, lambda data: parse_conflist(data, is_list=False)):
        try:
            parse(content)
        except ValueError:
            pass


@pytest.mark.parametrize(
    ("text", "rate"), [("10M", 10_000_000), ("1Ki", 1024), ("1.5k", 1500), ("100", 100), ("5000m", 5)]
)
def test_bandwidth_in_bits(text: str, rate: int) -> None:
    found = bandwidth({"kubernetes.io/egress-bandwidth": text})
    assert found["egressRate"] == rate
    assert 0 <= found["egressBurst"] < 2**32


@pytest.mark.parametrize("text", ["", "fast", "-1", "1Q", "0", "1e99E"])
def test_bandwidth_that_is_none(text: str) -> None:
    with pytest.raises(InvalidArgument):
        bandwidth({"kubernetes.io/ingress-bandwidth": text})
