"""The documents say what the code does."""

import json
from pathlib import Path
from typing import Any

import pytest

_DOCS = Path(__file__).parents[2] / "docs"
_SCHEMA: dict[str, Any] = json.loads((_DOCS / "schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("section", sorted(_SCHEMA["$defs"]))
def test_every_key_of_the_json_is_documented(section: str) -> None:
    page = (_DOCS / "json.md").read_text(encoding="utf-8")

    keys = set(_SCHEMA["$defs"][section]["properties"])

    assert {key for key in keys if f"`{key}`" not in page} == set()
