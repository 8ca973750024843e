"""What a run shows of itself in the Prefect UI: nothing in it acts, and each failure says what to do."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from closingbell import markdown, report
from closingbell.report import Failure

RUN = UUID("019aa000-0000-7000-8000-000000000001")


def told(*failures: Failure, **more: Any) -> dict[str, Any]:
    """The report of a run of 30 cells with these failures."""
    blank = report.stopped(RUN, "ingest", "", None, 3.25, "PartiallyCompleted")
    del blank["error"]
    return {**blank, "failed": report.group_failures(failures), "expected_cells": 30, "stored_bars": 20, **more}


def failure(reason: str = "failed", cells: int = 10, cause: str = "the vendor's server failed") -> Failure:
    return Failure("range MSFT", cause, reason, cells, ("MSFT",), f"{cause}: HTTP 500. Ask again", 10)


def rows(text: str, title: str) -> list[list[str]]:
    """The cells of the table below a title, its head first."""
    lines = text.partition(f"### {title}\n\n")[2].partition("\n\n")[0].splitlines()
    split = [[cell.strip() for cell in line.strip("|").replace(r"\|", "¦").split("|")] for line in lines]
    return [split[0], *split[2:]]


def test_failures_stand_by_cause_with_what_to_do() -> None:
    shown = markdown.report(
        told(failure(), failure(), failure("unentitled", 3, "not on this plan"), failure(cells=0, cause="a recheck"))
    )
    assert shown.startswith("## PartiallyCompleted in 3.2 s: 23 of 30 cells failed\n")
    head, *found = rows(shown, "What failed, by cause")
    assert head[:5] == ["cause", "cells", "calls", "tickers", "what to do"]
    assert [row[:4] for row in found] == [
        ["the vendor's server failed", "20", "2", "MSFT"],
        ["not on this plan", "3", "1", "MSFT"],
        ["a recheck", "0", "1", "MSFT"],
    ]
    assert found[0][4] == "retry"
    assert found[1][4].startswith("no retry helps")
    assert found[2][4].startswith("nothing: the stored bars stand")


def test_the_next_thing_to_do_comes_first() -> None:
    shown = markdown.report(told(failure(), next_command=f"closingbell retry {RUN}"), "../../a?b=%7B%7D")
    assert shown.splitlines()[2] == (
        f"**[Ask again for what failed](../../a?b=%7B%7D)**, or type `closingbell retry {RUN}`."
    )
    assert f"Next, type `closingbell retry {RUN}`." in markdown.report(
        told(failure(), next_command=f"closingbell retry {RUN}")
    )
    assert "There is nothing to do." in markdown.report(told(state="Completed"))
    stopped = markdown.report(report.stopped(RUN, "ingest", "the key is refused. Set another", None, 1.0))
    assert "It had to stop: the key is refused. Set another" in stopped


@pytest.mark.parametrize(
    "hostile",
    [
        "[here](http://evil.example)",
        "![](http://evil.example/x.png)",
        "<script>alert(1)</script>",
        "a | b |\n| --- |\n# forged",
        "```\nforged",
        "$x$ ~~no~~ **no** _no_ `no`",
        "see https://evil.example or www.evil.example or me@evil.example",
        "\x1b[2J\u202e",
    ],
)
def test_what_others_wrote_is_read_and_does_not_act(hostile: str) -> None:
    shown = markdown.text(hostile)
    assert "\n" not in shown
    assert shown.isprintable()
    bare = shown.replace("\\\\", "")
    for active in "[]<>|`$*_~!#@":
        assert all(bare[i - 1] == "\\" for i, c in enumerate(bare) if c == active), (active, shown)
    assert "http://" not in shown
    assert "https://" not in shown
    assert "www.evil" not in shown
    table = markdown.report(told(failure(cause=hostile)))
    (_, only) = rows(table, "What failed, by cause")
    assert len(only) == 6, "no cell of the table is broken out of"


def test_a_dry_run_of_no_bars_says_so_and_where_to_start_it() -> None:
    shown = markdown.plan(["3 calls: 1 look at splits"], dry_run=True, link="../../x")
    assert shown.splitlines()[0] == "## Dry run: no call is made"
    assert "**[Start it for real](../../x)**" in shown
    assert "- 3 calls: 1 look at splits" in shown
