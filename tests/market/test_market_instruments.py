"""Renames, and a ticker that goes from one instrument to another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.market.process import MarketProcess

Get = Callable[..., httpx.Response]
Rows = list[dict[str, Any]]

DAY = "/v2/aggs/grouped/locale/us/market/stocks/"
YEAR = "2021-12-27/2022-07-01"
COMPANY = {"figi": "BBG000MM2P62", "cik": "0001326801", "name": "Meta Platforms, Inc. Class A Common Stock"}
FUND = {"figi": "BBG00ZYJCD01", "cik": "0001616668", "name": "Roundhill Ball Metaverse ETF"}


def days(ticker: str, dates: str = YEAR, span: str = "1/day") -> str:
    return f"/v2/aggs/ticker/{ticker}/range/{span}/{dates}"


def rows(get: Get, path: str, adjusted: bool = False) -> Rows:
    answer = get(path, params={"adjusted": str(adjusted).lower(), "limit": "50000"})
    assert answer.status_code == 200, answer.text
    return answer.json().get("results", [])


def closes(get: Get, ticker: str, adjusted: bool = False) -> dict[str, float]:
    return {day_of(row): row["c"] for row in rows(get, days(ticker), adjusted)}


def day_of(row: dict[str, Any]) -> str:
    return datetime.fromtimestamp(row["t"] / 1000, UTC).date().isoformat()


def events(get: Get, name: str) -> dict[str, Any]:
    answer = get(f"/vX/reference/tickers/{name}/events")
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def changes(get: Get, name: str) -> list[tuple[str, str]]:
    return [(event["date"], event["ticker_change"]["ticker"]) for event in events(get, name)["events"]]


@pytest.fixture
def ask(spoilt: MarketProcess, getter: Callable[..., Get], now: str) -> Iterator[Get]:
    spoilt.set_now(datetime.fromisoformat(now))
    yield getter(spoilt)
    spoilt.set_now(datetime.fromisoformat(now))


@pytest.fixture
def meta(spoilt: MarketProcess) -> MarketProcess:
    """FB became META on 2022-06-09; a fund had been META until January, and was METV from then on."""
    spoilt.instrument(
        [("FB", None, "2022-06-09"), ("META", date(2022, 6, 9), None)], **COMPANY, told={"META": "2022-06-11"}
    )
    spoilt.instrument([("META", "2021-06-30", "2022-01-31"), ("METV", "2022-01-31", None)], **FUND)
    return spoilt


def test_a_symbol_has_bars_only_while_somebody_holds_it(meta: MarketProcess, ask: Get) -> None:
    sessions = [day_of(row) for row in rows(ask, days("SPY"))]
    held = {ticker: closes(ask, ticker) for ticker in ("FB", "META", "METV")}
    assert list(held["FB"]) == [day for day in sessions if day < "2022-06-09"]
    assert list(held["META"]) == [day for day in sessions if day < "2022-01-31" or day >= "2022-06-09"]
    assert list(held["METV"]) == [day for day in sessions if day >= "2022-01-31"]
    company = held["FB"] | {day: close for day, close in held["META"].items() if day >= "2022-06-09"}
    fund = held["METV"] | {day: close for day, close in held["META"].items() if day < "2022-01-31"}
    for series in (company, fund):
        assert sorted(series) == sessions
        steps = [series[b] / series[a] for a, b in pairwise(sessions)]
        assert all(0.8 < step < 1.25 for step in steps)
    assert all(abs(company[day] / fund[day] - 1) > 0.01 for day in sessions)


def test_market_days_and_minutes_agree_with_the_ranges(meta: MarketProcess, ask: Get) -> None:
    for day, there in (
        ("2021-06-29", {"FB"}),
        ("2022-01-28", {"FB", "META"}),
        ("2022-01-31", {"FB", "METV"}),
        ("2022-06-08", {"FB", "METV"}),
        ("2022-06-09", {"META", "METV"}),
        ("2026-03-09", {"META", "METV"}),
    ):
        market_day = {row.pop("T"): row for row in rows(ask, DAY + day)}
        assert market_day.keys() & {"FB", "META", "METV"} == there
        for ticker in ("FB", "META", "METV"):
            alone = rows(ask, days(ticker, f"{day}/{day}"))
            minutes = rows(ask, days(ticker, f"{day}/{day}", "1/minute"))
            assert [bar["c"] for bar in alone] == [bar["c"] for bar in minutes[-1:]]
            assert [{**bar, "t": 0} for bar in alone] == [
                {**row, "t": 0} for name, row in market_day.items() if name == ticker
            ]


def test_the_events_are_of_who_trades_under_a_ticker_now_or_did_last(meta: MarketProcess, ask: Get) -> None:
    company = events(ask, "META")
    assert {key: company[key] for key in ("name", "composite_figi", "cik")} == {
        "name": COMPANY["name"],
        "composite_figi": COMPANY["figi"],
        "cik": COMPANY["cik"],
    }
    assert changes(ask, "META") == [("2022-06-11", "META"), ("2003-09-10", "FB")]
    assert events(ask, "FB") == events(ask, COMPANY["figi"]) == company
    assert changes(ask, "METV") == [("2022-01-31", "METV"), ("2021-06-30", "META")]
    assert events(ask, FUND["figi"])["cik"] == FUND["cik"]
    msft = events(ask, "MSFT")
    assert events(ask, msft["composite_figi"]) == msft
    assert ask("/vX/reference/tickers/META/events?types=ticker_change").json()["results"] == company
    assert ask("/vX/reference/tickers/BBG000000000/events").status_code == 404


def test_before_a_change_nobody_knows_of_it(meta: MarketProcess, ask: Get) -> None:
    meta.set_now(datetime(2022, 3, 1, 12, tzinfo=UTC))
    assert changes(ask, "FB") == [("2003-09-10", "FB")]
    assert events(ask, "META")["cik"] == FUND["cik"]  # the last to hold it
    meta.set_now(datetime(2021, 3, 1, 12, tzinfo=UTC))
    assert ask("/vX/reference/tickers/META/events").status_code == 404
    assert ask(f"/vX/reference/tickers/{FUND['figi']}/events").status_code == 404
    meta.set_now(datetime(2022, 6, 10, 12, tzinfo=UTC))
    assert changes(ask, "META")[0] == ("2022-06-11", "META")


@pytest.mark.parametrize(
    ("day", "there"),
    [
        ("2021-06-01", {"FB": COMPANY}),
        ("2022-01-30", {"FB": COMPANY, "META": FUND}),
        ("2022-03-01", {"FB": COMPANY, "METV": FUND}),
        ("2022-06-09", {"META": COMPANY, "METV": FUND}),
    ],
)
def test_the_list_of_tickers_says_who_was_there(
    meta: MarketProcess, ask: Get, day: str, there: dict[str, dict[str, str]]
) -> None:
    for ticker in ("FB", "META", "METV"):
        listed = ask(f"/v3/reference/tickers?ticker={ticker}&date={day}").json()["results"]
        assert len(listed) == (ticker in there)
        if ticker in there:
            who = there[ticker]
            (row,) = listed
            assert (row["composite_figi"], row["cik"], row["name"]) == (who["figi"], who["cik"], who["name"])
            assert ask(f"/v3/reference/tickers/{ticker}?date={day}").json()["results"]["cik"] == who["cik"]
    whole = ask(f"/v3/reference/tickers?market=stocks&date={day}&limit=1000").json()["results"]
    assert {row["ticker"] for row in whole} & {"FB", "META", "METV"} == set(there)


def test_former_tickers_are_listed_as_inactive(meta: MarketProcess, ask: Get) -> None:
    gone = ask("/v3/reference/tickers?active=false&ticker=META").json()["results"]
    assert [(row["composite_figi"], row["delisted_utc"]) for row in gone] == [(FUND["figi"], "2022-01-31T00:00:00Z")]
    assert len(ask("/v3/reference/tickers?active=false&ticker=FB").json()["results"]) == 1


def test_a_split_is_the_instruments_under_all_its_tickers(meta: MarketProcess, ask: Get) -> None:
    was = {ticker: closes(ask, ticker) for ticker in ("FB", "META", "METV")}
    meta.split("FB", "2022-03-01", 1, 2)
    meta.split("META", "2022-06-15", 1, 5)
    meta.split("META", "2022-01-10", 10, 1)  # the fund's
    company, fund = ([("2022-03-01", 2.0), ("2022-06-15", 5.0)], [("2022-01-10", 0.1)])
    for ticker, series in was.items():
        raw, adjusted = closes(ask, ticker), closes(ask, ticker, adjusted=True)
        assert list(raw) == list(adjusted) == list(series)
        for day, close in series.items():
            mine = fund if ticker == "METV" or (ticker == "META" and day < "2022-01-31") else company
            done = total = 1.0
            for on, ratio in mine:
                done *= ratio if on <= day else 1.0
                total *= ratio
            assert raw[day] == pytest.approx(close / done, rel=1e-12)
            assert adjusted[day] == pytest.approx(close / total, rel=1e-12)
    for day in ("2022-01-07", "2022-03-01", "2022-06-10"):
        for adjusted_too in (False, True):
            market_day = {row["T"]: row["c"] for row in rows(ask, DAY + day, adjusted_too)}
            for ticker in was:
                assert market_day.get(ticker) == closes(ask, ticker, adjusted_too).get(day)


def test_a_rename_keeps_the_bars_the_splits_and_the_identity(spoilt: MarketProcess, ask: Get) -> None:
    split = ask("/v3/reference/splits?execution_date.gte=2018-01-01&execution_date.lt=2024-01-01&limit=1000").json()
    old = next(s["ticker"] for s in split["results"] if rows(ask, days(s["ticker"], "2018-01-02/2018-01-02")))
    dates = "2017-01-01/2026-03-09"
    was, smooth = rows(ask, days(old, dates)), rows(ask, days(old, dates), adjusted=True)
    listed = ask(f"/v3/reference/splits?ticker={old}&limit=1000").json()["results"]
    paid = ask(f"/v3/reference/dividends?ticker={old}&limit=1000").json()["results"]
    who = events(ask, old)
    spoilt.rename(old, "QQXYZ", "2020-07-01")
    spoilt.rename("QQXYZ", "QQZYX", date(2024, 7, 1), told="2024-07-03")
    assert [rows(ask, days(t, dates)) for t in (old, "QQXYZ", "QQZYX")] == [
        [row for row in was if day_of(row) < "2020-07-01"],
        [row for row in was if "2020-07-01" <= day_of(row) < "2024-07-01"],
        [row for row in was if day_of(row) >= "2024-07-01"],
    ]
    assert [row for t in (old, "QQXYZ", "QQZYX") for row in rows(ask, days(t, dates), adjusted=True)] == smooth
    for path, known in (("splits", listed), ("dividends", paid)):
        now = [
            row
            for t in ("QQZYX", "QQXYZ", old)
            for row in ask(f"/v3/reference/{path}?ticker={t}&limit=1000").json()["results"]
        ]
        same = [{k: v for k, v in row.items() if k not in ("id", "ticker")} for row in known]
        assert [{k: v for k, v in row.items() if k not in ("id", "ticker")} for row in now] == same
    assert changes(ask, old) == changes(ask, "QQZYX")
    assert changes(ask, old)[:2] == [("2024-07-03", "QQZYX"), ("2020-07-01", "QQXYZ")]
    now = events(ask, "QQXYZ")
    assert [now[key] for key in ("name", "composite_figi", "cik")] == [
        who[key] for key in ("name", "composite_figi", "cik")
    ]
    spoilt.clear_faults()
    assert rows(ask, days(old, dates)) == was


def test_a_rename_ahead_happens_when_the_clock_gets_there(spoilt: MarketProcess, ask: Get) -> None:
    week = "2026-03-09/2026-03-12"
    spoilt.rename("MSFT", "MSOFT", "2026-03-11")
    assert len(rows(ask, days("MSFT", week))) == 1
    assert changes(ask, "MSFT") == [("2003-09-10", "MSFT")]
    assert ask(days("MSOFT", week)).json()["resultsCount"] == 0
    spoilt.set_now(datetime(2026, 3, 12, 22, tzinfo=UTC))
    assert [day_of(row) for row in rows(ask, days("MSFT", week))] == ["2026-03-09", "2026-03-10"]
    assert [day_of(row) for row in rows(ask, days("MSOFT", week))] == ["2026-03-11", "2026-03-12"]
    assert changes(ask, "MSFT")[0] == ("2026-03-11", "MSOFT")


def test_an_instrument_can_have_anothers_series(spoilt: MarketProcess, ask: Get) -> None:
    true = rows(ask, days("AAPL"), adjusted=True)
    spoilt.instrument([("ZZTOP", "2022-01-03", "2022-02-01")], series="AAPL")
    assert rows(ask, days("ZZTOP"), adjusted=True) == [r for r in true if "2022-01-03" <= day_of(r) < "2022-02-01"]
    assert ask("/v3/reference/tickers/ZZTOP").json()["results"]["active"] is False


@pytest.mark.data
def test_the_events_have_the_form_of_the_clients_fixture(meta: MarketProcess, ask: Get, genuine: Path) -> None:
    fixture = genuine / "client_mock_vX_reference_tickers_META_events_types_ticker_change.json"
    recorded = json.loads(fixture.read_text())
    served = ask("/vX/reference/tickers/META/events?types=ticker_change").json()
    recorded["results"]["events"][1]["date"] = "2003-09-10"  # the stand-in's first day
    assert json.dumps({**served, "request_id": ""}) == json.dumps({**recorded, "request_id": ""})


def test_a_replayed_file_can_be_renamed_too(getter: Callable[..., Get], tmp_path: Path, now: str) -> None:
    path = tmp_path / "bars.csv"
    lines = [f"2022-06-{day:02d},{day},{day},{day},{day},100,FB" for day in (7, 8, 9, 10)]
    path.write_text("\n".join(["date,open,high,low,close,volume,ticker", *lines]))
    with MarketProcess(replay=path, now=now) as market:
        get = getter(market)
        market.instrument([("FB", None, "2022-06-09"), ("META", "2022-06-09", None)], **COMPANY)
        market.split("META", "2022-06-10", 1, 2)
        assert [row["c"] for row in rows(get, days("FB"))] == [7, 8]
        assert [row["c"] for row in rows(get, days("META"))] == [9, 5]
        assert [row["c"] for row in rows(get, days("FB"), adjusted=True)] == [3.5, 4]
        assert [row["T"] for row in rows(get, DAY + "2022-06-09")] == ["META"]


@pytest.mark.parametrize(
    "said",
    [
        {"tenures": []},
        {"tenures": [["META", "2022-06-09", "2022-06-09"]]},
        {"tenures": [["META", None, None], ["FB", "2022-06-09", None]]},
        {"tenures": [["MSFT", "2020-06-09", None]], "figi": "X"},
        {"tenures": [["not a ticker", None, None]]},
        {"tenures": [["META", "June", None]]},
    ],
)
def test_an_instrument_that_cannot_be_is_refused(spoilt: MarketProcess, said: dict[str, Any]) -> None:
    spoilt.rename("MSFT", "MSOFT", "2021-03-11")
    with pytest.raises(ValueError, match="not a script"):
        spoilt.instrument(**said)
    with pytest.raises(ValueError, match="held twice"):
        spoilt.rename("AAPL", "MSOFT", "2022-03-11")
    with pytest.raises(ValueError, match="nobody trades"):
        spoilt.rename("MSFT", "AAPL", "2022-03-11")
