"""What a page must keep to before its bars are believed, and how pages follow each other."""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import Any

import numpy as np
import pytest
from faultserver import FaultServer, answer
from opengate import CANARY, OpenGate
from polygon_bodies import FIRST, LAST, next_url, row, series, stamp, weekdays

from closingbell.bars import NO_TRADES
from closingbell.errors import MalformedResponseError, RetryableError, UnknownTickerError
from closingbell.sources.polygon import PolygonSource

ROWS = [row(day) for day in weekdays()]


def without(field: str) -> dict[str, Any]:
    return series(**{field: ...})


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (without("status"), "the answer's status is not OK"),
        (series(status="ERROR", error="oops"), "the answer's status is not OK"),
        (series(status="ok"), "the answer's status is not OK"),
        (without("ticker"), "the answer is of another ticker"),
        (series("MSFT"), "the answer is of another ticker"),
        (series("aapl"), "the answer is of another ticker"),
        (without("resultsCount"), "the answer does not say how many rows it has"),
        (series(resultsCount=9), "the answer has not the number of rows it says"),
        (series(resultsCount=11), "the answer has not the number of rows it says"),
        (series(resultsCount=0), "the answer has not the number of rows it says"),
        (series(resultsCount=-10), "the answer has not the number of rows it says"),
        (series(resultsCount=10**4000), "the answer has a field of the wrong type"),
        (series(resultsCount=10.5), "the answer has a field of the wrong type"),
        (series(resultsCount="10"), "the answer has a field of the wrong type"),
        (without("results"), "the answer has not the number of rows it says"),
        (series(results=None), "the answer has not the number of rows it says"),
        (series(results=[]), "the answer has not the number of rows it says"),
        ({}, "the answer's status is not OK"),
        ({"status": "OK"}, "the answer is of another ticker"),
        ({"status": "OK", "ticker": "AAPL"}, "the answer does not say how many rows it has"),
        (series(rows=ROWS[::-1]), "the answer's bars are out of order"),
        (series(rows=[*ROWS[:3], ROWS[1], *ROWS[3:]]), "the answer's bars are out of order"),
        (series(rows=ROWS + ROWS), "the answer has its whole series twice"),
        (series(rows=sorted(ROWS + ROWS, key=lambda r: r["t"])), "the answer has its whole series twice"),
        (series(rows=[*ROWS, row(date(2024, 3, 18))]), "the answer has bars outside of the range asked"),
        (series(rows=[row(date(2024, 3, 1)), *ROWS]), "the answer has bars outside of the range asked"),
        (series(rows=[row(FIRST, t=stamp(FIRST) // 1000)]), "the answer has bars outside of the range asked"),
        (series(rows=[row(FIRST, t=stamp(FIRST) * 1000)]), "the answer has a field of the wrong type"),
        (series(rows=[row(FIRST, t=stamp(FIRST) * 1_000_000)]), "the answer has a field of the wrong type"),
        (series(rows=[row(FIRST, t=10**30)]), "the answer has a field of the wrong type"),
        (series(rows=[row(FIRST, c=10**400)]), "the answer has a field of the wrong type"),
        (series(rows=[row(FIRST, t=-1)]), "the answer has a field of the wrong type"),
        (series(rows=[row(FIRST, t=...)]), "the answer has a field of the wrong type"),
        (series(rows=[row(FIRST, c="10.5")]), "the answer has a field of the wrong type"),
        (series(rows=[row(FIRST, v=True)]), "the answer has a field of the wrong type"),
        (series(rows=[row(FIRST, n=-1)]), "the answer has a field of the wrong type"),
        (series(rows=[row(FIRST, v=float("nan"))]), "the answer is not valid JSON"),
        (series(results={}), "the answer has a field of the wrong type"),
        (series(ticker=None), "the answer is of another ticker"),
    ],
)
def test_a_broken_promise_is_refused(
    body: dict[str, Any], what: str, server: FaultServer, source: PolygonSource
) -> None:
    server.json(body)
    with pytest.raises(MalformedResponseError) as caught:
        source.fetch_range("AAPL", FIRST, LAST)
    assert caught.value.what == what
    assert "AAPL 1d 2024-03-04..2024-03-15" in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        series(rows=[]),
        series(rows=[], results=None),
        series(rows=[], results=[]),
        series(rows=[], status="DELAYED"),
    ],
)
def test_empty_needs_evidence_and_then_is_a_success(
    body: dict[str, Any], server: FaultServer, source: PolygonSource
) -> None:
    server.json(body)
    bars = source.fetch_range("AAPL", FIRST, LAST)
    assert (len(bars), bars.tickers, bars.timeframe) == (0, ("AAPL",), "1d")


def test_what_is_asked(server: FaultServer, source: PolygonSource) -> None:
    server.json(series("PEBpE"), series("X:BTCUSD", rows=[]), series("BRK.B", rows=[]))
    for ticker in ("PEBpE", "X:BTCUSD", "BRK.B"):
        source.fetch_range(ticker, FIRST, LAST)
    query = "?adjusted=false&sort=asc&limit=50000"
    assert server.targets == [
        f"/v2/aggs/ticker/{ticker}/range/1/day/2024-03-04/2024-03-15{query}"
        for ticker in ("PEBpE", "X:BTCUSD", "BRK.B")
    ]
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {CANARY}"}


def test_absent_and_null_fields_reach_the_rules(server: FaultServer, source: PolygonSource) -> None:
    days = weekdays()[:5]
    server.json(
        series(
            rows=[
                row(days[0], vw=..., n=...),
                row(days[1], o=None, h=..., l=None, c=...),
                row(days[2], v=0, n=1.2e2),
                row(days[3], v=12300.315533316923, o=1, vw=None, n=None),
                row(days[4], t=float(stamp(days[4])), unknown={"a": 1}),
            ]
        )
    )
    rows = source.fetch_range("AAPL", FIRST, LAST).rows
    assert rows["trades"].tolist() == [NO_TRADES, 120, 120, NO_TRADES, 120]
    assert np.isnan(rows["vwap"]).tolist() == [True, False, False, True, False]
    for name in ("open", "high", "low", "close"):
        assert np.isnan(rows[name]).tolist() == [False, True, False, False, False]
    assert rows["volume"].tolist() == [3.7039737e07, 3.7039737e07, 0, 12300.315533316923, 3.7039737e07]


def test_a_single_duplicate_is_left_to_the_rules(server: FaultServer, source: PolygonSource) -> None:
    server.json(series(rows=[*ROWS[:4], row(weekdays()[3], c=10.25), *ROWS[4:]]), series(rows=ROWS[:1] * 2))
    assert len(source.fetch_range("AAPL", FIRST, LAST)) == 11
    assert len(source.fetch_range("AAPL", FIRST, LAST)) == 2


def test_pages_are_followed_by_us_one_call_each(server: FaultServer, source: PolygonSource, gate: OpenGate) -> None:
    server.json(
        series(rows=ROWS[:4], next_url=next_url(at=1)),
        series(rows=ROWS[4:8], next_url=next_url(at=2) + "&apiKey=leaked"),
        series(rows=ROWS[8:]),
    )
    pages = list(source.range("AAPL", FIRST, LAST))
    assert [page.rows for page in pages] == [4, 4, 2]
    assert [bool(page.next) for page in pages] == [True, True, False]
    assert (gate.calls, source.calls) == (3, {"range": 3})
    assert server.targets[1:] == [
        f"/v2/aggs/ticker/AAPL/range/1/day/{stamp(FIRST) + at}/{LAST}?cursor=bGltaXQ9MiZzb3J0PWFzYw" for at in (1, 2)
    ]
    assert all(request.headers["host"] == f"127.0.0.1:{server.port}" for request in server.requests)
    assert all("leaked" not in str(page) for page in pages)


def test_pages_become_one_block(server: FaultServer, source: PolygonSource) -> None:
    server.json(series(rows=ROWS[:4], next_url=next_url()), series(rows=ROWS[4:]))
    assert source.fetch_range("AAPL", FIRST, LAST).rows["session"].astype(object).tolist() == weekdays()


def test_a_page_is_only_fetched_when_it_is_wanted(server: FaultServer, source: PolygonSource) -> None:
    server.json(series(rows=ROWS[:4], next_url=next_url()), series(rows=ROWS[4:]))
    next(source.range("AAPL", FIRST, LAST))
    assert len(server.requests) == 1


def test_a_quoted_ticker_in_a_cursor_is_the_same_ticker(server: FaultServer, source: PolygonSource) -> None:
    day = date(2024, 3, 4)
    utc = 1709510400000
    server.json(
        series("X:BTCUSD", rows=[row(day, t=utc)], next_url=next_url("X%3ABTCUSD")),
        series("X:BTCUSD", rows=[row(day, t=utc + 86_400_000)]),
    )
    assert len(source.fetch_range("X:BTCUSD", FIRST, LAST)) == 2


def test_a_cursor_behind_a_proxy_with_a_prefix(server: FaultServer, connect: Any) -> None:
    server.json(series(rows=ROWS[:4], next_url=next_url(host="https://proxy/polygon")), series(rows=ROWS[4:]))
    assert len(connect(server.url + "/polygon/").fetch_range("AAPL", FIRST, LAST)) == 10
    assert [target.split("?")[0].count("/polygon/v2/") for target in server.targets] == [1, 1]


@pytest.mark.parametrize(
    ("second", "error", "what"),
    [
        (answer(b'{"status":"OK",'), MalformedResponseError, "not valid JSON"),
        (answer(b"", 500), RetryableError, "server failed"),
        (answer(series("MSFT", rows=ROWS[4:])), MalformedResponseError, "another ticker"),
        (answer(series(rows=ROWS[3:])), MalformedResponseError, "goes back to bars of the page before"),
        (answer(series(rows=ROWS[:4])), MalformedResponseError, "goes back to bars of the page before"),
        (answer(series(rows=ROWS[4:], next_url=next_url())), MalformedResponseError, "the cursor loops"),
    ],
)
def test_a_broken_second_page_is_no_short_success(
    second: Any, error: type[Exception], what: str, server: FaultServer, source: PolygonSource
) -> None:
    server.reply(answer(series(rows=ROWS[:4], next_url=next_url())), second)
    with pytest.raises(error, match=what):
        source.fetch_range("AAPL", FIRST, LAST)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "target",
    [
        next_url("MSFT"),
        next_url().replace("/day/", "/minute/"),
        "https://api.polygon.io/v3/reference/splits?cursor=abc",
        next_url("AAPL/../MSFT"),
        next_url().replace(f"/{LAST}", "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/MSFT"),
        next_url().split("?")[0],
        "http://[::1/v2/aggs",
        "nonsense",
    ],
)
def test_a_cursor_that_leads_elsewhere_is_not_followed(target: str, server: FaultServer, source: PolygonSource) -> None:
    server.json(series(rows=ROWS[:4], next_url=target))
    with pytest.raises(MalformedResponseError, match="the cursor leads to something else"):
        source.fetch_range("AAPL", FIRST, LAST)
    assert len(server.requests) == 1


@pytest.mark.parametrize("ats", [(1, 1), (1, 2, 1), (1, 2, 3, 2)], ids=str)
def test_cursors_that_lead_in_a_circle_are_ended(
    ats: tuple[int, ...], server: FaultServer, source: PolygonSource
) -> None:
    server.json(*[series(rows=ROWS[i : i + 1], next_url=next_url(at=at)) for i, at in enumerate(ats)])
    with pytest.raises(MalformedResponseError, match="the cursor loops"):
        source.fetch_range("AAPL", FIRST, LAST)
    assert len(server.requests) == len(ats)


def test_a_first_page_that_leads_to_itself(server: FaultServer, source: PolygonSource) -> None:
    server.reply(lambda request: answer(series(next_url=server.url + request.target)))
    with pytest.raises(MalformedResponseError, match="goes back to bars of the page before"):
        source.fetch_range("AAPL", FIRST, LAST)
    assert len(server.requests) == 2


def test_new_bars_in_driblets_are_no_way_to_go_on_for_ever(server: FaultServer, source: PolygonSource) -> None:
    start, at = stamp(FIRST, 10), "/range/1/minute/"
    server.reply(
        lambda _: answer(
            series(
                rows=[row(FIRST, t=start + 60_000 * len(server.requests))],
                next_url=next_url(at=len(server.requests)).replace("/range/1/day/", at),
            )
        )
    )
    with pytest.raises(MalformedResponseError, match=r"lead on without end.*20 pages brought 20 rows"):
        source.fetch_range("AAPL", FIRST, LAST, "1m")
    assert len(server.requests) == 20


def test_short_pages_are_pages(server: FaultServer, source: PolygonSource) -> None:
    start = stamp(FIRST, 10)
    bodies = [
        series(
            rows=[row(FIRST, t=start + 60_000 * (5 * page + n)) for n in range(5)],
            next_url=next_url(at=page).replace("/range/1/day/", "/range/1/minute/") if page < 29 else ...,
        )
        for page in range(30)
    ]
    server.json(*bodies)
    assert len(source.fetch_range("AAPL", FIRST, LAST, "1m")) == 150


def test_the_key_goes_to_no_other_host(server: FaultServer, source: PolygonSource) -> None:
    with FaultServer() as elsewhere:
        elsewhere.json(series(rows=ROWS[4:]))
        server.json(series(rows=ROWS[:4], next_url=next_url(host=elsewhere.url)), series(rows=ROWS[4:]))
        assert len(source.fetch_range("AAPL", FIRST, LAST)) == 10
    assert (elsewhere.connections, len(server.requests)) == (0, 2)


def test_a_byte_order_mark_changes_nothing(server: FaultServer, source: PolygonSource) -> None:
    server.reply(answer(b"\xef\xbb\xbf" + json.dumps(series()).encode()))
    assert len(source.fetch_range("AAPL", FIRST, LAST)) == 10


def test_of_a_name_that_is_there_twice_the_last_counts(server: FaultServer, source: PolygonSource) -> None:
    text = json.dumps(series())
    server.reply(
        answer(text.replace('"ticker": "AAPL"', '"ticker": "AAPL", "ticker": "MSFT"').encode()),
        answer(text.replace('"c": 10.5', '"c": 3, "c": 10.5').encode()),
    )
    with pytest.raises(MalformedResponseError, match="another ticker"):
        source.fetch_range("AAPL", FIRST, LAST)
    assert set(source.fetch_range("AAPL", FIRST, LAST).rows["close"]) == {10.5}


def test_cursors_without_end_are_ended(server: FaultServer, source: PolygonSource) -> None:
    server.reply(lambda _: answer(series(rows=[], next_url=next_url(at=len(server.requests)))))
    with pytest.raises(MalformedResponseError, match="lead on without end"):
        source.fetch_range("AAPL", FIRST, LAST)
    assert len(server.requests) == 10


@pytest.mark.parametrize(
    "ticker", ["", "A/B", "../x", "..", "A?b=1", "A#", "A B", "A\r\nHost: x", "A%2fB", "Ä", "A" * 41, "'; drop", ".A"]
)
def test_a_hostile_ticker_never_reaches_the_vendor(ticker: str, source: PolygonSource, gate: OpenGate) -> None:
    with pytest.raises(UnknownTickerError, match="cannot be a ticker"):
        source.fetch_range(ticker, FIRST, LAST)
    assert gate.calls == 0


def test_dates_are_dates(source: PolygonSource, gate: OpenGate) -> None:
    with pytest.raises(TypeError):
        source.fetch_range("AAPL", datetime(2024, 3, 4), LAST)  # noqa: DTZ001
    with pytest.raises(ValueError, match="before the first"):
        source.fetch_range("AAPL", LAST, FIRST)
    assert gate.calls == 0


def test_adjusted_prices_are_pointed_out(
    server: FaultServer, source: PolygonSource, caplog: pytest.LogCaptureFixture
) -> None:
    server.json(series(adjusted=True))
    source.fetch_range("AAPL", FIRST, LAST)
    assert "adjusted, though raw ones were asked for" in caplog.text
