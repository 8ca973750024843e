"""Who trades under a ticker, as the vendor's ticker events tell it."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
import pytest
from faultserver import FaultServer, answer
from hypothesis import given
from hypothesis import strategies as st
from opengate import OpenGate

from closingbell.errors import MalformedResponseError, RetryableError, UnknownTickerError
from closingbell.sources.base import Identity, TickerChange
from closingbell.sources.polygon import PolygonSource
from closingbell.sources.polygon.answers import identity

FIGI = "BBG000MM2P62"


def change(ticker: str, day: str, **changes: Any) -> dict[str, Any]:
    made = {"ticker_change": {"ticker": ticker}, "type": "ticker_change", "date": day}
    return {key: value for key, value in {**made, **changes}.items() if value is not ...}


META, FB = change("META", "2022-06-11"), change("FB", "2012-05-18")


def events(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = {"name": "Meta Platforms", "composite_figi": FIGI, "cik": "0001326801", "events": list(rows or (META, FB))}
    results = {key: value for key, value in {**made, **changes}.items() if value is not ...}
    return {"status": "OK", "request_id": "0123", "results": results}


def test_a_renamed_instrument(server: FaultServer, source: PolygonSource, gate: OpenGate) -> None:
    server.json(events())
    assert source.identity("META") == Identity(
        f"FIGI:{FIGI}",
        "Meta Platforms",
        (TickerChange("FB", date(2012, 5, 18)), TickerChange("META", date(2022, 6, 11))),
    )
    assert server.targets == ["/vX/reference/tickers/META/events?types=ticker_change"]
    assert (gate.calls, source.calls) == (1, {"events": 1})


def test_an_old_ticker_may_be_answered_with_its_last_holder(server: FaultServer, source: PolygonSource) -> None:
    server.json(events())
    assert source.identity("FB").changes[-1].ticker == "META"


@pytest.mark.parametrize("ticker", ["PEBpE", "BRK.B"])
def test_a_ticker_is_asked_letter_for_letter(ticker: str, server: FaultServer, source: PolygonSource) -> None:
    server.json(events(change(ticker, "2013-04-01")))
    assert source.identity(ticker).changes == (TickerChange(ticker, date(2013, 4, 1)),)
    assert server.targets == [f"/vX/reference/tickers/{ticker}/events?types=ticker_change"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({}, f"FIGI:{FIGI}"),
        ({"cik": ...}, f"FIGI:{FIGI}"),
        ({"composite_figi": ...}, "CIK:0001326801"),
        ({"composite_figi": None}, "CIK:0001326801"),
        ({"composite_figi": ""}, "CIK:0001326801"),
        ({"composite_figi": "N/A", "cik": "1326801"}, "CIK:0001326801"),
    ],
)
def test_the_id_is_the_figi_or_else_the_cik(
    ids: dict[str, Any], expected: str, server: FaultServer, source: PolygonSource
) -> None:
    server.json(events(**ids))
    assert source.identity("META").instrument_id == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([FB, META], ["FB", "META"]),
        ([META, FB, META], ["FB", "META"]),
        ([META, change("META", "2023-01-03"), FB, change("FB", "2013-01-02")], ["FB", "META"]),
        ([change("META", "2025-01-02"), change("X", "2024-01-02"), META], ["META", "X", "META"]),
        ([META, {"type": "delisting"}, {"type": "merger", "date": "2020-01-02", "into": {}}, {}], ["META"]),
    ],
)
def test_changes_by_day_each_once(
    rows: list[dict[str, Any]], expected: list[str], server: FaultServer, source: PolygonSource
) -> None:
    server.json(events(*rows))
    changes = source.identity("META").changes
    assert [c.ticker for c in changes] == expected
    assert sorted(c.day for c in changes) == [c.day for c in changes]


def test_of_equal_tickers_in_a_row_the_first_day_counts(server: FaultServer, source: PolygonSource) -> None:
    server.json(events(change("META", "2023-01-03"), META))
    assert source.identity("META").changes == (TickerChange("META", date(2022, 6, 11)),)


def test_a_name_may_be_missing(server: FaultServer, source: PolygonSource) -> None:
    server.json(events(name=...))
    assert source.identity("META").name == ""


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({}, "the answer's status is not OK"),
        ({**events(), "status": "ERROR"}, "the answer's status is not OK"),
        ({"status": "OK"}, "the answer tells of no instrument"),
        ({"status": "OK", "results": None}, "the answer tells of no instrument"),
        ({"status": "OK", "results": []}, "the answer has a field of the wrong type"),
        ({"status": "OK", "results": {}}, "the answer's instrument has no id"),
        (events(composite_figi=..., cik=...), "the answer's instrument has no id"),
        (events(composite_figi="", cik=""), "the answer's instrument has no id"),
        (events(composite_figi="", cik="0000000000"), "the answer's instrument has no id"),
        (events(composite_figi="", cik="12345678901"), "the answer's instrument has no id"),
        (events(composite_figi="", cik=1326801), "the answer has a field of the wrong type"),
        (events(events=...), "the answer names no ticker of its instrument"),
        (events(events=[]), "the answer names no ticker of its instrument"),
        (events({"type": "delisting"}), "the answer names no ticker of its instrument"),
        (events(FB), "the answer is of another ticker"),
        (events(change("meta", "2022-06-11")), "the answer is of another ticker"),
        (events(META, change("FB", "2022-06-11")), "the answer has two tickers from the same day on"),
        (events(META, change("FB", ...)), "the answer has a change of ticker without its day or its ticker"),
        (
            events(META, change("FB", "2012-05-18", ticker_change=...)),
            "the answer has a change of ticker without its day or its ticker",
        ),
        (events(META, change("", "2012-05-18")), "the answer has a field of the wrong type"),
        (events(change("META", "June 2022")), "the answer has a field of the wrong type"),
        (events(change("META", "2022-06-11", ticker_change="META")), "the answer has a field of the wrong type"),
    ],
)
def test_an_identity_that_cannot_be(body: Any, what: str, server: FaultServer, source: PolygonSource) -> None:
    server.json(body)
    with pytest.raises(MalformedResponseError) as caught:
        source.identity("META")
    assert caught.value.what == what
    assert "events of META" in str(caught.value)
    assert len(server.requests) == 1


def test_an_unknown_ticker(server: FaultServer, source: PolygonSource) -> None:
    server.reply(
        answer({"status": "NOT_FOUND", "request_id": "1", "message": "Ticker not found."}, 404),
        answer(b"<html>nginx</html>", 404),
    )
    with pytest.raises(UnknownTickerError, match=r"knows no such ticker.*/vX/reference/tickers/NOPE/events"):
        source.identity("NOPE")
    with pytest.raises(RetryableError, match="does not serve this call"):
        source.identity("NOPE")


@pytest.mark.parametrize("ticker", ["", "A/B", "..", "META/events?types=x", "A B", "A\r\nHost: x"])
def test_a_hostile_ticker_never_reaches_the_vendor(ticker: str, source: PolygonSource, gate: OpenGate) -> None:
    with pytest.raises(UnknownTickerError, match="cannot be a ticker"):
        source.identity(ticker)
    assert gate.calls == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("ABC"), st.dates(date(2000, 1, 1), date(2000, 2, 1))),
        min_size=1,
        unique_by=lambda pair: pair[1],
    ).flatmap(lambda pairs: st.tuples(st.just(pairs), st.permutations(pairs)))
)
def test_the_order_of_the_events_does_not_matter(
    both: tuple[list[tuple[str, date]], list[tuple[str, date]]],
) -> None:
    asked = both[0][0][0]
    one, other = (
        identity(msgspec.json.encode(events(*[change(t, d.isoformat()) for t, d in pairs])), asked, "x")
        for pairs in both
    )
    assert one == other
    days = [c.day for c in one.changes]
    assert days == sorted(set(days))
    assert all(a.ticker != b.ticker for a, b in zip(one.changes, one.changes[1:], strict=False))
