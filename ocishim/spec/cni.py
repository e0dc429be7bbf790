"""CNI network configuration lists, results and errors (CNI spec 0.3.0 to 1.1.0).

Lenient where the wild is: unknown keys are kept for the plugins, which know them.
"""

from __future__ import annotations

import json
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SUPPORTED: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

PluginName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
NetworkName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
JsonObject = dict[str, object]


class Plugin(BaseModel):
    """One plugin of a list; everything in it goes to the plugin as it stands."""

    model_config = ConfigDict(extra="allow")

    type: PluginName
    capabilities: dict[str, bool] = {}


class Conflist(BaseModel):
    """A network configuration list."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    cni_version: str = Field(default="0.3.1", alias="cniVersion")
    name: NetworkName
    disable_check: bool = Field(default=False, alias="disableCheck")
    plugins: list[Plugin] = Field(min_length=1)


class Address(BaseModel):
    """An address of a result, with its prefix length."""

    model_config = ConfigDict(extra="allow")

    address: str


class Result(BaseModel):
    """What ADD answers; kept whole for the next plugin and for DEL."""

    model_config = ConfigDict(extra="allow")

    ips: list[Address] = []


class Problem(BaseModel):
    """What a failing plugin writes to stdout."""

    model_config = ConfigDict(extra="ignore")

    code: int
    msg: str
    details: str = ""


def parse_conflist(content: bytes, *, is_list: bool) -> Conflist:
    """A .conflist, or a single plugin's .conf made into a list of one. Raises ValueError that says what is wrong."""
    try:
        document = json.loads(content)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - the file's value is wrong, not a caller's type
    if not is_list:
        document = {
            "cniVersion": document.get("cniVersion", "0.3.1"),
            "name": document.get("name"),
            "plugins": [document],
        }
    try:
        conflist = Conflist.model_validate(document)
    except ValidationError as error:
        raise ValueError(explain(error)) from error
    if conflist.cni_version not in SUPPORTED:
        raise ValueError(f"cniVersion {conflist.cni_version!r} is none of {', '.join(SUPPORTED)}")
    return conflist


def parse_result(content: bytes) -> Result:
    """ADD's answer; an empty one means that the plugin added nothing. Raises ValueError for nonsense."""
    if not content.strip():
        return Result()
    try:
        return Result.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(explain(error)) from error


def parse_problem(content: bytes) -> str | None:
    """A plugin's own words for its failure, None where it wrote something else."""
    try:
        problem = Problem.model_validate_json(content)
    except ValidationError:
        return None
    details = f": {problem.details}" if problem.details else ""
    return f"{problem.msg}{details} (code {problem.code})"


def explain(error: ValidationError) -> str:
    """The first thing wrong, in a line."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]
