"""What docs/market.md shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from infra.market.door import SideDoor
from infra.market.faults import Action

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "market.md").read_text()

EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("code", "output"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_prints_what_the_page_says(code: str, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "docs/market.md", "exec"), {})  # noqa: S102  # our own page
    assert capsys.readouterr().out == output


def test_every_python_example_is_one_of_them() -> None:
    assert len(EXAMPLES) == PAGE.count("```python") > 2


@pytest.mark.parametrize("action", get_args(Action))
def test_every_fault_is_described(action: str) -> None:
    assert f"| `{action}` |" in PAGE


@pytest.mark.parametrize("name", [name for name in vars(SideDoor) if not name.startswith("_")])
def test_every_method_is_named(name: str) -> None:
    assert f"`{name}" in PAGE
