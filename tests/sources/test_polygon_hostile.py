"""Names and numbers that a vendor would never send, each of which costs nobody but itself."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from faultserver import FaultServer
from polygon_bodies import FIRST, market

from closingbell.errors import MalformedResponseError
from closingbell.sources.polygon import PolygonSource

SINCE = date(2024, 3, 1)

NAMES = [
    "'; DROP TABLE bar; --",
    "../../etc/passwd",
    "%2e%2e%2f",
    "A B",
    "A\x00B",
    "A\nB",
    "\x1b[2J",
    '"',
    "АAPL",  # noqa: RUF001  (its first letter is Cyrillic)
    "A" * 10_000,
    "",
    "<script>alert(1)</script>",
    "-A",
]


def split(ticker: str = "A", **changes: Any) -> dict[str, Any]:
    return {"ticker": ticker, "execution_date": "2024-03-04", "split_from": 1, "split_to": 2, "id": "E1", **changes}


def dividend(ticker: str = "A", **changes: Any) -> dict[str, Any]:
    return {"ticker": ticker, "ex_dividend_date": "2024-03-04", "cash_amount": 0.25, "id": "E1", **changes}


def facts(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"status": "OK", "results": list(rows)}


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_on_a_market_day_is_nobodys(name: str, server: FaultServer, source: PolygonSource) -> None:
    server.json(market(FIRST, ["AAPL", name, "MSFT"]))
    page = source.market_day(FIRST, wanted={"AAPL", "MSFT"})
    assert (page.bars.tickers, page.rows, page.ignored) == (("AAPL", "MSFT"), 3, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_fact_of_what_is_no_ticker_is_left_out(
    name: str, server: FaultServer, source: PolygonSource, caplog: pytest.LogCaptureFixture
) -> None:
    server.json(facts(split(), split(name), split("B")), facts(dividend(name), dividend()))
    assert [one.ticker for one in source.splits(SINCE)] == ["A", "B"]
    assert [one.ticker for one in source.dividends(SINCE)] == ["A"]
    assert "Left out 1 of the 3 splits" in caplog.text
    assert "Left out 1 of the 2 dividends" in caplog.text


@pytest.mark.parametrize(("old", "new"), [(1e-300, 1), (1, 1e-300), (1e300, 1), (1e-200, 1e200)])
def test_a_ratio_that_nothing_can_be_computed_with_is_left_out(
    old: float, new: float, server: FaultServer, source: PolygonSource
) -> None:
    server.json(facts(split("B", split_from=old, split_to=new), split()))
    assert [one.ticker for one in source.splits(SINCE)] == ["A"]


def test_ids_and_names_can_be_stored_and_shown(server: FaultServer, source: PolygonSource) -> None:
    bad = "\x00\x1b[2J\n" + "x" * 1_000
    server.json(
        facts(split(id=bad)),
        facts(dividend(id=bad, currency=bad, dividend_type=bad)),
        {
            "status": "OK",
            "results": {
                "name": bad,
                "composite_figi": "BBG000MM2P62",
                "events": [{"type": "ticker_change", "date": "2024-03-04", "ticker_change": {"ticker": "A"}}],
            },
        },
    )
    (one,), (paid,), who = source.splits(SINCE), source.dividends(SINCE), source.identity("A")
    for text in (one.id, paid.id, paid.currency, paid.kind, who.name):
        assert text is not None
        assert text.isprintable()
        assert len(text) == 200


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_a_change_to_what_is_no_ticker_is_refused(name: str, server: FaultServer, source: PolygonSource) -> None:
    changes = [
        {"type": "ticker_change", "date": f"2024-03-0{day}", "ticker_change": {"ticker": ticker}}
        for day, ticker in ((4, "A"), (5, name))
    ]
    server.json({"status": "OK", "results": {"composite_figi": "BBG000MM2P62", "events": changes}})
    with pytest.raises(MalformedResponseError, match="a change to what cannot be a ticker") as caught:
        source.identity("A")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
