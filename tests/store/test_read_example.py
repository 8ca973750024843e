"""The notebook-style example runs as it stands, and what it says is what is stored."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from test_facts import look
from test_views import EVENING, day, night, store_bars

from closingbell import read
from closingbell.sources.base import Split
from closingbell.store import Store

EXAMPLE = Path(__file__).parents[2] / "examples" / "reading.py"


@pytest.fixture
def filled(store: Store) -> Store:
    store_bars(store, ["AAPL", "BRK.B", "MSFT"], 0, 9, as_of=night(9))
    store_bars(store, ["AAPL"], 8, 9, 3.0, night(20))
    look(store, EVENING, [Split("AAPL", day(5), 1, 4)], date(2023, 1, 1))
    return store


def test_the_example_says_what_is_stored(
    filled: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", filled.engine.url.render_as_string(hide_password=False))
    found = runpy.run_path(str(EXAMPLE))
    said = capsys.readouterr().out
    assert f"3 tickers, {day(0)} to {day(9)}" in said
    assert "AAPL: 10 sessions, 5 before a split" in said
    assert "0 bars of AAPL were known before the first run, 10 are now" in said
    assert "the vendor changed 2 of them since they were stored" in said
    assert "no gaps" in said
    bars = read.bars(database=filled)
    assert found["dollars"] == pytest.approx((bars["close"] * bars["volume"]).sum())
    assert found["table"].shape == (10, 3)
    assert found["raw"].equals(read.bars("AAPL", database=filled))


@pytest.mark.postgres_only("no database at all")
def test_without_a_database_it_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        env={**os.environ, "CLOSINGBELL_HOME": str(tmp_path / "none")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "there is no database to read" in done.stderr
    assert not (tmp_path / "none").exists()
