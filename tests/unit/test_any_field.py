"""Whatever text a field holds, it is refused by name or makes a spec that JSON can hold; nothing else happens."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from test_bad_fields import CONTAINER, POD, container, judge_container, judge_pod, pod, put
from test_translate_containers import inputs
from test_translate_devices import KMSG

from ocishim.api.runtime import v1
from ocishim.errors import InvalidArgument, OcishimError
from ocishim.translate import sandbox
from ocishim.translate.container import container_spec
from ocishim.translate.facts import GrantedDevice, MountSource

TEXT = st.text(max_size=20) | st.sampled_from(["/", "//", "/a", "..", "a=b", "-1", "0", "\x00", "\u2028", "😀" * 100])


def texts(table: dict[str, list[object]]) -> list[str]:
    """Fields that hold text."""
    return [path for path, values in table.items() if all(isinstance(value, str) for value in values)]


@settings(deadline=None)
@given(st.sampled_from(texts(CONTAINER)), TEXT)
def test_a_containers_text(path: str, value: str) -> None:
    config = container()
    put(config, path, value)
    config = v1.ContainerConfig().parse(bytes(config))
    try:
        judge_container(config)
    except InvalidArgument as error:
        assert str(error).startswith("config."), error  # noqa: PT017 - either this or a spec
        return
    facts = inputs(
        config,
        mounts=tuple(MountSource(mount, mount.host_path) for mount in config.mounts),
        devices=tuple(_granted(device) for device in config.devices),
    )
    try:
        made = container_spec(facts)
    except OcishimError:
        return  # what this host lacks
    assert type(made).model_validate_json(made.to_json()) == made


def _granted(device: v1.Device) -> GrantedDevice:

    return GrantedDevice(KMSG, device.container_path, device.permissions)


@settings(deadline=None)
@given(st.sampled_from(texts(POD)), TEXT)
def test_a_pods_text(path: str, value: str) -> None:
    config = pod()
    put(config, path, value)
    config = v1.PodSandboxConfig().parse(bytes(config))
    try:
        judge_pod(config)
    except InvalidArgument as error:
        assert str(error).startswith("config."), error  # noqa: PT017 - either this or settings
        return
    name = sandbox.hostname(config, "node")
    assert len(name.encode()) <= sandbox.LONGEST_HOSTNAME
    written = sandbox.resolv_conf(config.dns_config) or b""
    assert written.count(b"\n") == 3


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    try:
        config = v1.ContainerConfig().parse(content)
    except Exception:  # noqa: BLE001 - no message at all: the codec's affair
        return
    try:
        judge_container(config)
    except InvalidArgument:
        return
