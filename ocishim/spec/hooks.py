"""A file of an OCI hooks directory (oci-hooks(5), version 1.0.0): a hook, when it runs, and at which stages."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

Stage = Literal["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]


class HookModel(BaseModel):
    """A part of a hook file: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", validate_by_name=True, strict=True)


class HookProgram(HookModel):
    """hook: the program as the runtime spec has it."""

    path: Annotated[str, Field(pattern=r"^/[^\x00]*$")]
    args: list[str] = []
    env: list[str] = []
    timeout: Annotated[int, Field(gt=0)] | None = None


class When(HookModel):
    """when: all that is given must hold; nothing given never does."""

    always: bool | None = None
    annotations: dict[str, str] = {}
    """Patterns of a key and of its value, of which at least one annotation must hold each."""
    commands: list[str] = []
    """Patterns, of which one must be found in the container's first argument."""
    has_bind_mounts: bool | None = Field(default=None, alias="hasBindMounts")

    @field_validator("annotations", "commands")
    @classmethod
    def _are_patterns(cls, value: dict[str, str] | list[str]) -> dict[str, str] | list[str]:
        patterns = [*value, *value.values()] if isinstance(value, dict) else value
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return value


class HookFile(HookModel):
    """The file."""

    version: Literal["1.0.0"]
    hook: HookProgram
    when: When
    stages: list[Stage] = Field(min_length=1)


def parse_hook(content: bytes) -> HookFile:
    """Raises ValueError that says what is wrong and where."""
    try:
        return HookFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error
