"""docs/scale.md: its arithmetic is that of the planner, and its commands print what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from polygon import RESTClient

from closingbell.plan import FLAT_FILE_LINES, PAGE_ROWS
from infra.market.process import MarketProcess
from tests.deploying.names import ROOT
from tests.docs.pages import blocks, steps

PAGE = ROOT / "docs" / "scale.md"
TICKERS, SESSIONS, MINUTES = 11_000, 499, 960
#: When the page was written.
NOW = "2026-11-22T12:00:00+00:00"


def row(label: str) -> list[float]:
    """The numbers of a row of a table, in the unit that they are written in."""
    found = re.search(rf"^\| {re.escape(label)}.*?\|(.+)\|$", PAGE.read_text(), re.MULTILINE)
    assert found, label
    return [float(re.sub(r"[^\d.]", "", cell)) for cell in found[1].split("|")]


def test_the_rows_and_bytes_are_multiplied_right() -> None:
    a_session = row("minutes with a bar, of a ticker and session")
    assert a_session == [FLAT_FILE_LINES / TICKERS, 390, MINUTES]
    rows = [TICKERS * SESSIONS * bars for bars in a_session]
    assert row("rows of two years") == [round(count / 1e9, 2) for count in rows]
    assert row("table with its key") == [round(count * 179 / 1e9) for count in rows]
    assert row("write-ahead log") == [round(count * 198 / 1e9) for count in rows]
    assert row("rows of one night") == pytest.approx([TICKERS * bars / 1e6 for bars in a_session], rel=0.005)
    assert row("disk of one more year") == [round(TICKERS * bars * 252 * 179 / 1e9) for bars in a_session]


def test_the_calls_are_counted_as_the_planner_counts() -> None:
    sessions_a_call = PAGE_ROWS // MINUTES
    calls = TICKERS * -(-SESSIONS // sessions_a_call) + 1
    text = PAGE.read_text()
    assert f"{sessions_a_call} sessions a call" in text
    assert f"{calls:,} calls" in text
    assert f"{calls / 5 / 60:.1f} hours" in text
    assert f"{(calls - 1) / 100 / 60:.1f} minutes" in text


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_each_command_prints_what_the_page_says(database_url: str, tmp_path: Path) -> None:
    with MarketProcess(size=11_320, now=NOW) as market:
        code = next(block.text for block in blocks(PAGE) if block.language == "python")
        assert "http://127.0.0.1:8787" in code
        client = RESTClient(api_key="any", base=market.url)
        tickers = [found.ticker for found in client.list_tickers(market="stocks", active=True, limit=1000)]
    assert len(tickers) >= TICKERS
    (tmp_path / "tickers.txt").write_text("\n".join(tickers[:TICKERS]))
    environment = {"DATABASE_URL": database_url, "CLOSINGBELL_NOW": NOW, "PATH": str(Path(sys.executable).parent)}
    shown = [step for block in blocks(PAGE) if block.language == "console" for step in steps(block)]
    assert len(shown) > 5
    for step in shown:
        program, *arguments = step.command.split()
        if program == "export":
            environment |= dict(argument.split("=", 1) for argument in arguments)
            continue
        told = subprocess.run(
            [program, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert told.stdout.splitlines() == step.output, step.command
