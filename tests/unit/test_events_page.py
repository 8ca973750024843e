"""docs/events.md: it has every option of the command, every column of the table, and the detector as it is."""

from __future__ import annotations

import re
from pathlib import Path

from closingbell.events import DETECTORS
from closingbell.store.schema import event
from deployments.commands import derive_events

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "events.md").read_text()


def named(heading: str) -> set[str]:
    """What stands in code in the first column of the tables under a heading."""
    section = PAGE.partition(f"{heading}\n")[2].partition("\n## ")[0]
    return {
        name for row in re.findall(r"^\| (`[^|]*)\|", section, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)
    }


def test_options() -> None:
    assert named("# Events") == {option for parameter in derive_events.params for option in parameter.opts[:1]}


def test_columns() -> None:
    assert named("## The table") == set(event.c.keys())


def test_detectors() -> None:
    for found in DETECTORS.values():
        assert f"`{found.version}`" in PAGE
        assert all(f"`{kind}`" in PAGE for kind in found.kinds)
