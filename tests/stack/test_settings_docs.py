"""Every setting is documented, with its true default, and every documented setting exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from closingbell.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| `([A-Z_]+)` \| (\S+) \| (.+) \|$", re.MULTILINE)


def documented() -> dict[str, str]:
    text = (ROOT / "docs" / "settings.md").read_text()
    return {name: default for name, default, _ in ROW.findall(text)}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_table_has_each_setting_with_its_default(name: str) -> None:
    default = Settings.model_fields[name].default
    shown = "unset" if default is None or default == "" else f"`{default}`"
    assert documented()[name.upper()] == shown


def test_nothing_is_documented_or_exemplified_that_does_not_exist() -> None:
    names = {name.upper() for name in Settings.model_fields}
    assert documented().keys() == names
    example = (ROOT / ".env.example").read_text()
    assert set(re.findall(r"^#([A-Z_]+)=", example, re.MULTILINE)) == names
    assert not re.findall(r"^[^#\n]", example, re.MULTILINE), "copied as it is, it changes nothing"
