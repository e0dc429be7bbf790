"""proto/FIELDS.md says of every field what it means here; none is forgotten and none is made up."""

from __future__ import annotations

import re

import schema

FIELDS = schema.PROTO.parents[2] / "FIELDS.md"
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| (done|refused|not applicable) \| (.+) \|$")


def rows() -> list[tuple[schema.Leaf, str, str]]:
    """Field, status and meaning of each row of the tables."""
    found = []
    root = ""
    for line in FIELDS.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            root = line.removeprefix("## ")
        elif line.startswith("| `"):
            match = ROW.match(line)
            assert match, f"not a row of the table: {line}"
            found.append((schema.Leaf(f"{root}.{match[1]}", match[2]), match[3], match[4]))
    return found


def test_every_field_of_the_schema_has_its_row_in_the_schemas_order() -> None:
    assert [leaf for leaf, _, _ in rows()] == schema.all_leaves()


def test_what_is_refused_says_why() -> None:
    refused = [(leaf.path, meaning) for leaf, status, meaning in rows() if status == "refused"]
    assert refused
    assert all(meaning.startswith("because ") for _, meaning in refused)
