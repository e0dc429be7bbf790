"""The answer of `RUNTIME features` (OCI runtime-spec 1.1, features.md), as much of it as is used."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class _Part(BaseModel):
    """Something that a runtime says of itself: newer ones may say more, and null means nothing."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel, validate_by_name=True)


class LinuxFeatures(_Part):
    """linux."""

    namespaces: tuple[str, ...] | None = None


class Features(_Part):
    """What a runtime can do; None where it does not say."""

    oci_version_max: str = ""
    hooks: tuple[str, ...] | None = None
    mount_options: tuple[str, ...] | None = None
    linux: LinuxFeatures | None = None
    annotations: dict[str, str] | None = None
    potentially_unsafe_config_annotations: tuple[str, ...] | None = None
