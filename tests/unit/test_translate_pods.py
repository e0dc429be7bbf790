"""What a pod's configuration means, and what of it is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.api.runtime import v1
from ocishim.errors import InvalidArgument
from ocishim.translate.sandbox import (
    hostname,
    pause_spec,
    pinned_kinds,
    resolv_conf,
    shares_pid,
    sysctls,
)
from ocishim.translate.validate import validate_sandbox

HOST, POD, OWN, TARGET = (v1.NamespaceMode(number) for number in (2, 0, 1, 3))


def pod(**fields: object) -> v1.PodSandboxConfig:
    named: dict[str, object] = {"metadata": v1.PodSandboxMetadata(name="n", namespace="ns", uid="u")}
    return v1.PodSandboxConfig(**(named | fields))  # type: ignore[arg-type] # each of its own type


def with_namespaces(**modes: object) -> v1.PodSandboxConfig:
    options = v1.NamespaceOption(**modes)  # type: ignore[arg-type] # modes
    context = v1.LinuxSandboxSecurityContext(namespace_options=options)
    return sent(pod(linux=v1.LinuxPodSandboxConfig(security_context=context)))


def sent(config: v1.PodSandboxConfig) -> v1.PodSandboxConfig:
    """As the server gets it."""
    return v1.PodSandboxConfig().parse(bytes(config))


def test_a_plain_pod_is_accepted_and_has_three_namespaces() -> None:
    config = pod()
    validate_sandbox(config)
    assert set(pinned_kinds(config)) == {"net", "ipc", "uts"}
    assert not shares_pid(config)


def test_the_uts_namespace_is_the_hosts_when_the_network_is() -> None:
    assert pinned_kinds(with_namespaces(network=HOST)) == ("ipc",)
    assert set(pinned_kinds(with_namespaces(ipc=HOST))) == {"net", "uts"}
    assert pinned_kinds(with_namespaces(network=HOST, ipc=HOST)) == ()


def test_processes_are_shared_only_where_the_client_says_so() -> None:
    assert shares_pid(with_namespaces(pid=POD, network=HOST))
    assert not shares_pid(with_namespaces(pid=OWN))
    assert not shares_pid(with_namespaces(pid=HOST))


def with_limits(**fields: v1.LinuxContainerResources) -> v1.PodSandboxConfig:
    return pod(linux=v1.LinuxPodSandboxConfig(**fields))  # type: ignore[arg-type] # each of its own type


@pytest.mark.parametrize(
    ("field", "config"),
    [
        ("config.metadata.name", v1.PodSandboxConfig(metadata=v1.PodSandboxMetadata(namespace="a", uid="b"))),
        ("config.metadata.uid", v1.PodSandboxConfig(metadata=v1.PodSandboxMetadata(namespace="a", name="b"))),
        ("config.log_directory", pod(log_directory="relative")),
        ("config.log_directory", pod(log_directory="/a/../b")),
        ("config.hostname", pod(hostname="a\nb")),
        ("config.dns_config.servers", pod(dns_config=v1.DnsConfig(servers=["1.1.1.1\nsearch evil"]))),
        ("config.port_mappings[0].host_port", pod(port_mappings=[v1.PortMapping(container_port=1, host_port=70000)])),
        ("config.port_mappings[0].container_port", pod(port_mappings=[v1.PortMapping(host_port=80)])),
        ("config.linux.security_context.namespace_options.network", with_namespaces(network=OWN)),
        ("config.linux.security_context.namespace_options.ipc", with_namespaces(ipc=TARGET)),
        ("config.linux.security_context.namespace_options.pid", with_namespaces(pid=TARGET)),
        ("config.linux.resources.cpu_shares", with_limits(resources=v1.LinuxContainerResources(cpu_shares=1))),
        ("config.linux.overhead.cpuset_cpus", with_limits(overhead=v1.LinuxContainerResources(cpuset_cpus="x"))),
        (
            "config.linux.resources.memory_swap_limit_in_bytes",
            with_limits(resources=v1.LinuxContainerResources(memory_swap_limit_in_bytes=5)),
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_field(field: str, config: v1.PodSandboxConfig) -> None:
    with pytest.raises(InvalidArgument) as raised:
        validate_sandbox(sent(config))
    assert str(raised.value).startswith(field)


def with_sysctls(values: dict[str, str], **modes: object) -> v1.PodSandboxConfig:
    config = with_namespaces(**({"pid": OWN} | modes))
    config.linux.sysctls = values
    return config


def test_both_forms_of_a_sysctls_name_are_one() -> None:
    given_names = {"net/ipv4/conf/eth0.1/forwarding": "1", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "5"}
    expected = {"net.ipv4.conf.eth0/1.forwarding": "1", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "5"}
    assert sysctls(with_sysctls(given_names)) == expected


@pytest.mark.parametrize(
    ("name", "value", "modes"),
    [
        ("kernel.core_pattern", "|/bin/evil", {}),
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=x", {}),
        ("net.ipv4.ip_forward", "1\n", {}),
        ("net.ipv4.ip_forward", "1", {"network": HOST}),
        ("kernel.sem", "1", {"ipc": HOST}),
        ("net.../../kernel/core_pattern", "x", {}),
        ("netx.a", "1", {}),
        ("net", "1", {}),
        ("", "1", {}),
    ],
)
def test_sysctls_that_a_pod_cannot_have(name: str, value: str, modes: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match="sysctls"):
        sysctls(with_sysctls({name: value}, **modes))


@given(st.text(max_size=40), st.text(max_size=10))
def test_no_sysctl_leaves_its_place(name: str, value: str) -> None:
    try:
        found = sysctls(with_sysctls({name: value}))
    except InvalidArgument:
        return
    for dotted, content in found.items():
        assert dotted.startswith(("net.", "kernel.", "fs.mqueue."))
        assert ".." not in dotted
        assert not set("\n\r\0+") & set(content)


def test_the_hostname_is_cut_and_the_nodes_with_its_network() -> None:
    assert hostname(pod(hostname="x" * 70), "node") == "x" * 64
    assert hostname(pod(hostname="x" * 63 + "-y"), "node") == "x" * 63
    assert hostname(pod(hostname="é" * 40), "node") == "é" * 32
    assert hostname(pod(), "node") == "node"
    named = with_namespaces(network=HOST)
    named.hostname = "mine"
    assert hostname(named, "node") == "node"


def test_resolv_conf_is_written_as_given_or_not_at_all() -> None:
    dns = v1.DnsConfig(servers=["1.1.1.1", "::1"], searches=["a", "b"], options=["ndots:5", "rotate"])
    assert resolv_conf(dns) == b"nameserver 1.1.1.1\nnameserver ::1\nsearch a b\noptions ndots:5 rotate\n"
    assert resolv_conf(v1.DnsConfig()) is None


def test_the_pause_process_owns_the_pid_namespace_and_joins_the_rest() -> None:
    spec = pause_spec(rootfs="/r", pause="/usr/bin/pause", cgroup="/c", namespaces={"net": "/n", "ipc": "/i"})
    kinds = {each.type: each.path for each in spec.linux.namespaces}
    assert kinds == {"pid": None, "mount": None, "network": "/n", "ipc": "/i"}
    assert spec.root.readonly
    assert spec.process.user.uid != 0
    assert spec.process.capabilities is not None
    assert spec.process.capabilities.bounding == []
