"""Whom a process runs as: the request's user, else the image's, by the image's passwd and group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import betterproto

from ocishim.api.runtime import v1
from ocishim.errors import InvalidArgument
from ocishim.translate.facts import Identity
from ocishim.translate.fields import LARGEST_ID

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class PasswdEntry:
    """A line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """A line of group(5)."""

    name: str
    gid: int
    members: tuple[str, ...]


def parse_passwd(content: bytes) -> Iterator[PasswdEntry]:
    """Entries in order; lines that are none are passed over, as libc does."""
    for fields in _lines(content, 6):
        uid, gid = _id(fields[2]), _id(fields[3])
        if uid is not None and gid is not None:
            yield PasswdEntry(fields[0], uid, gid, fields[5])


def parse_group(content: bytes) -> Iterator[GroupEntry]:
    """Entries in order; lines that are none are passed over."""
    for fields in _lines(content, 3):
        gid = _id(fields[2])
        if gid is not None:
            members = fields[3] if len(fields) > 3 else ""  # noqa: PLR2004 - the fourth field
            yield GroupEntry(fields[0], gid, tuple(member for member in members.split(",") if member))


def _lines(content: bytes, least: int) -> Iterator[list[str]]:
    for line in content.decode("utf-8", "replace").split("\n"):
        fields = line.strip().split(":")
        if len(fields) >= least and fields[0] and not line.startswith("#"):
            yield fields


def _id(text: str) -> int | None:
    """A number that fits a uid of the kernel and no more: one that wraps would be root (CVE-2024-40635)."""
    if not text.isascii() or not text.isdigit() or len(text) > 10:  # noqa: PLR2004 - digits of 2^31
        return None
    number = int(text)
    return number if number <= LARGEST_ID else None


def resolve_identity(
    context: v1.LinuxContainerSecurityContext, image_user: str, passwd: bytes, group: bytes
) -> Identity:
    """The user, groups and home. Raises InvalidArgument for a name or number that cannot be."""
    users, groups = list(parse_passwd(passwd)), list(parse_group(group))
    user_text, group_text = _asked(context, image_user)
    uid, gid, entry = _user(user_text, users)
    if group_text:
        gid = _group(group_text, groups)
    supplemental = set(context.supplemental_groups)
    if entry is not None and context.supplemental_groups_policy == v1.SupplementalGroupsPolicy.Merge:
        supplemental |= {found.gid for found in groups if entry.name in found.members}
    # The primary group is listed too: runtimes set exactly these groups and files would be refused otherwise.
    supplemental.add(gid)
    return Identity(uid, gid, tuple(sorted(supplemental)), entry.home if entry and entry.home else "/")


def _asked(context: v1.LinuxContainerSecurityContext, image_user: str) -> tuple[str, str]:
    group = str(context.run_as_group.value) if betterproto.serialized_on_wire(context.run_as_group) else ""
    if betterproto.serialized_on_wire(context.run_as_user):
        return str(context.run_as_user.value), group
    if context.run_as_username:
        return context.run_as_username, group
    user, _, image_group = image_user.partition(":")
    return user, group or image_group


def _user(text: str, users: list[PasswdEntry]) -> tuple[int, int, PasswdEntry | None]:
    if not text:
        text = "0"
    uid = _id(text)
    for entry in users:
        # A name wins over a number: a user may be called "1000".
        if entry.name == text or (uid is not None and entry.uid == uid):
            return entry.uid, entry.gid, entry
    if uid is None:
        why = f"is above {LARGEST_ID}" if text.isdigit() else "is not in the image's /etc/passwd"
        raise InvalidArgument(f"user {text!r} {why}")
    return uid, 0, None


def _group(text: str, groups: list[GroupEntry]) -> int:
    for entry in groups:
        if entry.name == text:
            return entry.gid
    gid = _id(text)
    if gid is None:
        why = f"is above {LARGEST_ID}" if text.isdigit() else "is not in the image's /etc/group"
        raise InvalidArgument(f"group {text!r} {why}")
    return gid
