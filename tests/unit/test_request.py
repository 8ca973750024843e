"""What a run is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from closingbell.cells import Gap
from closingbell.errors import ConfigurationError
from closingbell.request import Request, build, of_gaps

NOON = datetime(2024, 6, 12, 12, tzinfo=UTC)  # a Wednesday; the last session that is over is the 11th


def test_what_is_left_open_is_filled_in() -> None:
    request = build(["AAPL", "BRK.B", "AAPL"], None, None, NOON, recheck_sessions=3)
    assert request.tickers == ("AAPL", "BRK.B"), "each once, in the order given"
    assert (request.start, request.end) == (date(2022, 6, 13), date(2024, 6, 11))
    assert (request.recheck_sessions, request.source, request.timeframe, request.notes) == (3, "polygon", "1d", ())
    assert not request.gaps_only


def test_before_the_vendor_publishes_the_session_before_is_the_end() -> None:
    assert build(["AAPL"], None, None, datetime(2024, 6, 11, 21, tzinfo=UTC)).end == date(2024, 6, 10)
    assert build(["AAPL"], None, None, datetime(2024, 6, 12, 4, 59, tzinfo=UTC)).end == date(2024, 6, 10)
    assert build(["AAPL"], None, None, datetime(2024, 6, 12, 5, 0, tzinfo=UTC)).end == date(2024, 6, 11)


def test_an_end_that_is_not_over_is_moved_back_and_said() -> None:
    request = build(["AAPL"], date(2024, 6, 3), date(2024, 6, 20), NOON)
    assert request.end == date(2024, 6, 11)
    assert request.notes == ("2024-06-20 is not over: asking up to 2024-06-11",)
    closed = datetime(2024, 6, 11, 21, tzinfo=UTC)
    assert build(["AAPL"], date(2024, 6, 3), date(2024, 6, 11), closed).notes == (), "over, if not yet published"


def test_a_start_alone_may_be_the_last_session_that_is_over() -> None:
    closed = datetime(2024, 6, 11, 21, tzinfo=UTC)
    request = build(["AAPL"], date(2024, 6, 11), None, closed)
    assert (request.start, request.end) == (date(2024, 6, 11), date(2024, 6, 11))


@pytest.mark.parametrize(
    ("start", "end", "value"),
    [
        (date(2024, 6, 10), date(2024, 6, 3), "2024-06-10..2024-06-03"),
        (date(2025, 1, 2), None, "2025-01-02..2024-06-11"),
        (date(2024, 6, 8), date(2024, 6, 9), "2024-06-08..2024-06-09"),
        (None, date(2000, 1, 3), "2022-06-13..2000-01-03"),
        (date(2024, 6, 12), date(2024, 6, 20), "2024-06-12..2024-06-20"),
    ],
)
def test_a_span_without_a_session_is_refused(start: date | None, end: date | None, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(["AAPL"], start, end, NOON)
    assert caught.value.what == "there is no session to fetch"
    assert caught.value.value == value
    assert "2024-06-11, the last session that is over" in caught.value.fix


def test_what_cannot_be_asked_for_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no ticker was asked for"):
        build([], None, None, NOON)
    with pytest.raises(ConfigurationError, match="no calendar for indices: 'I:SPX'"):
        build(["AAPL", "I:SPX"], None, None, NOON)
    with pytest.raises(ConfigurationError, match="no time zone"):
        build(["AAPL"], None, None, NOON.replace(tzinfo=None))


def test_each_asset_class_has_sessions_of_its_own() -> None:
    request = build(["AAPL", "X:BTCUSD", "C:EURUSD", "MSFT"], date(2024, 6, 7), date(2024, 6, 10), NOON)
    grids = {name: (cells.tickers, [day.day for day in cells.sessions.tolist()]) for name, cells in request.grids(NOON)}
    assert grids == {
        "stocks": (("AAPL", "MSFT"), [7, 10]),
        "crypto": (("X:BTCUSD",), [7, 8, 9, 10]),
        "fx": (("C:EURUSD",), [7, 9, 10]),
    }
    assert all(cells.mask.all() for _, cells in request.grids(NOON))


def test_a_session_that_is_not_over_in_one_class_is_left_out_of_it_alone() -> None:
    evening = datetime(2024, 6, 12, 23, tzinfo=UTC)  # the exchange has closed, the day of UTC has not
    request = build(["AAPL", "X:BTCUSD"], date(2024, 6, 11), date(2024, 6, 12), evening)
    assert {name: len(cells.sessions) for name, cells in request.grids(evening)} == {"stocks": 2, "crypto": 1}


def test_a_request_survives_as_json() -> None:
    request = build(["AAPL", "PEBpE"], date(2024, 6, 3), date(2024, 6, 7), NOON, recheck_sessions=2)
    again = Request.from_dict(json.loads(json.dumps(request.as_dict())))
    assert again == replace(request, recheck_sessions=0), "a retry looks at what is missing only"


def test_the_request_for_some_gaps() -> None:
    gaps = [
        Gap("B", date(2024, 6, 5), "failed"),
        Gap("A", date(2024, 6, 3), "pending"),
        Gap("B", date(2024, 6, 7), "unpublished"),
    ]
    request = of_gaps(gaps, NOON)
    assert (request.tickers, request.start, request.end) == (("B", "A"), date(2024, 6, 3), date(2024, 6, 7))
    assert request.gaps_only
    assert Request.from_dict(request.as_dict()) == request
    assert of_gaps([], NOON).grids(NOON) == []
