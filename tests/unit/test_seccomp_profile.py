"""The profile behind RuntimeDefault: fresh, and in effect what the ecosystem's are, but for what is said here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ocishim.translate import seccomp
from ocishim.translate.security import DEFAULT_CAPABILITIES, KERNEL_CAPABILITIES

if TYPE_CHECKING:
    from ocishim.spec.seccomp import Profile

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "bundles"))

import seccomp_profile  # noqa: E402 - bundles/ is no package

DEBIANS = Path("/usr/share/containers/seccomp.json")
EPERM = 1


def read(path: Path) -> Profile:
    return seccomp.parse(path.read_bytes(), str(path))


def effect(profile: Profile, capabilities: tuple[str, ...], machine: str = "x86_64") -> dict[str, str]:
    """What each system call that the profile names gets: allow, refuse, or both by its arguments."""
    found: dict[str, set[str]] = {}
    rules = seccomp.seccomp_filter(profile, machine=machine, capabilities=capabilities, kernel=(6, 1)).syscalls
    for rule in rules:
        kind = "allow" if rule.action == "SCMP_ACT_ALLOW" else "refuse"
        for name in rule.names:
            # libseccomp lets a rule without conditions win over those that have some.
            found.setdefault(name, set()).add(f"{kind} by arguments" if rule.args else kind)
    return {
        name: next((plain for plain in ("allow", "refuse") if plain in kinds), "by arguments")
        for name, kinds in found.items()
    }


OURS = read(seccomp_profile.FILE)


def test_the_file_is_what_the_table_says() -> None:
    assert seccomp_profile.FILE.read_text() == seccomp_profile.content(), "run: python bundles/seccomp_profile.py"


def test_no_call_is_in_two_groups_and_every_group_says_why() -> None:
    groups = [*seccomp_profile.GROUPS, *seccomp_profile.DENIED]
    by_arch = {name for group in groups if group.arches for name in group.names.split()}
    names = [name for group in groups if not group.arches for name in group.names.split()]
    assert len(names) == len(set(names))
    assert not by_arch & set(names)
    assert all(group.why for group in groups)


@pytest.mark.parametrize(
    ("call", "capability"),
    [
        ("mount", "CAP_SYS_ADMIN"),
        ("unshare", "CAP_SYS_ADMIN"),
        ("setns", "CAP_SYS_ADMIN"),
        ("bpf", "CAP_BPF"),
        ("perf_event_open", "CAP_PERFMON"),
        ("syslog", "CAP_SYSLOG"),
        ("reboot", "CAP_SYS_BOOT"),
        ("init_module", "CAP_SYS_MODULE"),
        ("settimeofday", "CAP_SYS_TIME"),
        ("mbind", "CAP_SYS_NICE"),
        ("pidfd_getfd", "CAP_SYS_PTRACE"),
        ("open_by_handle_at", "CAP_DAC_READ_SEARCH"),
    ],
)
def test_a_capability_opens_its_calls_and_no_other_does(call: str, capability: str) -> None:
    assert effect(OURS, (capability,))[call] == "allow"
    others = tuple(each for each in KERNEL_CAPABILITIES if each not in (capability, "CAP_SYS_ADMIN"))
    assert effect(OURS, others)[call] == "refuse"


def test_a_refused_call_answers_eperm_and_an_unknown_one_enosys() -> None:
    made = seccomp.seccomp_filter(OURS, machine="x86_64", capabilities=(), kernel=(6, 1))
    assert (made.default_action, made.default_errno_ret) == ("SCMP_ACT_ERRNO", seccomp_profile.ENOSYS)
    refusing = [rule for rule in made.syscalls if rule.action == "SCMP_ACT_ERRNO" and rule.names != ["clone3"]]
    assert refusing
    assert {rule.errno_ret for rule in refusing} == {EPERM}


@pytest.mark.parametrize(
    ("machine", "index", "architectures"),
    [
        ("x86_64", 0, ["X86_64", "X86", "X32"]),
        ("aarch64", 0, ["AARCH64", "ARM"]),
        ("s390x", 1, ["S390X", "S390"]),
        ("riscv64", 0, ["RISCV64"]),
    ],
)
def test_namespaces_are_refused_where_the_machine_has_clones_flags(
    machine: str, index: int, architectures: list[str]
) -> None:
    made = seccomp.seccomp_filter(OURS, machine=machine, capabilities=DEFAULT_CAPABILITIES, kernel=(6, 1))
    assert made.architectures == [f"SCMP_ARCH_{name}" for name in architectures]
    clones = [rule for rule in made.syscalls if rule.names == ["clone"]]
    assert {argument.index for rule in clones for argument in rule.args or []} == {index}
    (allowed,) = (rule for rule in clones if rule.action == "SCMP_ACT_ALLOW")
    assert [(each.value, each.value_two) for each in allowed.args or []] == [(seccomp_profile.NEW_NAMESPACES, 0)]


def test_only_harmless_personalities_pass() -> None:
    made = seccomp.seccomp_filter(OURS, machine="x86_64", capabilities=DEFAULT_CAPABILITIES, kernel=(6, 1))
    values = {rule.args[0].value for rule in made.syscalls if rule.names == ["personality"] and rule.args}
    assert values == set(seccomp_profile.PERSONALITIES)
    assert not any(value & 0x0040000 for value in values - {0xFFFFFFFF})  # ADDR_NO_RANDOMIZE


# How it differs from Debian's, which is meant for containers that may contain others.
STRICTER = {
    "their capability first, as Docker has it": "fsconfig fsmount fsopen fspick get_mempolicy mbind mount "
    "mount_setattr move_mount open_tree pidfd_getfd reboot set_mempolicy setns syslog umount umount2 unshare clone3",
    "never, as Docker has it": "keyctl pivot_root readdir",
    "by their arguments": "clone socket",
    "no system calls of any kernel": "syscall timerfd",
}
LOOSER = {
    "known to later kernels than that file": "cachestat fchmodat2 futex_requeue futex_wait futex_waitv futex_wake "
    "getxattrat io_pgetevents_time64 listmount listxattrat map_shadow_stack mseal removexattrat setxattrat statmount "
    "uretprobe",
    "harmless on one's own descriptors, and allowed by Docker": "io_pgetevents vmsplice",
}


def words(table: dict[str, str]) -> set[str]:
    return {name for names in table.values() for name in names.split()}


@pytest.mark.skipif(not DEBIANS.exists(), reason=f"{DEBIANS} is not here (golang-github-containers-common)")
def test_the_effect_is_debians_call_by_call_but_for_what_is_listed() -> None:
    ours, theirs = effect(OURS, DEFAULT_CAPABILITIES), effect(read(DEBIANS), DEFAULT_CAPABILITIES)
    rank = {"refuse": 0, "by arguments": 1, "allow": 2}
    stricter, looser = set(), set()
    for name in ours.keys() | theirs.keys():
        mine, other = rank[ours.get(name, "refuse")], rank[theirs.get(name, "refuse")]
        if mine < other:
            stricter.add(name)
        elif mine > other:
            looser.add(name)
    assert stricter == words(STRICTER)
    assert looser == words(LOOSER)


@pytest.mark.skipif(not DEBIANS.exists(), reason=f"{DEBIANS} is not here (golang-github-containers-common)")
def test_with_all_capabilities_little_is_refused_that_debians_allows() -> None:
    ours, theirs = effect(OURS, KERNEL_CAPABILITIES), effect(read(DEBIANS), KERNEL_CAPABILITIES)
    refused = {name for name, kind in theirs.items() if kind == "allow" and ours.get(name, "refuse") == "refuse"}
    never = set(STRICTER["never, as Docker has it"].split())
    assert refused == never | {"query_module"} | set(STRICTER["no system calls of any kernel"].split())


def test_it_is_valid_json_for_others_too() -> None:
    assert set(json.loads(seccomp_profile.FILE.read_text())) == {
        "defaultAction",
        "defaultErrnoRet",
        "archMap",
        "syscalls",
    }
