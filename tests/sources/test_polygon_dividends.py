"""Dividends: a list in pages, each dividend once."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest
from faultserver import FaultServer, answer
from opengate import OpenGate

from closingbell.errors import MalformedResponseError, RetryableError, UnknownTickerError
from closingbell.sources.base import Dividend
from closingbell.sources.polygon import PolygonSource

SINCE, UNTIL = date(2024, 3, 1), date(2024, 3, 31)
NEXT = "https://api.polygon.io/v3/reference/dividends?cursor="


def dividend(ticker: str = "A", day: str = "2024-03-04", **changes: Any) -> dict[str, Any]:
    """A row as the vendor sends it; a change to ``...`` removes the field."""
    made = {
        "cash_amount": 0.25,
        "currency": "USD",
        "declaration_date": "2024-02-01",
        "dividend_type": "CD",
        "ex_dividend_date": day,
        "frequency": 4,
        "id": f"E{ticker}{day}",
        "pay_date": "2024-03-28",
        "record_date": day,
        "ticker": ticker,
    }
    return {key: value for key, value in {**made, **changes}.items() if value is not ...}


def page(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"status": "OK", "request_id": "0123", "results": list(rows), **more}


def test_over_pages_one_call_each(server: FaultServer, source: PolygonSource, gate: OpenGate) -> None:
    server.json(
        page(dividend(), next_url=f"{NEXT}YXA9Mg&apiKey=leaked"),
        page(dividend("B", "2024-03-05", cash_amount=1, dividend_type="SC", id="x")),
    )
    assert source.dividends(SINCE, UNTIL) == [
        Dividend("A", date(2024, 3, 4), 0.25, "USD", "CD", date(2024, 3, 28), "EA2024-03-04"),
        Dividend("B", date(2024, 3, 5), 1.0, "USD", "SC", date(2024, 3, 28), "x"),
    ]
    assert (gate.calls, source.calls) == (2, {"dividends": 2})
    assert server.targets == [
        "/v3/reference/dividends?ex_dividend_date.lte=2024-03-31&ex_dividend_date.gte=2024-03-01"
        "&limit=1000&sort=ex_dividend_date&order=asc",
        "/v3/reference/dividends?cursor=YXA9Mg",
    ]


def test_of_one_ticker_without_an_end(server: FaultServer, source: PolygonSource) -> None:
    server.json(page(dividend("BRK.B", "2031-01-02")))
    assert [d.ex_date for d in source.dividends(SINCE, ticker="BRK.B")] == [date(2031, 1, 2)]
    assert "ticker=BRK.B" in server.targets[0]
    assert "lte" not in server.targets[0]


def test_what_the_vendor_leaves_out(server: FaultServer, source: PolygonSource) -> None:
    absent = dividend("A", currency=..., dividend_type=..., pay_date=..., id=..., record_date=..., frequency=...)
    null = dividend("B", currency=None, dividend_type=None, pay_date=None, id=None, declaration_date=None)
    server.json(page(absent, null, dividend("ENB", currency="CAD")))
    day = date(2024, 3, 4)
    assert source.dividends(SINCE)[:2] == [Dividend("A", day, 0.25), Dividend("B", day, 0.25)]
    assert source.dividends(SINCE)[2].currency == "CAD"


def test_equal_entries_are_one_dividend_and_others_are_several(server: FaultServer, source: PolygonSource) -> None:
    """The vendor has sent entries twice; and a regular and a special dividend do share an ex-date."""
    special = dividend(dividend_type="SC", cash_amount=2, id=...)
    again = dividend(cash_amount=0.25, id="another")
    server.json(
        page(dividend(), special, dividend(), next_url=f"{NEXT}1"),
        page(special, again, dividend("A", "2024-03-05"), dividend()),
    )
    found = source.dividends(SINCE, UNTIL, "A")
    assert [(d.ex_date.day, d.cash_amount, d.id) for d in found] == [
        (4, 0.25, "EA2024-03-04"),
        (4, 2.0, None),
        (4, 0.25, "another"),
        (5, 0.25, "EA2024-03-05"),
    ]


def test_a_dividend_of_nothing_is_none_and_costs_no_other(
    server: FaultServer, source: PolygonSource, caplog: pytest.LogCaptureFixture
) -> None:
    server.json(page(dividend("A", cash_amount=0), dividend("B"), dividend("C", cash_amount=0.0)))
    assert [d.ticker for d in source.dividends(SINCE)] == ["B"]
    assert "Left out 2 of the 3 dividends of an answer to dividends since 2024-03-01" in caplog.text


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"status": "OK"}, "the answer has no list of dividends"),
        ({"status": "OK", "results": None}, "the answer has no list of dividends"),
        (page(status="ERROR", error="oops"), "the answer's status is not OK"),
        ({"results": []}, "the answer's status is not OK"),
        (page(dividend(day="2024-02-29")), "the answer has dividends that were not asked for"),
        (page(dividend(), dividend(day="2024-04-01")), "the answer has dividends that were not asked for"),
        (page(dividend("B")), "the answer has dividends that were not asked for"),
        (page(dividend("a")), "the answer has dividends that were not asked for"),
        (page(dividend("B", cash_amount=0)), "the answer has dividends that were not asked for"),
        (page(dividend(ex_dividend_date=...)), "the answer has a field of the wrong type"),
        (page(dividend(ex_dividend_date=None)), "the answer has a field of the wrong type"),
        (page(dividend(ex_dividend_date="04/03/2024")), "the answer has a field of the wrong type"),
        (page(dividend(ex_dividend_date="2024-03-04T00:00:00Z")), "the answer has a field of the wrong type"),
        (page(dividend(cash_amount=...)), "the answer has a field of the wrong type"),
        (page(dividend(cash_amount=None)), "the answer has a field of the wrong type"),
        (page(dividend(cash_amount=-0.25)), "the answer has a field of the wrong type"),
        (page(dividend(cash_amount="0.25")), "the answer has a field of the wrong type"),
        (page(dividend(cash_amount=float("nan"))), "the answer is not valid JSON"),
        (page(dividend(pay_date="soon")), "the answer has a field of the wrong type"),
        (page(dividend(ticker=...)), "the answer has a field of the wrong type"),
        (page(results={}), "the answer has a field of the wrong type"),
    ],
)
def test_dividends_that_cannot_be(body: dict[str, Any], what: str, server: FaultServer, source: PolygonSource) -> None:
    server.json(body)
    with pytest.raises(MalformedResponseError) as caught:
        source.dividends(SINCE, UNTIL, "A")
    assert caught.value.what == what
    assert "dividends A since 2024-03-01" in str(caught.value)
    assert len(server.requests) == 1


def test_an_amount_without_end_is_refused(server: FaultServer, source: PolygonSource) -> None:
    server.reply(
        answer(b'{"status":"OK","results":[{"ticker":"A","ex_dividend_date":"2024-03-04","cash_amount":1e999}]}')
    )
    with pytest.raises(MalformedResponseError):
        source.dividends(SINCE)


@pytest.mark.parametrize(
    ("second", "error", "what"),
    [
        (answer(b'{"status":"OK",'), MalformedResponseError, "not valid JSON"),
        (answer({"status": "OK"}), MalformedResponseError, "no list of dividends"),
        (answer(b"", 500), RetryableError, "server failed"),
        (answer(b"", 429), RetryableError, "quota is exceeded"),
        (answer(page(dividend(), next_url=f"{NEXT}1")), MalformedResponseError, "the cursor loops"),
        (answer(page(next_url=NEXT.replace("dividends", "splits"))), MalformedResponseError, "leads to something else"),
    ],
)
def test_a_broken_second_page_is_no_short_success(
    second: Any, error: type[Exception], what: str, server: FaultServer, source: PolygonSource
) -> None:
    server.reply(answer(page(dividend(), next_url=f"{NEXT}1")), second)
    with pytest.raises(error, match=what):
        source.dividends(SINCE)
    assert len(server.requests) == 2


def test_cursors_without_end_are_ended(server: FaultServer, source: PolygonSource) -> None:
    server.reply(lambda _: answer(page(dividend(), next_url=f"{NEXT}{len(server.requests)}")))
    with pytest.raises(MalformedResponseError, match="lead on without end"):
        source.dividends(SINCE)
    assert len(server.requests) == 11


def test_what_cannot_be_asked_costs_no_call(source: PolygonSource, gate: OpenGate) -> None:
    with pytest.raises(ValueError, match="before the first"):
        source.dividends(UNTIL, SINCE)
    with pytest.raises(TypeError):
        source.dividends(datetime(2024, 3, 4))  # noqa: DTZ001
    with pytest.raises(UnknownTickerError, match="cannot be a ticker"):
        source.dividends(SINCE, ticker="A&limit=1")
    assert gate.calls == 0
