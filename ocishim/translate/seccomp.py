"""Which seccomp filter a container gets: the profile's rules that hold on this host for its capabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import betterproto
from pydantic import ValidationError

from ocishim.api.runtime import v1
from ocishim.errors import InvalidArgument
from ocishim.spec import runtime as spec
from ocishim.spec.seccomp import Condition, Profile, ProfileSyscall
from ocishim.translate import fields

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_NATIVE: Final = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "mips64": ("mips64", "SCMP_ARCH_MIPS64"),
    "loongarch64": ("loongarch64", "SCMP_ARCH_LOONGARCH64"),
}
_LOCALHOST: Final = "localhost/"


@dataclass(frozen=True, slots=True)
class ProfileChoice:
    """Which profile a request means."""

    kind: Literal["unconfined", "default", "localhost"]
    path: str = ""
    """Absolute, or below the configured root."""


SecurityContext = v1.LinuxContainerSecurityContext | v1.LinuxSandboxSecurityContext


def choice(  # noqa: PLR0911 - a decision table
    context: SecurityContext, path: str = "config.linux.security_context"
) -> ProfileChoice:
    """The profile asked for; none asked for is unconfined, as in the peers; privileged is always so.

    Raises InvalidArgument, with the field below `path`, for a localhost profile that leaves its root.
    """
    if context.privileged:
        return ProfileChoice("unconfined")
    if betterproto.serialized_on_wire(context.seccomp):
        kind = context.seccomp.profile_type
        if kind == v1.SecurityProfileProfileType.RuntimeDefault:
            return ProfileChoice("default")
        if kind == v1.SecurityProfileProfileType.Unconfined:
            return ProfileChoice("unconfined")
        return _localhost(f"{path}.seccomp.localhost_ref", context.seccomp.localhost_ref)
    old = context.seccomp_profile_path
    if old in ("runtime/default", "docker/default"):
        return ProfileChoice("default")
    if old in ("", "unconfined"):
        return ProfileChoice("unconfined")
    if not old.startswith(_LOCALHOST):
        raise fields.refuse(f"{path}.seccomp_profile_path", old, "is none of runtime/default, unconfined, localhost/…")
    return _localhost(f"{path}.seccomp_profile_path", old)


def _localhost(field: str, reference: str) -> ProfileChoice:
    """An absolute path, or one below the configured root."""
    path = reference.removeprefix(_LOCALHOST)
    fields.text(field, reference)
    if not path or ".." in path.split("/"):
        raise fields.refuse(field, reference, "is no path, or holds '..'")
    return ProfileChoice("localhost", path)


def parse(content: bytes, path: str) -> Profile:
    """A profile file's content. Raises InvalidArgument with the file and what is wrong."""
    try:
        return Profile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidArgument(f"seccomp profile {path}: {where}: {first['msg']}") from error


def seccomp_filter(
    profile: Profile, *, machine: str, capabilities: Collection[str], kernel: tuple[int, int]
) -> spec.Seccomp:
    """The rules of the profile that count on this machine for a container with these capabilities."""
    arch, scmp = _NATIVE.get(machine, (machine, ""))
    architectures = list(profile.architectures or [])
    for entry in profile.arch_map or []:
        if entry.architecture == scmp:
            architectures = [entry.architecture, *(entry.sub_architectures or [])]

    def holds(condition: Condition) -> bool:
        return (
            (not condition.arches or arch in condition.arches)
            and (not condition.caps or all(cap in capabilities for cap in condition.caps))
            and (not condition.min_kernel or kernel >= kernel_version(condition.min_kernel))
        )

    def excluded(condition: Condition) -> bool:
        return bool(
            (condition.arches and arch in condition.arches)
            or (condition.caps and any(cap in capabilities for cap in condition.caps))
            or (condition.min_kernel and kernel >= kernel_version(condition.min_kernel))
        )

    rules = [rule for rule in profile.syscalls if holds(rule.includes) and not excluded(rule.excludes)]
    return spec.Seccomp(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=architectures,
        flags=profile.flags,
        syscalls=list(_rules(rules)),
    )


def _rules(rules: Iterable[ProfileSyscall]) -> Iterable[spec.Syscall]:
    for rule in rules:
        names = list(rule.names or ([rule.name] if rule.name else []))
        if not names:
            continue
        arguments = [
            spec.SyscallArg(index=arg.index, value=arg.value, value_two=arg.value_two, op=arg.op)
            for arg in rule.args or []
        ]
        yield spec.Syscall(names=names, action=rule.action, errno_ret=rule.errno_ret, args=arguments or None)


def kernel_version(text: str) -> tuple[int, int]:
    """Major and minor of a release such as 6.1.0-13-amd64."""
    parts = text.split(".")
    try:
        return int(parts[0]), int(parts[1].split("-")[0]) if len(parts) > 1 else 0
    except ValueError:
        return 0, 0
