"""The seccomp profile that RuntimeDefault means, written from a table: `python bundles/seccomp_profile.py` renews it.

In effect it is Docker's default: system calls that reach around a container's namespaces, that change what the
whole machine shares, or whose age makes them nothing but a target, answer EPERM unless the container holds the
capability that the kernel itself asks for. What the table does not know answers ENOSYS, so that programs fall back
from calls newer than it (runc does this by itself; crun does not).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE: Final = Path(__file__).with_name("seccomp.json")
ENOSYS, EPERM = 38, 1


class Group(NamedTuple):
    """System calls that are let through for one reason."""

    why: str
    names: str
    capabilities: tuple[str, ...] = ()
    """Any one of them opens the group; none: open to all."""
    arches: tuple[str, ...] = ()


GROUPS: Final = (
    Group(
        "files by path: what the container sees is bounded by its mounts, and rights are checked as ever",
        """access chdir chmod chown chown32 creat faccessat faccessat2 fchdir fchmod fchmodat fchmodat2 fchown fchown32
        fchownat futimesat getcwd lchown lchown32 link linkat lstat lstat64 mkdir mkdirat mknod mknodat
        name_to_handle_at newfstatat fstatat64 open openat openat2 readlink readlinkat rename renameat renameat2 rmdir
        stat stat64 statx symlink symlinkat truncate truncate64 unlink unlinkat utime utimensat utimensat_time64 utimes
        fstat fstat64 fstatfs fstatfs64 statfs statfs64 listmount statmount umask""",
    ),
    Group(
        "extended attributes",
        """fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr
        lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat""",
    ),
    Group(
        "open descriptors: reading, writing, waiting",
        """_llseek _newselect close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 fallocate fcntl
        fcntl64 fdatasync flock fsync ftruncate ftruncate64 getdents getdents64 ioctl lseek pipe pipe2 poll ppoll
        ppoll_time64 pread64 preadv preadv2 pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readv
        select sendfile sendfile64 splice sync sync_file_range syncfs tee vmsplice write writev
        epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
        eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch signalfd signalfd4
        timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
        io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit""",
    ),
    Group(
        "sockets of the container's network; how one is made is in SOCKETS",
        """accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64
        recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair""",
    ),
    Group(
        "memory of the process itself",
        """brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2
        mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages""",
    ),
    Group(
        "processes and threads; what clone may make is in CLONE",
        """execve execveat exit exit_group fork getpgid getpgrp getpid getppid getsid gettid kill pause pidfd_open
        pidfd_send_signal prctl process_mrelease restart_syscall rseq seccomp set_robust_list get_robust_list
        set_thread_area get_thread_area set_tid_address setpgid setsid tgkill tkill vfork wait4 waitid waitpid
        futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake uretprobe
        landlock_add_rule landlock_create_ruleset landlock_restrict_self""",
    ),
    Group(
        "signals",
        """rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
        rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaction sigaltstack signal sigpending sigprocmask sigreturn
        sigsuspend alarm getitimer setitimer""",
    ),
    Group(
        "whom a process is: changes are checked against its capabilities",
        """capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32
        getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
        setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid
        setuid32""",
    ),
    Group(
        "limits, priorities and schedules: raising them is checked",
        """getcpu getpriority getrlimit getrusage ioprio_get ioprio_set prlimit64 sched_get_priority_max
        sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
        sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
        sched_setscheduler sched_yield setpriority setrlimit ugetrlimit""",
    ),
    Group(
        "time: reading it, sleeping, timers; adjusting is checked by the kernel",
        """adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
        clock_nanosleep clock_nanosleep_time64 gettimeofday nanosleep time timer_create timer_delete timer_getoverrun
        timer_gettime timer_gettime64 timer_settime timer_settime64 times""",
    ),
    Group(
        "System V and POSIX IPC: of the pod's own namespace",
        """ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
        mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt
        shmget""",
    ),
    Group("what the machine is, and randomness", "cachestat getrandom sysinfo uname"),
    Group(
        "debugging one's own processes: safe since Linux 4.8 checks seccomp after ptrace",
        "process_vm_readv process_vm_writev ptrace",
    ),
    Group("of these machines", "arch_prctl", arches=("amd64", "x32")),
    Group("of these machines", "modify_ldt", arches=("amd64", "x32", "x86")),
    Group(
        "of these machines",
        "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
        arches=("arm", "arm64"),
    ),
    Group("of these machines", "sync_file_range2 swapcontext", arches=("ppc64le",)),
    Group("of these machines", "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr", arches=("s390", "s390x")),
    Group("of these machines", "riscv_flush_icache riscv_hwprobe", arches=("riscv64",)),
    Group("a file handle passes every mount by", "open_by_handle_at", ("CAP_DAC_READ_SEARCH",)),
    Group(
        "mounts, namespaces, quotas: the kernel asks for this capability in some user namespace, of which a process "
        "could make its own",
        """clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount
        open_tree quotactl quotactl_fd setdomainname sethostname setns umount umount2 unshare""",
        ("CAP_SYS_ADMIN",),
    ),
    Group("programs inside the kernel", "bpf", ("CAP_SYS_ADMIN", "CAP_BPF")),
    Group("the kernel's counters see all processes", "perf_event_open", ("CAP_SYS_ADMIN", "CAP_PERFMON")),
    Group("the kernel's log names its addresses", "syslog", ("CAP_SYS_ADMIN", "CAP_SYSLOG")),
    Group("the whole machine", "reboot", ("CAP_SYS_BOOT",)),
    Group("a root within the root", "chroot", ("CAP_SYS_CHROOT",)),
    Group("the kernel's own code", "delete_module finit_module init_module", ("CAP_SYS_MODULE",)),
    Group("where memory lies on the machine", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
          ("CAP_SYS_NICE",)),
    Group("records of all processes' ends", "acct", ("CAP_SYS_PACCT",)),
    Group("other processes' insides", "kcmp pidfd_getfd process_madvise", ("CAP_SYS_PTRACE",)),
    Group("the machine's ports", "ioperm iopl", ("CAP_SYS_RAWIO",)),
    Group("everybody's clock", "clock_settime clock_settime64 settimeofday stime", ("CAP_SYS_TIME",)),
    Group("terminals of others", "vhangup", ("CAP_SYS_TTY_CONFIG",)),
)  # fmt: skip

DENIED: Final = (
    Group("keys are not namespaced: a container would see those of others", "add_key keyctl request_key"),
    Group(
        "whole classes of the kernel's holes have come through it", "io_uring_enter io_uring_register io_uring_setup"
    ),
    Group("handling another's page faults holds the kernel where an attacker wants it", "userfaultfd"),
    Group("another kernel", "kexec_file_load kexec_load"),
    Group("the machine's swap, and where others' pages lie", "migrate_pages move_pages swapoff swapon"),
    Group("the machine's disks", "nfsservctl pivot_root quotactl_path"),
    Group(
        "too old to be used, too old to be tested",
        """_sysctl bdflush create_module get_kernel_syms nice oldfstat oldlstat oldolduname oldstat olduname
        query_module readdir sgetmask ssetmask sysfs uselib ustat vm86 vm86old""",
    ),
)
"""Known and refused: EPERM, whereas what is unknown is ENOSYS."""

PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Linux, 32-bit Linux, either with the old uname, and the question what it is; not those that switch off protections
such as address space randomisation."""
NEW_NAMESPACES: Final = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
AF_VSOCK: Final = 40
"""Talks to the hypervisor and past every network namespace."""
SUB_ARCHITECTURES: Final = {
    "X86_64": ("X86", "X32"),
    "AARCH64": ("ARM",),
    "MIPS64": ("MIPS", "MIPS64N32"),
    "MIPS64N32": ("MIPS", "MIPS64"),
    "MIPSEL64": ("MIPSEL", "MIPSEL64N32"),
    "MIPSEL64N32": ("MIPSEL", "MIPSEL64"),
    "S390X": ("S390",),
    "RISCV64": (),
    "PPC64LE": (),
    "LOONGARCH64": (),
}


def rules() -> list[dict[str, object]]:
    """All rules, in the table's order."""
    opened = [rule for group in GROUPS for rule in _rules(group)]
    refused = [_rule(group.names.split(), group.why, errno=EPERM) for group in DENIED]
    return [*opened, *refused, *_personality(), *_sockets(), *_clone()]


def head() -> dict[str, object]:
    """The profile without its rules."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "archMap": [
            {"architecture": f"SCMP_ARCH_{name}", "subArchitectures": [f"SCMP_ARCH_{sub}" for sub in below]}
            for name, below in SUB_ARCHITECTURES.items()
        ],
    }


def _rule(
    names: list[str],
    why: str,
    *,
    errno: int | None = None,
    args: list[dict[str, object]] | None = None,
    includes: Mapping[str, list[str]] | None = None,
    excludes: Mapping[str, list[str]] | None = None,
) -> dict[str, object]:
    rule: dict[str, object] = {"names": sorted(names), "action": "SCMP_ACT_ALLOW", "comment": " ".join(why.split())}
    if errno is not None:
        rule |= {"action": "SCMP_ACT_ERRNO", "errnoRet": errno}
    conditions: dict[str, object] = {"args": args, "includes": includes, "excludes": excludes}
    return rule | {key: value for key, value in conditions.items() if value}


def _rules(group: Group) -> list[dict[str, object]]:
    """Open to all, or once for each capability that opens it, and EPERM where none is held."""
    names = group.names.split()
    if not group.capabilities:
        return [_rule(names, group.why, includes={"arches": list(group.arches)} if group.arches else None)]
    made = []
    for position, capability in enumerate(group.capabilities):
        before = list(group.capabilities[:position])
        excludes = {"caps": before} if before else None
        made.append(_rule(names, group.why, includes={"caps": [capability]}, excludes=excludes))
    refused = [name for name in names if name not in ("clone", "clone3")]
    return [*made, _rule(refused, group.why, errno=EPERM, excludes={"caps": list(group.capabilities)})]


def _compare(index: int, op: str, value: int, value_two: int = 0) -> list[dict[str, object]]:
    return [{"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": value_two}]


def _personality() -> list[dict[str, object]]:
    why = "not those personalities that switch protections off"
    return [_rule(["personality"], why, args=_compare(0, "EQ", value)) for value in PERSONALITIES]


def _sockets() -> list[dict[str, object]]:
    why = "all families but the one that passes network namespaces by"
    return [
        _rule(["socket"], why, args=_compare(0, "NE", AF_VSOCK)),
        _rule(["socket"], why, errno=EPERM, args=_compare(0, "EQ", AF_VSOCK)),
    ]


def _clone() -> list[dict[str, object]]:
    """Without CAP_SYS_ADMIN no new namespaces. clone3's flags lie in memory, where seccomp cannot look: ENOSYS makes
    libraries fall back to clone. The flags are clone's second argument on s390, its first elsewhere."""
    why = "processes and threads, not namespaces"
    admin = ["CAP_SYS_ADMIN"]
    s390 = ["s390", "s390x"]
    bits = [1 << position for position in range(32) if NEW_NAMESPACES >> position & 1]
    made = []
    for index, includes, excludes in (
        (0, None, {"caps": admin, "arches": s390}),
        (1, {"arches": s390}, {"caps": admin}),
    ):
        tests: list[tuple[int | None, list[dict[str, object]]]]
        tests = [(None, _compare(index, "MASKED_EQ", NEW_NAMESPACES))]
        tests += [(EPERM, _compare(index, "MASKED_EQ", bit, bit)) for bit in bits]
        made += [
            _rule(["clone"], why, errno=errno, args=args, includes=includes, excludes=excludes) for errno, args in tests
        ]
    return [*made, _rule(["clone3"], why, errno=ENOSYS, excludes={"caps": admin})]


def content() -> str:
    """The file's text: a rule a line, so that changes are seen in review."""
    lines = ",\n  ".join(json.dumps(rule) for rule in rules())
    return f'{json.dumps(head(), indent=1)[:-2]},\n "syscalls": [\n  {lines}\n ]\n}}\n'


def main() -> int:
    """Write the file anew."""
    FILE.write_text(content(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
