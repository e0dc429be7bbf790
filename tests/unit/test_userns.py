"""User namespaces: which mappings are taken, what ids become of them, and what config.json says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.api.runtime import v1
from ocishim.errors import InvalidArgument
from ocishim.spec.runtime import RuntimeSpec
from ocishim.translate import userns
from ocishim.translate.container import container_spec
from ocishim.translate.facts import ContainerInputs, HostFacts, Identity, ImageFacts, SandboxFacts
from ocishim.translate.sandbox import pause_spec, pause_user, pinned_kinds
from ocishim.translate.userns import IDS, OVERFLOW, IdMappings, IdRange
from ocishim.translate.validate import validate_container, validate_sandbox

if TYPE_CHECKING:
    from collections.abc import Sequence

POD, OWN, NODE, TARGET = (v1.NamespaceMode(number) for number in (0, 1, 2, 3))
HOST, LENGTH = 100_000, 65_536
MAPPINGS = IdMappings((IdRange(0, HOST, LENGTH),), (IdRange(0, 2 * HOST, LENGTH),))
Given = tuple[int, int, int]
"""container_id, host_id, length."""
ONE: Sequence[Given] = ((0, HOST, LENGTH),)


def ids(given_ids: Sequence[Given]) -> list[v1.IdMapping]:
    return [v1.IdMapping(container_id=inside, host_id=host, length=length) for inside, host, length in given_ids]


def options(
    uids: Sequence[Given] = ONE, gids: Sequence[Given] = ONE, mode: int = POD, **modes: object
) -> v1.NamespaceOption:
    wanted = v1.UserNamespace(mode=v1.NamespaceMode(mode), uids=ids(uids), gids=ids(gids))
    made = v1.NamespaceOption(userns_options=wanted, **modes)  # type: ignore[arg-type] # modes
    return v1.NamespaceOption().parse(bytes(made))


def pod(chosen: v1.NamespaceOption) -> v1.PodSandboxConfig:
    context = v1.LinuxSandboxSecurityContext(namespace_options=chosen)
    made = v1.PodSandboxConfig(
        metadata=v1.PodSandboxMetadata(name="n", namespace="ns", uid="u"),
        linux=v1.LinuxPodSandboxConfig(security_context=context),
    )
    return v1.PodSandboxConfig().parse(bytes(made))


def container(chosen: v1.NamespaceOption | None = None, **fields: object) -> v1.ContainerConfig:
    context = v1.LinuxContainerSecurityContext(namespace_options=chosen or v1.NamespaceOption(pid=OWN))
    named: dict[str, object] = {
        "metadata": v1.ContainerMetadata(name="c"),
        "image": v1.ImageSpec(image="busybox"),
        "command": ["true"],
        "linux": v1.LinuxContainerConfig(security_context=context),
    }
    made = v1.ContainerConfig(**(named | fields))  # type: ignore[arg-type] # each of its own type
    return v1.ContainerConfig().parse(bytes(made))


def volume(uids: Sequence[Given] = ONE, gids: Sequence[Given] = ONE, **fields: object) -> v1.Mount:
    return v1.Mount(
        container_path="/vol",
        host_path="" if "image" in fields else "/srv",
        uid_mappings=ids(uids),
        gid_mappings=ids(gids),
        **fields,  # type: ignore[arg-type] # each of its own type
    )


# What is taken


def test_a_pod_with_mappings_has_a_user_namespace_that_owns_the_others() -> None:
    config = pod(options(gids=((0, 2 * HOST, LENGTH),)))
    validate_sandbox(config)
    assert pinned_kinds(config) == ("user", "net", "uts", "ipc")
    assert userns.of_pod(config) == MAPPINGS


@pytest.mark.parametrize(
    "chosen", [v1.NamespaceOption(pid=OWN), v1.NamespaceOption(), options((), (), NODE)], ids=["unsaid", "none", "NODE"]
)
def test_the_hosts_user_namespace_is_used_unless_asked_otherwise(chosen: v1.NamespaceOption) -> None:
    config = pod(chosen)
    validate_sandbox(config)
    assert "user" not in pinned_kinds(config)
    assert userns.of_pod(config) is None


def test_the_hosts_network_can_be_joined_from_a_user_namespace() -> None:
    assert pinned_kinds(pod(options(network=NODE))) == ("user", "ipc")


PATH = "config.linux.security_context.namespace_options.userns_options"


@pytest.mark.parametrize(
    ("field", "chosen"),
    [
        (".mode: 'CONTAINER'", options(mode=OWN)),
        (".mode: 'TARGET'", options(mode=TARGET)),
        (".uids: 0 mappings", options((), ())),
        (".uids: 0 mappings", options(())),
        (".gids: 0 mappings", options(gids=())),
        (".uids: 2 mappings", options(((0, HOST, 10), (10, 5 * HOST, 10)))),
        (".uids: 2 mappings", options(((0, HOST, 10), (5, HOST, 10)))),
        (".gids: 2 mappings", options(gids=((0, HOST, 10), (0, HOST, 10)))),
        (".uids: the host's", options(gids=(), mode=NODE)),
        (".gids: the host's", options((), mode=NODE)),
        (".uids[0].length: 0", options(((0, HOST, 0),))),
        (".gids[0].length: 0", options(gids=((0, HOST, 0),))),
        (".uids[0].container_id: 1", options(((1, HOST, 10),))),
        (".gids[0].container_id: 4294967295", options(gids=((IDS, HOST, 1),))),
        (".uids[0].host_id: 4294967295", options(((0, IDS, 1),))),
        (".uids[0].host_id: 4294967290", options(((0, IDS - 5, 6),))),
        (".gids[0].length: 10", options(gids=((0, HOST, 10),))),
    ],
)
def test_what_a_pod_cannot_have_is_refused_with_path_and_value(field: str, chosen: v1.NamespaceOption) -> None:
    with pytest.raises(InvalidArgument) as refused:
        validate_sandbox(pod(chosen))
    assert str(refused.value).startswith(f"{PATH}{field}")


def test_the_last_id_can_be_mapped_and_none_beyond_it() -> None:
    validate_sandbox(pod(options(((0, IDS - 5, 5),), ((0, IDS - 5, 5),))))
    validate_sandbox(pod(options(((0, 0, IDS),), ((0, 0, IDS),))))


def test_a_mode_that_the_schema_does_not_know_is_refused() -> None:
    unknown = v1.NamespaceOption(userns_options=v1.UserNamespace(mode=17, uids=ids(ONE), gids=ids(ONE)))  # type: ignore[arg-type] # that is the point
    with pytest.raises(InvalidArgument, match=r"userns_options\.mode: 17"):
        validate_sandbox(pod(unknown))


def test_a_container_says_nothing_or_what_its_pod_says() -> None:
    own, hosts = pod(options()), pod(v1.NamespaceOption(pid=OWN))
    validate_container(container(), own)
    validate_container(container(options()), own)
    validate_container(container(options((), (), NODE)), hosts)


@pytest.mark.parametrize(
    ("asked", "of"),
    [
        (options(((0, HOST + 1, LENGTH),)), options()),
        (options(((0, HOST, 10),), ((0, HOST, 10),)), options()),
        (options((), (), NODE), options()),
        (options(), v1.NamespaceOption(pid=OWN)),
        (options(), options((), (), NODE)),
    ],
)
def test_a_container_that_contradicts_its_pod_is_refused(asked: v1.NamespaceOption, of: v1.NamespaceOption) -> None:
    with pytest.raises(InvalidArgument, match=r"userns_options: .* differs from the pod's "):
        validate_container(container(asked), pod(of))


def test_a_mount_may_have_ranges_of_its_own() -> None:
    several = ((0, HOST, 10), (10, 5, 1), (1000, 3 * HOST, 100))
    validate_container(container(mounts=[volume(several, several)]), pod(options()))
    validate_container(container(mounts=[volume()]), pod(v1.NamespaceOption()))
    most = [(number, number, 1) for number in range(userns.MOST_RANGES)]
    validate_container(container(mounts=[volume(most, most)]), pod(options()))


BIDIRECTIONAL = v1.MountPropagation.PROPAGATION_BIDIRECTIONAL
IMAGE = v1.ImageSpec(image="models")


@pytest.mark.parametrize(
    ("field", "mount"),
    [
        ("uidMappings is required", volume(uids=())),
        ("gidMappings is required", volume(gids=())),
        ("uidMappings[1].length: 0", volume(((0, HOST, 1), (1, 5, 0)))),
        ("uidMappings[0].container_id: 4294967295", volume(((IDS, HOST, 1),))),
        ("gidMappings[0].host_id: 4294967294", volume(gids=((0, IDS - 1, 2),))),
        ("uidMappings.container_id: 9 is in two", volume(((0, HOST, 10), (9, 5, 1)))),
        ("gidMappings.host_id: 100000 is in two", volume(gids=((0, HOST, 10), (10, HOST, 1)))),
        ("uidMappings: 341 mappings", volume([(number, number, 1) for number in range(341)])),
        ("propagation: PROPAGATION_BIDIRECTIONAL", volume(propagation=BIDIRECTIONAL)),
        ("propagation: PROPAGATION_BIDIRECTIONAL", volume((), (), propagation=BIDIRECTIONAL)),
        ("uidMappings: uids '0 100000 9'", volume(((0, HOST, 9),), ((0, HOST, 9),), image=IMAGE, readonly=True)),
    ],
)
def test_what_a_mount_cannot_have_is_refused(field: str, mount: v1.Mount) -> None:
    with pytest.raises(InvalidArgument) as refused:
        validate_container(container(mounts=[mount]), pod(options()))
    assert str(refused.value).startswith(f"config.mounts[0].{field}")


def test_an_image_volume_may_be_mapped_as_its_pod_and_not_without_one() -> None:
    image = volume(image=IMAGE, readonly=True)
    validate_container(container(mounts=[image]), pod(options()))
    with pytest.raises(InvalidArgument, match="the host's user namespace"):
        validate_container(container(mounts=[image]), pod(v1.NamespaceOption(pid=OWN)))


numbers = st.one_of(st.integers(0, 5), st.integers(0, 2**32 - 1), st.integers(2**32 - 5, 2**32 - 1))


@given(
    st.lists(st.tuples(numbers, numbers, numbers), max_size=4),
    st.lists(st.tuples(numbers, numbers, numbers), max_size=2),
)
def test_whatever_is_accepted_maps_each_id_to_one_of_its_own(uids: list[Given], gids: list[Given]) -> None:
    mount = volume(uids, gids)
    try:
        userns.check_mount("m", mount, v1.NamespaceOption())
    except InvalidArgument:
        return
    mappings = userns.of_mount(mount)
    if mappings is None:
        assert not uids
        assert not gids
        return
    for ranges in (mappings.uids, mappings.gids):
        edges = [edge for each in ranges for edge in (each.container, each.container + each.length - 1)]
        hosts = [userns.outside(ranges, edge) for edge in edges]
        assert all(host is not None and host < IDS for host in hosts)
        assert len({*zip(edges, hosts, strict=True)}) == len(set(edges)) == len(set(hosts))


@given(
    st.lists(st.tuples(numbers, numbers, numbers), max_size=3),
    st.lists(st.tuples(numbers, numbers, numbers), max_size=3),
    st.integers(0, 3),
)
def test_any_pod_is_taken_or_refused_by_a_field(uids: list[Given], gids: list[Given], mode: int) -> None:
    config = pod(options(uids, gids, mode))
    words = ""
    try:
        validate_sandbox(config)
    except InvalidArgument as refused:
        words = str(refused)
    if words:
        assert words.startswith(PATH)
        return
    mappings = userns.of_pod(config)
    assert (mappings is not None) == (mode == POD)
    if mappings is not None:
        assert userns.outside(mappings.uids, 0) == uids[0][1]


# What ids become


@given(st.integers(0, 2**32 - 1))
def test_ids_are_shifted_within_the_range_and_nobodys_beyond_it(number: int) -> None:
    expected = HOST + number if number < LENGTH else OVERFLOW
    assert MAPPINGS.uid(number) == expected
    assert MAPPINGS.gid(number) == (expected + HOST if number < LENGTH else OVERFLOW)


def test_the_kernel_reads_a_range_a_line() -> None:
    assert userns.id_map((IdRange(0, 5, 1), IdRange(7, 9, 3))) == "0 5 1\n7 9 3\n"


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ("0 2147483647", "200000 265535"),
        ("0\t0", "200000 200000"),
        ("1000 1005", "201000 201005"),
        ("1 0", "1 0"),
        ("70000 80000", "1 0"),
        ("many", "many"),
        ("1 2 3", "1 2 3"),
        ("", ""),
    ],
)
def test_groups_that_may_ping_are_written_as_the_hosts(inside: str, outside: str) -> None:
    given_sysctls = {"net.ipv4.ping_group_range": inside, "net.ipv4.ip_forward": "1"}
    written = userns.sysctls_outside(given_sysctls, MAPPINGS)
    assert written == {"net.ipv4.ping_group_range": outside, "net.ipv4.ip_forward": "1"}
    assert userns.sysctls_outside(given_sysctls, None) == given_sysctls


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (Identity(LENGTH, 0, (0,), "/"), f"user {LENGTH} is not mapped"),
        (Identity(0, LENGTH, (0,), "/"), f"group {LENGTH} is not mapped"),
        (Identity(0, 0, (0, 5, LENGTH + 1), "/"), f"group {LENGTH + 1} is not mapped"),
    ],
)
def test_nobody_runs_as_an_id_that_the_pod_lacks(identity: Identity, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        userns.check_identity(identity, MAPPINGS)
    userns.check_identity(identity, None)
    userns.check_identity(Identity(LENGTH - 1, LENGTH - 1, (0,), "/"), MAPPINGS)


# What config.json says


def spec(
    kinds: Sequence[str] = ("user", "net", "ipc", "uts"), mappings: IdMappings | None = MAPPINGS, **changes: object
) -> RuntimeSpec:
    sandbox = SandboxFacts(
        id="s",
        name="pod",
        namespace="ns",
        uid="uid",
        hostname="host",
        namespaces={kind: f"/ns/{kind}" for kind in kinds},
        resolv_conf="/pod/resolv.conf",
        hostname_file="/pod/hostname",
        shm="/pod/shm",
        mappings=mappings,
        host_mqueue=bool(changes.pop("host_mqueue", True)),
    )
    host = HostFacts("x86_64", True, False, True, False, False, frozenset(), False, 0)
    inputs = ContainerInputs(
        id="c",
        config=container(changes.pop("options", None), **changes),  # type: ignore[arg-type] # options or None
        sandbox=sandbox,
        image=ImageFacts(),
        image_name="busybox",
        identity=Identity(0, 0, (0,), "/"),
        host=host,
        rootfs="/rootfs",
        cgroup="/c",
    )
    return container_spec(inputs)


def test_the_user_namespace_is_joined_before_what_it_owns_and_its_mappings_are_told() -> None:
    made = spec()
    joined = [(each.type, each.path) for each in made.linux.namespaces]
    assert joined.index(("user", "/ns/user")) < joined.index(("network", "/ns/net"))
    assert b'"uidMappings":[{"containerID":0,"hostID":100000,"size":65536}]' in made.to_json()
    assert b'"gidMappings":[{"containerID":0,"hostID":200000,"size":65536}]' in made.to_json()
    assert RuntimeSpec.model_validate_json(made.to_json()) == made
    plain = spec(("net", "ipc", "uts"), None).to_json()
    assert b"Mappings" not in plain
    assert b'"user"}' not in plain


def sources(made: RuntimeSpec) -> dict[str, str]:
    return {each.destination: each.type for each in made.mounts}


def test_what_belongs_to_the_hosts_namespaces_is_bound_and_not_mounted() -> None:
    own = sources(spec())
    assert (own["/sys"], own["/dev/mqueue"], own["/proc"]) == ("sysfs", "mqueue", "proc")
    assert sources(spec(("user", "ipc")))["/sys"] == "bind"
    assert sources(spec(("user", "net", "uts")))["/dev/mqueue"] == "bind"
    assert "/dev/mqueue" not in sources(spec(("user", "net", "uts"), host_mqueue=False))
    assert sources(spec(options=v1.NamespaceOption(pid=NODE)))["/proc"] == "bind"
    hosts = sources(spec((), None, options=v1.NamespaceOption(pid=NODE)))
    assert (hosts["/sys"], hosts["/dev/mqueue"], hosts["/proc"]) == ("sysfs", "mqueue", "proc")


def test_terminals_belong_to_group_5_where_the_pod_has_it() -> None:
    few = IdMappings((IdRange(0, HOST, 5),), (IdRange(0, HOST, 5),))
    told = [
        next(each for each in spec(mappings=given).mounts if each.destination == "/dev/pts")
        for given in (MAPPINGS, few)
    ]
    assert ["gid=5" in each.options for each in told] == [True, False]


def test_the_pause_process_is_nobody_in_the_pods_user_namespace() -> None:
    few = IdMappings((IdRange(0, HOST, 5),), (IdRange(0, HOST, 5),))
    for mappings, uid in ((None, 65535), (MAPPINGS, 65535), (few, 4)):
        kinds = {"user": "/ns/user", "net": "/ns/net"} if mappings else {"net": "/ns/net"}
        assert pause_user(v1.LinuxSandboxSecurityContext(), mappings) == (uid, uid, ())
        made = pause_spec(rootfs="/r", pause="/p", cgroup="/c", namespaces=kinds, mappings=mappings)
        assert (made.linux.uid_mappings is None) == (mappings is None)
        assert ("user" in {each.type for each in made.linux.namespaces}) == (mappings is not None)


def test_a_pause_process_that_the_pod_has_no_user_for_is_refused() -> None:
    context = v1.LinuxSandboxSecurityContext(run_as_user=v1.Int64Value(value=LENGTH), supplemental_groups=[5])
    sent = v1.LinuxSandboxSecurityContext().parse(bytes(context))
    with pytest.raises(InvalidArgument, match=f"user {LENGTH} is not mapped"):
        pause_user(sent, MAPPINGS)
    assert pause_user(sent) == (LENGTH, 65535, (5,))
