"""Statistics and metrics as messages: what is encoded by hand is what the generated code would have made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ocishim.api.runtime import v1
from ocishim.cri.metrics_encoding import MetricsEncoder
from ocishim.cri.stats_encoding import Encoder, network_usage, psi
from ocishim.lifecycle.stats import ContainerUsage, SandboxSample, SandboxUsage
from ocishim.lifecycle.usage import Sample
from ocishim.metrics.kernel import LARGEST, Interface, Pressure, Stall
from ocishim.metrics.usage import Cpu, Memory, Usage

numbers = st.integers(0, LARGEST)
texts = st.text(max_size=20)


class Object:
    """A pod or a container, as far as encoders look at them."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def container(**labels: str) -> Any:
    metadata = SimpleNamespace(id="c" * 64, name="main", attempt=2)
    return Object(metadata=metadata, config=v1.ContainerConfig(labels=labels))


def sandbox(namespace: str = "ns", name: str = "pod") -> Any:
    metadata = SimpleNamespace(
        id="a" * 64, name=name, namespace=namespace, uid="u", attempt=1, cgroup_parent="/kubepods/pod1"
    )
    return Object(id="a" * 64, metadata=metadata, config=v1.PodSandboxConfig(labels={"app": "a"}))


def interface(name: str, counter: int = 1) -> Interface:
    return Interface(name, *([counter] * 8))


def test_what_is_not_known_is_absent_and_zero_is_there() -> None:
    usage = Usage(Cpu(5, 0, None), Memory(6, 10, None, None, 0, None, None, None), None, None)
    found = ContainerUsage(container(), usage, None, None)
    answer = v1.ContainerStats().parse(Encoder("/containers").container(found))
    assert bytes(answer.cpu) == bytes(v1.CpuUsage(timestamp=5, usage_core_nano_seconds=v1.UInt64Value(value=0)))
    expected = v1.MemoryUsage(timestamp=6, usage_bytes=v1.UInt64Value(value=10), rss_bytes=v1.UInt64Value(value=0))
    assert bytes(answer.memory) == bytes(expected)
    assert b"".join(bytes(part) for part in (answer.swap, answer.io, answer.writable_layer)) == b""


@given(used=numbers, cores=st.none() | numbers, label=texts)
def test_an_entry_is_the_whole_message_whoever_encoded_its_parts(used: int, cores: int | None, label: str) -> None:
    found = ContainerUsage(container(key=label), Usage(Cpu(5, used, None), None, None, None), cores, Sample(1, 2, 3))
    encoder = Encoder("/containers")
    first, again = (v1.ContainerStats().parse(encoder.container(found)) for _ in range(2))
    assert first == again
    assert first.attributes.labels == {"key": label}
    assert (first.attributes.id, first.attributes.metadata.attempt) == ("c" * 64, 2)
    assert first.cpu.usage_core_nano_seconds.value == used
    assert first.cpu.usage_nano_cores.value == (cores or 0)
    assert (first.writable_layer.used_bytes.value, first.writable_layer.inodes_used.value) == (1, 2)


def test_a_pod_of_which_nothing_is_known_yet_still_has_its_part_for_linux() -> None:
    found = SandboxUsage(sandbox(), Usage(None, None, None, None), None, None, 0, None, 0, [])
    encoded = Encoder("/containers").sandbox(found)
    answer = v1.PodSandboxStats().parse(encoded)
    assert answer.attributes.labels == {"app": "a"}
    assert bytes([2 << 3 | 2, 0]) in encoded


def test_the_interface_that_cni_made_is_the_default_one_and_stands_in_no_second_place() -> None:
    found = network_usage((interface("aaa"), interface("eth0"), interface("zzz")), 7)
    answer = v1.NetworkUsage().parse(found)
    assert answer.default_interface.name == "eth0"
    assert [each.name for each in answer.interfaces] == ["aaa", "zzz"]
    renamed = v1.NetworkUsage().parse(network_usage((interface("renamed"),), 7))
    assert renamed.default_interface.name == "renamed"
    assert network_usage((), 7) == bytes(v1.NetworkUsage(timestamp=7))


def test_half_of_a_pressure_file_is_half_of_the_message() -> None:
    answer = v1.PsiStats().parse(psi(Pressure(Stall(5, 1.5, 0.0, 0.25), None)))
    assert bytes(answer) == bytes(v1.PsiStats(some=v1.PsiData(total=5, avg10=1.5, avg300=0.25)))


@given(namespace=texts, name=texts, interfaces=st.lists(texts, max_size=3, unique=True), counter=numbers)
def test_samples_written_by_hand_are_read_by_the_generated_code(
    namespace: str, name: str, interfaces: list[str], counter: int
) -> None:
    pod = sandbox(namespace, name)
    sample = SandboxSample(pod, tuple(interface(each, counter) for each in interfaces), [])
    answer = v1.PodSandboxMetrics().parse(MetricsEncoder("/").sandbox(sample))
    assert answer.pod_sandbox_id == "a" * 64
    assert len(answer.metrics) == 8 * len(interfaces)
    for each in answer.metrics:
        assert each.label_values[:6] == ["/kubepods/pod1", "a" * 64, "", namespace, name, ""]
        assert each.label_values[6] in interfaces
        assert (each.value.value, each.timestamp) == (counter, 0)
        assert each.metric_type == v1.MetricType.COUNTER
        assert bytes(v1.Metric().parse(bytes(each))) == bytes(each)
