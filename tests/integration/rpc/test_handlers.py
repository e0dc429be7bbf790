"""Runtime handlers and what the operator chooses for them: annotations, hooks, devices, CDI, defaults."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc import mapped
from rpc.node import POD, refusal
from rpc.own import script, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpc.node import Node, Pods

PRECONDITION, INVALID = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT
ZONE = "Pacific/Chatham"
SETTINGS = """
[runtimes.open]
path = "{runtime}"
root = "{scratch}/shared-root"
allowed_annotations = ["example.com/*", "exact"]
hooks_dirs = ["{scratch}/hooks"]
[runtimes.bare]
path = "{runtime}"
privileged_without_host_devices = true
[runtimes.mute]
path = "{scratch}/mute.sh"
[runtimes.vm]
path = "{scratch}/vm.sh"
type = "vm"
root = "{state}/vm"
allowed_annotations = ["dev.gvisor.*"]
[cdi]
spec_dirs = ["{scratch}/cdi-low", "{scratch}/cdi-high"]
[containers]
env = ["OPERATOR=yes", "FROM=operator"]
timezone = "{zone}"
mounts = [{{ source = "{scratch}/extra", destination = "/extra" }}]
[containers.sysctls]
"net.ipv4.ip_unprivileged_port_start" = "7"
[containers.rlimits.nofile]
soft = 1000
hard = 2000
[containers.rlimits.core]
soft = 0
hard = "unlimited"
"""


@pytest.fixture(scope="module", params=["crun", "runc"])
def node(request: pytest.FixtureRequest, layout: Path) -> Iterator[Node]:
    """A server with three handlers more, and with defaults of an operator's choice."""
    if not Path(f"/usr/share/zoneinfo/{ZONE}").exists():
        (pytest.skip)(f"/usr/share/zoneinfo/{ZONE} is not there (tzdata)")

    def settings(made: Node) -> str:
        for name in ("hooks", "cdi-low", "cdi-high", "extra", "seen"):
            (made.scratch / name).mkdir()
        (made.scratch / "extra/file").write_text("extra")
        runtime = Path("/usr/bin") / request.param
        path = runtime if runtime.exists() else Path("/usr/sbin") / request.param
        # What a VM runtime is told: the bundle of each container that it creates.
        keep = 'case " $* " in *" create "*) cp "$PWD/config.json" "%s/$(basename "$PWD")-$$.json" ;; esac\n'
        find = 'while [ "$b" != done ]; do for a in "$@"; do [ "$b" = --bundle ] && cd "$a"; b=$a; done; b=done; done\n'
        script(made.scratch / "vm.sh", find + keep % (made.scratch / "seen") + f'exec {path} "$@"\n')
        mute = f'case "$1" in features | --version) exit 1 ;; esac\nexec {path} "$@"\n'
        script(made.scratch / "mute.sh", mute)
        return SETTINGS.format(runtime=path, scratch=made.scratch, state=made.state, zone=ZONE)

    with serving(request.param, layout, settings) as made:
        yield made


def spec_of(node: Node, container_id: str) -> Any:
    request = pb.ContainerStatusRequest(container_id=container_id, verbose=True)
    return json.loads(node.runtime.ContainerStatus(request).info["info"])["runtimeSpec"]


def creation(sandbox_id: str, **fields: Any) -> pb.CreateContainerRequest:
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="n"), image=pb.ImageSpec(image="busybox"), command=["true"], **fields
    )
    return pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config)


def test_annotations_reach_the_runtime_where_the_handler_allows_them(node: Node, pods: Pods) -> None:
    given = {"example.com/a": "pod", "exact": "pod", "exactly": "no", "run.oci.keep_original_groups": "1"}
    pod = pods.run(pods.config(annotations=given), handler="open")
    found = spec_of(node, pods.create(pod, "true", annotations={"example.com/a": "container"}))["annotations"]
    assert (found["example.com/a"], found["exact"]) == ("container", "pod")
    assert not {"exactly", "run.oci.keep_original_groups"} & found.keys()
    plain = spec_of(node, pods.create(pods.run(pods.config(annotations=given)), "true"))["annotations"]
    assert not given.keys() & plain.keys()


@pytest.fixture
def hook(node: Node) -> Iterator[Path]:
    """A hook that writes its container's state to a file, for those whose annotations say so."""
    written = node.scratch / "hooked"
    program = script(node.scratch / "hook.sh", f"cat > {written}\n")
    content = {
        "version": "1.0.0",
        "hook": {"path": str(program), "args": ["hook.sh"], "timeout": 10},
        "when": {"annotations": {"^hook/.*$": "^yes$"}},
        "stages": ["createRuntime", "poststop"],
    }
    file = node.scratch / "hooks/10.json"
    file.write_text(json.dumps(content))
    yield written
    file.unlink()
    written.unlink(missing_ok=True)


def test_the_operators_hooks_run_where_their_conditions_hold(node: Node, pods: Pods, hook: Path) -> None:
    pod = pods.run(handler="open")
    pods.wait(pods.start(pod, "true", annotations={"hook/x": "no"}))
    assert not hook.exists()
    container_id = pods.start(pod, "true", annotations={"hook/x": "yes"})
    assert json.loads(hook.read_text())["id"] == container_id
    hook.unlink()
    pods.wait(container_id)
    node.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container_id))
    assert json.loads(hook.read_text())["id"] == container_id


def test_a_broken_hook_file_is_named_and_nothing_runs_without_it(node: Node, pods: Pods) -> None:
    pod = pods.run(handler="open")
    broken = node.scratch / "hooks/20.json"
    broken.write_text('{"version": "1.0.0"}')
    try:
        code, words = refusal(node.runtime.CreateContainer, creation(pod))
    finally:
        broken.unlink()
    assert code == PRECONDITION
    assert str(broken) in words


def privileged_pod(pods: Pods, handler: str) -> str:
    context = pb.LinuxSandboxSecurityContext(privileged=True, namespace_options=POD)
    return pods.run(pods.config(linux=pb.LinuxPodSandboxConfig(security_context=context)), handler=handler)


def test_a_handler_can_keep_the_hosts_devices_from_privileged_containers(pods: Pods) -> None:
    context = pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(privileged=True))
    command = ("sh", "-c", "[ -e /dev/kmsg ] && echo kmsg; [ -w /sys/kernel ] && echo sys; ls -d /dev/null")
    assert pods.output(privileged_pod(pods, ""), *command, linux=context).split() == ["kmsg", "sys", "/dev/null"]
    assert pods.output(privileged_pod(pods, "bare"), *command, linux=context).split() == ["sys", "/dev/null"]


def test_a_vm_runtime_makes_the_pod_first_and_is_told_what_belongs_to_it(node: Node, pods: Pods) -> None:
    seen = node.scratch / "seen"
    for file in seen.iterdir():
        file.unlink()
    config = pods.config(annotations={"dev.gvisor.spec.x": "1", "other": "2"}, hostname="inside")
    config.linux.resources.memory_limit_in_bytes = 1 << 28
    config.linux.resources.cpu_shares = 512
    pod = pods.run(config, handler="vm")
    (first,) = (json.loads(file.read_text()) for file in seen.iterdir())
    given = first["annotations"]
    assert given["io.kubernetes.cri.container-type"] == "sandbox"
    assert given["io.kubernetes.cri.sandbox-id"] == pod
    assert given["io.kubernetes.cri.sandbox-name"] == config.metadata.name
    assert (given["io.kubernetes.cri.sandbox-memory"], given["io.kubernetes.cri.sandbox-cpu-shares"]) == (
        str(1 << 28),
        "512",
    )
    assert given["dev.gvisor.spec.x"] == "1"
    assert "other" not in given
    assert first["hostname"] == "inside"
    container_id = pods.sleeper(pod)
    second = spec_of(node, container_id)
    assert second["annotations"]["io.kubernetes.cri.container-type"] == "container"
    assert second["annotations"]["io.kubernetes.cri.sandbox-id"] == pod
    assert second["annotations"]["dev.gvisor.spec.x"] == "1"
    assert {"type": "pid"} in second["linux"]["namespaces"], "its pod does not share processes"
    assert pods.exec(container_id, "hostname").stdout == b"inside\n"
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod))
    assert pods.status(container_id).state == pb.CONTAINER_EXITED


def test_every_container_has_the_operators_defaults(pods: Pods) -> None:
    pod = pods.run()
    script = (
        "echo $OPERATOR $FROM; ulimit -Sn; ulimit -Hn; ulimit -Sc; echo $(cat /extra/file); touch /extra/x || echo ro"
    )
    said = pods.output(pod, "sh", "-c", script, envs=[pb.KeyValue(key="OPERATOR", value="request")])
    assert said.splitlines() == ["request image", "1000", "2000", "0", "extra", "ro"]
    sysctl = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    assert pods.output(pod, "cat", sysctl) == "7"
    own = pods.config()
    own.linux.sysctls["net.ipv4.ip_unprivileged_port_start"] = "9"
    assert pods.output(pods.run(own), "cat", sysctl) == "9"


def test_the_time_zone_is_the_operators_unless_the_request_mounts_one(node: Node, pods: Pods) -> None:
    pod = pods.run()
    wanted = hashlib.md5(Path(f"/usr/share/zoneinfo/{ZONE}").read_bytes(), usedforsecurity=False).hexdigest()
    assert pods.output(pod, "md5sum", "/etc/localtime").split()[0] == wanted
    mine = node.scratch / "mine"
    mine.write_text("mine")
    mounts = [pb.Mount(container_path="/etc/localtime", host_path=str(mine), readonly=True)]
    assert pods.output(pod, "cat", "/etc/localtime", mounts=mounts) == "mine"


def test_containers_that_others_keep_in_a_shared_root_are_left_alone(node: Node, pods: Pods) -> None:
    root, bundle = node.scratch / "shared-root", node.scratch / "foreign"
    bundle.mkdir()
    (bundle / "rootfs/proc").mkdir(parents=True)
    (bundle / "rootfs/dev").mkdir()
    shutil.copy("/bin/busybox", bundle / "rootfs/busybox")
    document = {
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/busybox"], "env": [], "cwd": "/"},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}], "cgroupsPath": f"{node.cgroup}/foreign"},
    }
    (bundle / "config.json").write_text(json.dumps(document))
    runtime = [node.runtime_name, "--root", str(root)]
    subprocess.run([*runtime, "create", "--bundle", str(bundle), "foreign"], check=True, stdout=DEVNULL)
    ours = pods.sleeper(pods.run(handler="open"))
    try:
        node.restart()
        assert {path.name for path in root.iterdir()} == {"foreign", ours}
    finally:
        subprocess.run([*runtime, "delete", "--force", "foreign"], check=True)
    assert pods.exec(ours, "true").exit_code == 0


def test_a_runtime_that_says_nothing_is_not_asked_for_recursive_read_only(node: Node, pods: Pods) -> None:
    mount = pb.Mount(container_path="/v", host_path=str(node.scratch), readonly=True, recursive_read_only=True)
    code, words = refusal(node.runtime.CreateContainer, creation(pods.run(handler="mute"), mounts=[mount]))
    assert code == PRECONDITION
    assert words.startswith("RROUnsupported: config.mounts[0].recursive_read_only")


# CDI


def cdi(node: Node, place: str, name: str, **fields: Any) -> Path:
    """A file of the vendor's with one device."""
    edits = fields.pop("edits", {"env": [f"WHICH={place}"]})
    content = {"cdiVersion": "0.6.0", "kind": "vendor.com/dev", "devices": [{"name": name, "containerEdits": edits}]}
    path = node.scratch / place / f"{name}.json"
    path.write_text(json.dumps(content | fields))
    return path


@pytest.fixture(autouse=True)
def _no_cdi_files_stay(node: Node) -> Iterator[None]:
    yield
    for place in ("cdi-low", "cdi-high"):
        for file in (node.scratch / place).iterdir():
            file.unlink()


def test_a_cdi_device_brings_all_that_its_file_says(node: Node, pods: Pods) -> None:
    library, written = node.scratch / "extra", node.scratch / "cdi-hook"
    program = script(node.scratch / "cdi-hook.sh", f"cat > {written}\n")
    (node.scratch / "cdi-high/all.yaml").write_text(
        f"""cdiVersion: "0.7.0"
kind: vendor.com/gpu
containerEdits:
  env: [COMMON=1]
devices:
  - name: one
    containerEdits:
      env: ["ONE=1", "FROM=cdi"]
      additionalGids: [4242]
      deviceNodes:
        - path: /dev/vendor
          hostPath: /dev/kmsg
          permissions: r
          fileMode: 0640
      mounts:
        - hostPath: {library}
          containerPath: /vendor/lib
          options: [ro, nosuid, nodev, bind]
      hooks:
        - hookName: createRuntime
          path: {program}
  - name: two
    containerEdits:
      env: [TWO=2]
"""
    )
    pod = pods.run()
    script_ = "echo $COMMON$ONE$TWO $FROM; id -G; stat -c '%t:%T %a' /dev/vendor; cat /vendor/lib/file"
    fields: dict[str, Any] = {
        "CDI_devices": [pb.CDIDevice(name="vendor.com/gpu=one")],
        "annotations": {"cdi.k8s.io/x": "vendor.com/gpu=two,vendor.com/gpu=one"},
    }
    assert pods.output(pod, "sh", "-c", script_, **fields).splitlines() == [
        "112 cdi",
        "0 4242",
        "1:b 640",
        "extra",
    ]
    assert json.loads(written.read_text())["id"]
    shown = pods.status(pods.create(pod, "true", **fields)).user.linux
    assert 4242 in shown.supplemental_groups


def test_a_cdi_device_under_another_name_is_there_in_a_user_namespace(node: Node, pods: Pods) -> None:
    (node.scratch / "cdi-high/mapped.yaml").write_text(
        """cdiVersion: "0.7.0"
kind: vendor.com/mapped
devices:
  - name: one
    containerEdits:
      additionalGids: [4242]
      deviceNodes:
        - {path: /dev/vendor, hostPath: /dev/kmsg, permissions: r}
        - {path: /dev/full}
"""
    )
    devices = [pb.CDIDevice(name="vendor.com/mapped=one")]
    script_ = "id -G; stat -c %t:%T /dev/vendor /dev/full; cat /proc/self/uid_map"
    said = pods.output(mapped.pod(pods), "sh", "-c", script_, CDI_devices=devices).split()
    assert said == ["0", "4242", "1:b", "1:7", "0", str(mapped.FIRST), str(mapped.LENGTH)]


def test_a_cdi_file_of_a_later_directory_wins_and_two_of_one_contradict(node: Node, pods: Pods) -> None:
    pod = pods.run()
    devices = [pb.CDIDevice(name="vendor.com/dev=a")]
    low, high = cdi(node, "cdi-low", "a"), cdi(node, "cdi-high", "a")
    assert pods.output(pod, "sh", "-c", "echo $WHICH", CDI_devices=devices) == "cdi-high"
    high.unlink()
    assert pods.output(pod, "sh", "-c", "echo $WHICH", CDI_devices=devices) == "cdi-low"
    second = low.with_name("again.json")
    second.write_bytes(low.read_bytes())
    code, words = refusal(node.runtime.CreateContainer, creation(pod, CDI_devices=devices))
    assert code == PRECONDITION
    assert str(low) in words
    assert str(second) in words


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bad.json", "{"),
        ("bad.yaml", "a: [b"),
        ("bad.yaml", "- 1\n" * 3),
        ("bad.json", "[" * 100000),
        ("bad.json", '{"cdiVersion": "9.0.0", "kind": "a/b", "devices": []}'),
        ("bad.json", '{"cdiVersion": "0.6.0", "kind": "x", "devices": [{"name": "a", "containerEdits": {}}]}'),
        ("bad.json", '{"cdiVersion": "0.6.0", "kind": "a/b", "devices": [{"name": "c", "containerEdits": {"x": 1}}]}'),
    ],
)
def test_a_bad_cdi_file_is_named_and_takes_no_other_down(node: Node, pods: Pods, name: str, content: str) -> None:
    pod = pods.run()
    bad = node.scratch / "cdi-high" / name
    bad.write_text(content)
    cdi(node, "cdi-low", "good")
    good = [pb.CDIDevice(name="vendor.com/dev=good")]
    assert pods.output(pod, "sh", "-c", "echo $WHICH", CDI_devices=good) == "cdi-low"
    missing = creation(pod, CDI_devices=[pb.CDIDevice(name="vendor.com/dev=missing")])
    code, words = refusal(node.runtime.CreateContainer, missing)
    assert code == PRECONDITION
    assert "vendor.com/dev=missing" in words
    assert str(bad) in words


def test_network_devices_are_refused_where_the_runtime_cannot_move_them(node: Node, pods: Pods) -> None:
    edits = {"netDevices": [{"hostInterfaceName": "eth7", "name": "net0"}]}
    cdi(node, "cdi-low", "nic", edits=edits, cdiVersion="1.1.0")
    request = creation(pods.run(), CDI_devices=[pb.CDIDevice(name="vendor.com/dev=nic")])
    code, words = refusal(node.runtime.CreateContainer, request)
    assert code == PRECONDITION
    assert "eth7" in words


def test_a_name_that_is_no_cdi_device_is_invalid(node: Node, pods: Pods) -> None:
    request = creation(pods.run(), CDI_devices=[pb.CDIDevice(name="gpu0")])
    assert refusal(node.runtime.CreateContainer, request)[0] == INVALID
