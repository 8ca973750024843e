"""The runbook tells of everything that can be met at 3 a.m."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from closingbell import exits
from closingbell.quality import RULES
from closingbell.store.schema import gap

ROOT = Path(__file__).resolve().parents[2]
PAGE = " ".join((ROOT / "docs" / "operations.md").read_text().split())


def findings(*paths: str) -> Iterator[str]:
    """The fixed words of everything that ``doctor`` may find and that is not well."""
    for path in paths:
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding"):
                continue
            if not {"warning", "mend", "error"} & {getattr(argument, "value", None) for argument in node.args}:
                continue
            told = node.args[1]
            parts = told.values if isinstance(told, ast.JoinedStr) else [told]
            texts = [part.value for part in parts if isinstance(part, ast.Constant)]
            if texts:
                yield max(texts, key=len).strip(" :,(")


FOUND = sorted(set(findings("closingbell/doctors.py", "deployments/checks.py", "closingbell/cli.py")))


def test_something_is_found() -> None:
    assert len(FOUND) > 8


@pytest.mark.parametrize("words", [text for text in FOUND if len(text) > 12])
def test_what_doctor_finds_is_told(words: str) -> None:
    section = PAGE[PAGE.index("## What doctor finds") : PAGE.index("## Rules")]
    assert words in section


def test_every_reason_of_a_gap_is_told() -> None:
    (check,) = [str(each.sqltext) for each in gap.constraints if getattr(each, "name", "") == "gap_reason"]
    for reason in re.findall(r"'(\w+)'", check):
        assert f"| `{reason}` |" in PAGE


def test_every_rule_is_told() -> None:
    for rule in RULES:
        assert f"`{rule.name}`" in PAGE


def test_every_exit_code_is_told() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    for code, meaning in exits.MEANINGS.items():
        assert f"| {code} | {meaning} |" in page
