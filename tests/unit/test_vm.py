"""`./dev test-vm` decides rightly what the guest is made of, how it starts, and what its output means."""

from __future__ import annotations

import io
import itertools
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vm import machine, plan
from vm.teller import Teller

TOP = Path(__file__).resolve().parents[2]
PLAIN = plan.options([])
MACHINE = plan.Machine(
    kernel="/c/kernel", initrd="/c/initrd", image="/c/image", job="/c/job", console="/c/console", accelerator="tcg"
)
TOKEN = "0123456789abcdef"


def test_without_arguments_the_default_tests_run_on_v2() -> None:
    assert PLAIN.cgroup == "v2"
    assert set(plan.DEFAULT_TESTS) <= set(plan.pytest_arguments(PLAIN.pytest, 1))


def test_every_default_test_is_there() -> None:
    assert [name for name in plan.DEFAULT_TESTS if not (TOP / name).is_file()] == []


def test_what_is_no_option_of_ours_goes_to_pytest_in_its_order() -> None:
    wanted = plan.options(["-x", "--cgroup", "v1", "tests/unit", "-k", "a and b", "--timeout", "5"])
    assert wanted.cgroup == "v1"
    assert wanted.pytest == ("-x", "tests/unit", "-k", "a and b", "--timeout", "5")
    assert plan.pytest_arguments(wanted.pytest, 1)[-6:] == list(wanted.pytest)


@pytest.mark.parametrize("wrong", ["0", "-1", "two", "1.5", ""])
@pytest.mark.parametrize("option", ["--cpus", "--memory", "--time-limit"])
def test_a_number_that_cannot_be_is_refused_by_name(
    option: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        plan.options([f"{option}={wrong}"])
    assert option in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cgroup", "parameters"),
    [
        ("v2", {"systemd.unified_cgroup_hierarchy=1"}),
        ("hybrid", {"systemd.unified_cgroup_hierarchy=0"}),
        ("v1", {"systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=1"}),
    ],
)
def test_the_kernel_is_told_which_hierarchy_systemd_shall_mount(cgroup: plan.Cgroup, parameters: set[str]) -> None:
    words = plan.kernel_command_line(cgroup).split()
    assert {word for word in words if "cgroup" in word} == parameters
    assert {"console=ttyS0", "root=/dev/vda"} <= set(words)


def test_the_root_disk_is_never_written_and_the_checkout_is_read_only() -> None:
    drives = values(plan.qemu_command(MACHINE, PLAIN), "-drive")
    assert [drive.split(",")[0] for drive in drives] == ["file=/c/image", "file=/c/job"]
    assert drives[0].endswith(",snapshot=on")
    assert drives[1].endswith(",readonly=on")


def test_the_guest_has_no_network() -> None:
    command = plan.qemu_command(MACHINE, PLAIN)
    assert "-nodefaults" in command
    assert not [word for word in command if word.startswith(("-net", "-nic"))]


def test_a_comma_in_a_path_does_not_begin_an_option() -> None:
    command = plan.qemu_command(replace(MACHINE, image="/a,b/image"), PLAIN)
    assert values(command, "-drive")[0].startswith("file=/a,,b/image,if=virtio")


def values(command: list[str], option: str) -> list[str]:
    return [value for word, value in itertools.pairwise(command) if word == option]


@pytest.mark.parametrize(
    ("cpuinfo", "opens", "chosen"),
    [
        ("flags : fpu svm sse", True, "kvm"),
        ("flags : fpu vmx sse", True, "kvm"),
        ("flags : fpu vmx sse", False, "tcg"),
        ("flags : fpu sse vmxish", True, "tcg"),  # a guest that offers /dev/kvm to kernels of its own kind only
    ],
)
def test_kvm_is_used_where_the_processor_has_it_too(cpuinfo: str, opens: bool, chosen: str) -> None:
    assert plan.accelerator(cpuinfo, kvm_opens=opens) == chosen


def test_an_emulated_machine_has_more_time_for_a_test() -> None:
    assert f"timeout={plan.TEST_TIMEOUT * 10}" in plan.pytest_arguments([], 10)


def test_the_tests_are_told_how_patient_to_be_and_which_driver_to_use() -> None:
    told = plan.environment(plan.options(["--driver", "systemd"]), 10)
    assert told == {"OCISHIM_TEST_PATIENCE": "10", "OCISHIM_TEST_CGROUP_DRIVER": "systemd"}
    node = (TOP / "tests/integration/rpc/node.py").read_text(encoding="utf-8")
    assert all(f'os.environ.get("{name}"' in node for name in told)


def test_the_same_packages_in_another_order_are_the_same_guest() -> None:
    one, other = plan.guest_packages(["crun", "runc"]), plan.guest_packages(["runc", "crun", "crun"])
    assert plan.fingerprint(one) == plan.fingerprint(other)
    assert plan.fingerprint(one) != plan.fingerprint(plan.guest_packages(["crun"]))
    assert plan.KERNEL in one


def test_the_guest_gets_what_the_project_and_its_tests_require() -> None:
    found = plan.requirements((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    names = {name.partition(">")[0].partition("=")[0] for name in found}
    assert {"grpclib", "pydantic", "pytest", "container-runtime-interface-api"} <= names
    assert "ruff" not in names


def test_pip_fetches_for_the_guest_and_not_for_this_python() -> None:
    arguments = plan.pip_arguments("/root/opt/site", ["a>=1"])
    assert values(arguments, "--python-version") == ["3.11"]
    assert "manylinux_2_36_x86_64" in values(arguments, "--platform")
    assert "manylinux_2_37_x86_64" not in values(arguments, "--platform")
    assert arguments[-1] == "a>=1"


@pytest.mark.parametrize(
    ("targets", "mirror"),
    [
        ("http://near/debian/ bookworm Debian\nhttp://far/debian/ bookworm Debian\n", "http://near/debian"),
        ("http://s/debian-security/ bookworm-security Debian\n", plan.DEFAULT_MIRROR),
        ("https://other/apt bookworm Somebody\n", plan.DEFAULT_MIRROR),
        ("cdrom://x/ bookworm Debian\n", plan.DEFAULT_MIRROR),
        ("", plan.DEFAULT_MIRROR),
        ("\nE: garbage\n", plan.DEFAULT_MIRROR),
    ],
)
def test_the_mirror_is_the_one_that_apt_uses_for_the_suite(targets: str, mirror: str) -> None:
    assert plan.mirror(targets) == mirror


def test_an_event_is_told_from_what_the_tests_write() -> None:
    assert plan.event(f"::{TOKEN} exit 5\n", TOKEN) == plan.Event("exit", "5")
    assert plan.event(f"::{TOKEN} started Linux 6.1, up\r\n", TOKEN) == plan.Event("started", "Linux 6.1, up")
    assert plan.event(f"no newline before::{TOKEN} exit 0\n", TOKEN) == plan.Event("exit", "0")
    assert plan.event("::fedcba9876543210 exit 0\n", TOKEN) is None


@given(st.text())
def test_nothing_without_the_token_is_an_event(line: str) -> None:
    assert plan.event(line, TOKEN) is None


@given(st.text())
def test_only_a_zero_is_success(detail: str) -> None:
    code = plan.exit_code(detail)
    assert 0 <= code < 256
    assert (code == 0) == (detail in ("0", "00", "000"))


@pytest.mark.parametrize(("detail", "code"), [("0", 0), ("1", 1), ("137", 137), ("256", 1), ("-1", 1), ("", 1)])
def test_the_tests_exit_code_is_passed_on(detail: str, code: int) -> None:
    assert plan.exit_code(detail) == code


class Listener(Teller):
    """Keeps what the user would see."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = ""

    def show(self, text: str) -> None:
        self.shown += text


def follow(output: bytes) -> tuple[int | None, str]:
    listener = Listener()
    return machine.follow(io.BytesIO(output), TOKEN, listener), listener.shown


def test_output_is_shown_as_it_is_until_the_guest_tells_the_exit_code() -> None:
    code, shown = follow(f"one\n\xff two\n::{TOKEN} exit 3\nlate\n".encode("latin-1"))
    assert code == 3
    assert shown == "one\n\ufffd two\n"


def test_output_that_ends_without_an_exit_code_has_none() -> None:
    assert follow(b"one\n::fedcba9876543210 exit 0\n")[0] is None


def test_what_a_killed_run_left_is_swept_and_what_another_uses_is_not(tmp_path: Path) -> None:
    left = tmp_path / "run-left"
    left.mkdir()
    with machine.scratch_directory(tmp_path) as other:
        (other / "disk").touch()
        with machine.scratch_directory(tmp_path) as ours:
            assert {path.name for path in tmp_path.glob("run-*")} == {other.name, ours.name}
            assert (other / "disk").exists()
    assert list(tmp_path.glob("run-*")) == []


def test_the_guest_gets_the_checkout_without_hidden_and_made_files(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("tests/test_a.py", ".venv/bin/python", ".git/config", "ocishim/__pycache__/a.pyc", "a.egg-info/b"):
        (checkout / name).parent.mkdir(parents=True)
        (checkout / name).touch()
    machine.pack(checkout, b"{}", tmp_path / "disk")
    with tarfile.open(tmp_path / "disk") as tar:
        assert {member.name for member in tar if member.isfile()} == {"ocishim/tests/test_a.py", "job.json"}
