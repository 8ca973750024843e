"""A history of minutes by flat file: planned, fetched, stored, equal to what ranges bring, and told from it."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
import sqlalchemy as sa

from closingbell import universe
from closingbell.bars import BAR
from closingbell.sources.polygon import PolygonSource
from closingbell.store import Store
from closingbell.store.schema import bar
from infra.market.flatfiles import minute_files
from infra.market.generated import Generated
from tests.flatfiles.conftest import _s3  # noqa: F401  (a fixture)
from tests.flatfiles.s3 import S3
from tests.flatfiles.test_flat_files import Gate
from tests.night.conftest import Nights

pytestmark = pytest.mark.prefect

#: 20 sessions.
FIRST, LAST = date(2026, 2, 6), date(2026, 3, 6)


@pytest.fixture
def s3(_s3: S3, nights: Nights, monkeypatch: pytest.MonkeyPatch) -> S3:  # noqa: F811
    """The server, which the settings name; it has no object."""
    _s3.clear()
    nights.setenv("POLYGON_FLATFILES_KEY", "canary-key")
    nights.setenv("POLYGON_FLATFILES_SECRET", "canary-secret")
    nights.setenv("POLYGON_FLATFILES_URL", _s3.url)
    nights.setenv("POLYGON_FLATFILES_CALLS_PER_MINUTE", "20/0.2s")
    nights.quota("20/0.2s")
    monkeypatch.setattr("closingbell.plan.FLAT_FILE_LINES", 10_000)  # nobody else's minutes are in them
    return _s3


def fill(s3: S3, tickers: list[str]) -> None:
    for day, body in minute_files(Generated(1_500, 1792), tickers, FIRST, LAST).items():
        s3.put(f"us_stocks_sip/minute_aggs_v1/{day:%Y/%m}/{day}.csv.gz", body)


@pytest.mark.soak
def test_twenty_days_in_twenty_objects_equal_the_ranges(nights: Nights, s3: S3, store: Store) -> None:
    check(nights, s3, store, list(universe.load("sp500"))[:21])


@pytest.mark.soak
def test_twenty_days_of_500_tickers_in_twenty_objects_equal_the_ranges(nights: Nights, s3: S3, store: Store) -> None:
    check(nights, s3, store, list(universe.load("sp500"))[:500])


def check(nights: Nights, s3: S3, store: Store, tickers: list[str]) -> None:
    fill(s3, sorted({*tickers, "TSLA"}))
    s3.cut_after = [20_000]  # one of them breaks off

    told = nights.ingest(tickers=tickers, start=FIRST, end=LAST, timeframes=["1m"])

    assert told["state_name"] == "Completed", told
    assert (told["plan"]["flat_files"], told["plan"]["ranges"]) == (20, 0)
    assert told["planned_calls"] == 20 + told["plan"]["splits"]
    assert told["actual_calls"] == told["planned_calls"] + 1, "the one that broke off went on in a second call"
    assert len(s3.log) == 21
    assert sum(asked.range is not None for asked in s3.log) == 1
    assert nights.bar_calls() == []
    assert told["expected_cells"] == told["stored_cells"] == 20 * len(tickers)
    assert told["from_flat_files"] == told["inserted"] == told["stored_bars"]
    same_as_ranges(nights, store, tickers)
    with store.engine.connect() as connection:
        assert connection.execute(sa.select(bar.c.source).distinct()).scalars().all() == ["polygon-flat"]

    again = nights.ingest(tickers=tickers, start=FIRST, end=LAST, timeframes=["1m"])
    assert (again["actual_calls"], again["inserted"], again["rewritten"]) == (0, 0, 0)


def same_as_ranges(nights: Nights, store: Store, tickers: list[str]) -> None:
    """What is stored is what ranges bring, but for the vwap."""
    names = [name for name in BAR.names or () if name not in ("ticker", "vwap")]
    source = PolygonSource("canary-3fe1", nights.market.url, Gate())
    for ticker in tickers:
        stored = store.records.series("polygon", "1m", [ticker], FIRST, LAST)
        ranged = source.fetch_range(ticker, FIRST, LAST, "1m")
        assert len(stored) > 0
        assert np.isnan(stored.rows["vwap"]).all()
        assert all(np.array_equal(stored.rows[name], ranged.rows[name]) for name in names)
    source.close()


def test_what_is_asked_again_comes_by_range_and_the_report_says_so(nights: Nights, s3: S3, store: Store) -> None:
    tickers = list(universe.load("etfs"))[:6]
    fill(s3, tickers)
    nights.ingest(tickers=tickers, start=date(2026, 3, 4), end=date(2026, 3, 5), timeframes=["1m"])
    s3.clear()

    told = nights.ingest(
        tickers=tickers, start=date(2026, 3, 4), end=date(2026, 3, 5), timeframes=["1m"], recheck_sessions=1
    )

    assert s3.log == []
    assert told["plan"]["ranges"] == 6
    assert told["over_flat_files"] == told["rewritten"] > 6 * 300
    with store.engine.connect() as connection:
        query = sa.select(bar.c.session, bar.c.source, sa.func.count(bar.c.vwap)).group_by(bar.c.session, bar.c.source)
        kinds = {session.day: (source, vwaps > 0) for session, source, vwaps in connection.execute(query)}
    assert kinds == {4: ("polygon-flat", False), 5: ("polygon", True)}


def test_an_object_that_is_not_there_is_asked_for_by_range_next_time(nights: Nights, s3: S3, store: Store) -> None:
    tickers = list(universe.load("etfs"))[:6]
    fill(s3, tickers)
    s3.refuse = [(404, "NoSuchKey"), (403, "AccessDenied")]

    told = nights.ingest(tickers=tickers, start=date(2026, 3, 4), end=date(2026, 3, 6), timeframes=["1m"])
    assert told["gaps"] == {"unpublished": 6, "unentitled": 6}
    assert told["stored_cells"] == 6

    again = nights.ingest(tickers=tickers, start=date(2026, 3, 4), end=date(2026, 3, 6), timeframes=["1m"])
    assert (again["plan"]["flat_files"], again["plan"]["ranges"]) == (0, 6)
    assert again["gaps"].get("unpublished") is None
