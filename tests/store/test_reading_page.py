"""docs/reading.md: every output that it shows is what its statement gives, of the bars that it says."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from blocks import change
from test_facts import Held, look, run_at
from test_views import pay, real, real_splits, tell

from closingbell.bars import BAR, NO_TRADES, Bars
from closingbell.calendar import calendar_for
from closingbell.outcome import Judge
from closingbell.plan import TickerRange
from closingbell.sources.base import Dividend
from closingbell.store import Store
from closingbell.store.schema import revision

PAGE = (Path(__file__).parents[2] / "docs" / "reading.md").read_text()

FUND, META = "FIGI:BBG00FUND000", "FIGI:BBG000MM2P62"

pytestmark = [
    pytest.mark.postgres_only("the page shows what psql does; test_views.py runs Oracle's statements"),
    pytest.mark.data,
]


def at(year: int, month: int, day: int, hour: int = 2) -> datetime:
    return datetime(year, month, day, hour, tzinfo=UTC)


def flush(store: Store, as_of: datetime, block: Bars) -> None:
    days = block.rows["session"]
    sessions = calendar_for("stocks").sessions(days.min().item(), days.max().item())
    judge = Judge("stocks", sessions, np.datetime64("2030-01-01"), np.datetime64("2030-01-01"))
    outcome = judge.answered(TickerRange(block.tickers[0], tuple(sessions.tolist())), block, len(block))
    store.writer.flush(run_at(store, as_of), "polygon", "1d", [outcome])


def made(ticker: str, closes: dict[date, float]) -> Bars:
    rows = np.zeros(len(closes), BAR)
    rows["session"] = [*closes]
    rows["ts"] = calendar_for("stocks").opens(rows["session"])
    for name in ("open", "high", "low", "close"):
        rows[name] = [*closes.values()]
    rows["volume"], rows["vwap"], rows["trades"] = 1e6, np.nan, NO_TRADES
    return Bars((ticker,), rows)


@pytest.fixture
def page(data: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The database of the page."""
    aig, steps = real(data / "splits", "aig")
    flush(store, at(2021, 4, 1), aig)
    newest = aig.where(aig.rows["session"] == np.datetime64("2021-03-31"))
    corrected = Bars(newest.tickers, newest.rows.copy())
    corrected.rows["close"] += 0.03
    corrected.rows["volume"] += 1_200
    flush(store, at(2021, 4, 2), corrected)
    change(store, sa.update(revision).values(seen_at=at(2021, 4, 2)))
    splits = real_splits("AIG", steps)
    look(store, at(2009, 7, 1), splits[:-1], date(1990, 1, 1))
    look(store, at(2009, 7, 3), splits, date(1990, 1, 1))
    pay(store, Dividend("AIG", date(2020, 12, 11), 0.32, id="a"), Dividend("AIG", date(2021, 3, 15), 0.32, id="b"))
    flush(store, at(2022, 1, 5), made("META", {date(2022, 1, 3): 14.9, date(2022, 1, 4): 14.5}))
    days = {date(2022, 6, 6): 194.25, date(2022, 6, 7): 195.65, date(2022, 6, 8): 196.64}
    flush(store, at(2022, 6, 9), made("FB", days))
    flush(store, at(2022, 6, 11), made("META", {date(2022, 6, 9): 184.0, date(2022, 6, 10): 175.57}))
    tell(store, Held("FB", META, date(2012, 5, 18), date(2022, 6, 9)), Held("META", META, date(2022, 6, 9)))
    monkeypatch.setenv("DATABASE_URL", store.engine.url.render_as_string(hide_password=False))
    return store


@dataclass(frozen=True)
class Example:
    language: str
    code: str
    output: str


def examples() -> Iterator[Example]:
    """Code that is followed by what it gives."""
    parts = PAGE.split("```")
    for code, between, output in zip(parts[1::2], parts[2::2], parts[3::2], strict=False):
        language, _, text = code.partition("\n")
        if language in ("sql", "python") and not between.strip() and output.startswith("\n"):
            yield Example(language, text, output)


def cells(table: str) -> list[list[str]]:
    """What psql prints, without its lines and blanks."""
    lines = [line for line in table.strip("\n").splitlines() if not set(line) <= set("-+")]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def psql(value: Any) -> str:
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return "" if value is None else str(value)


def test_every_output_is_what_the_page_says(page: Store) -> None:
    shown = list(examples())
    assert len([example for example in shown if example.language == "sql"]) >= 9
    assert len([example for example in shown if example.language == "python"]) >= 3
    found, names = [], dict[str, Any]()
    for example in shown:
        if example.language == "sql":
            with page.engine.connect() as connection:
                result = connection.exec_driver_sql(example.code)
                given = [[*result.keys()], *([psql(value) for value in row] for row in result)]
            if given != cells(example.output):
                found.append(f"{example.code}\n{given}")
            continue
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(example.code, "docs/reading.md", "exec"), names)  # noqa: S102
        if said.getvalue().strip("\n") != example.output.strip("\n"):
            found.append(f"{example.code}\n{said.getvalue()}")
    for opened in names.values():
        if hasattr(opened, "engine"):
            opened.close()
    assert not found, "\n".join(found)
