"""A seccomp profile as the ecosystem shares it: OCI's, with conditions on machine and capabilities."""

from __future__ import annotations

from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class ProfileModel(BaseModel):
    """A part of a profile; keys that newer tools add are passed over, wrong types are not."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, validate_by_name=True)


class ProfileArg(ProfileModel):
    """A condition on a system call's argument."""

    index: int
    value: int = Field(ge=0)
    value_two: int = 0
    op: str


class Condition(ProfileModel):
    """When a rule counts: all that is given must hold."""

    arches: list[str] | None = None
    caps: list[str] | None = None
    min_kernel: str | None = None


class ProfileSyscall(ProfileModel):
    """A rule for some system calls."""

    name: str | None = None
    names: list[str] | None = None
    action: str
    errno_ret: int | None = None
    args: list[ProfileArg] | None = None
    includes: Condition = Condition()
    excludes: Condition = Condition()


class ArchMap(ProfileModel):
    """An architecture and those whose programs it can run."""

    architecture: str
    sub_architectures: list[str] | None = None


class Profile(ProfileModel):
    """A profile file."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[ArchMap] | None = Field(
        default=None, validation_alias=AliasChoices("archMap", "archMaps", "arch_map")
    )
    flags: list[str] | None = None
    syscalls: list[ProfileSyscall] = []
