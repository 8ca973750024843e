"""The log of calls, and everything that can be made to go wrong."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from datetime import datetime

import httpx
import pytest

from infra.market.process import MarketProcess

Get = Callable[..., httpx.Response]

DAY = "/v2/aggs/grouped/locale/us/market/stocks/2026-03-06"
RANGE = "/v2/aggs/ticker/MSFT/range/1/day/2026-03-02/2026-03-06"


@pytest.fixture
def ask(spoilt: MarketProcess, getter: Callable[..., Get]) -> Get:
    return getter(spoilt, "very-secret")


def test_every_call_is_logged_and_no_key_is(spoilt: MarketProcess, ask: Get, getter: Callable[..., Get]) -> None:
    started = time.time()
    ask(DAY)
    ask(RANGE + "?adjusted=false&apiKey=very-secret&limit=3")
    getter(spoilt, None)(RANGE)
    ask("/nowhere")
    calls = spoilt.calls()
    assert [(c["method"], c["path"], c["status"]) for c in calls] == [
        ("GET", DAY, 200),
        ("GET", RANGE + "?adjusted=false&limit=3", 200),
        ("GET", RANGE, 401),
        ("GET", "/nowhere", 404),
    ]
    assert calls[0]["rows"] > 500
    assert calls[1]["rows"] == 3
    assert all(started - 0.1 < c["time"] < time.time() + 0.1 and c["seconds"] > 0 for c in calls)
    assert [datetime.fromisoformat(c["iso"]).timestamp() for c in calls] == pytest.approx(
        [c["time"] for c in calls], abs=1e-5
    )
    assert "secret" not in repr(calls)
    assert [c["path"] for c in spoilt.calls(since=calls[2]["time"])] == ["/nowhere"]
    spoilt.clear_calls()
    assert spoilt.calls() == []


@pytest.mark.parametrize(
    ("rule", "status", "body"),
    [
        ({"status": 503}, 503, "<html>"),
        ({"status": 500, "body": ""}, 500, ""),
        ({"status": 502, "body": {"status": "ERROR", "error": "x"}}, 502, '{"status":"ERROR","error":"x"}'),
        ({"status": 429, "headers": {"Retry-After": "2"}}, 429, '{"status":"ERROR"'),
        ({"action": "html"}, 200, "<html>"),
    ],
)
def test_another_answer(spoilt: MarketProcess, ask: Get, rule: dict[str, object], status: int, body: str) -> None:
    spoilt.fault(**{"action": "status", "path": "/range/", "times": 2, **rule})
    answers = [ask(RANGE) for _ in range(3)]
    assert [a.status_code for a in answers] == [status, status, 200]
    assert answers[0].text.startswith(body)
    assert ("retry-after" in answers[0].headers) == ("headers" in rule)
    assert ask(DAY).status_code == 200
    assert [c["fault"] is not None for c in spoilt.calls()] == [True, True, False, False]


def test_rules_choose_by_ticker_date_pattern_and_turn(spoilt: MarketProcess, ask: Get) -> None:
    spoilt.fault("status", ticker="BRK.B")
    spoilt.fault("status", date="2026-03-05", status=501)
    spoilt.fault("status", regex=r"limit=7\b", after=1, times=1, status=502)
    assert ask(RANGE.replace("MSFT", "BRK.B")).status_code == 500
    assert ask(RANGE).status_code == 200
    assert ask(DAY.replace("03-06", "03-05")).status_code == 501
    assert [ask(RANGE + "?limit=7").status_code for _ in range(3)] == [200, 502, 200]


def test_a_connection_reset_in_the_middle(spoilt: MarketProcess, ask: Get) -> None:
    spoilt.fault("reset", times=1)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        ask(DAY)
    assert ask(DAY).status_code == 200
    assert spoilt.calls()[0]["fault"] == "reset"


def test_a_body_cut_short(spoilt: MarketProcess, ask: Get) -> None:
    spoilt.fault("truncate", times=2)
    with httpx.stream("GET", spoilt.url + DAY, headers={"Authorization": "Bearer k"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert len(packed) == int(answer.headers["content-length"])
    with pytest.raises(EOFError):
        gzip.decompress(packed)
    plain = ask(RANGE, headers={"Accept-Encoding": "identity"})
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|delimiter"):
        plain.json()


def test_garbage(spoilt: MarketProcess, ask: Get) -> None:
    spoilt.fault("garbage", bytes=1000, times=1)
    answer = ask(RANGE)
    assert (answer.status_code, len(answer.content)) == (200, 1000)


def test_a_bomb_unzips_to_what_it_is_told(spoilt: MarketProcess, ask: Get) -> None:
    spoilt.fault("bomb", bytes=3_000_001, times=1)
    answer = ask(RANGE)
    assert answer.content == b" " * 3_000_001
    assert int(answer.headers["content-length"]) < 10_000


def test_an_endless_body_goes_on_until_nobody_reads_it(spoilt: MarketProcess, ask: Get) -> None:
    spoilt.fault("endless", times=1)
    with httpx.stream("GET", spoilt.url + RANGE, headers={"Authorization": "Bearer any"}) as answer:
        got = 0
        for piece in answer.iter_raw():
            got += len(piece)
            if got > 5_000_000:
                break
    assert ask(RANGE).json()["resultsCount"] == 5
    assert [call["fault"] for call in spoilt.calls()] == ["endless", None]


@pytest.mark.parametrize("when", ["head", "body"])
def test_a_stall_outlasts_an_impatient_caller(spoilt: MarketProcess, ask: Get, when: str) -> None:
    spoilt.fault("stall", when=when, seconds=0.6, times=2)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(spoilt.url + DAY, headers={"Authorization": "Bearer k"}, timeout=0.3)
    started = time.monotonic()
    assert ask(DAY).json()["resultsCount"] > 500
    assert time.monotonic() - started >= 0.6


def test_a_drip_never_stalls_for_long_but_takes_its_time(spoilt: MarketProcess, ask: Get) -> None:
    spoilt.fault("drip", seconds=0.8, times=1)
    started = time.monotonic()
    answer = httpx.get(spoilt.url + DAY, headers={"Authorization": "Bearer k"}, timeout=0.5)
    assert answer.json()["resultsCount"] > 500
    assert time.monotonic() - started >= 0.75


def test_answers_that_lie(spoilt: MarketProcess, ask: Get) -> None:
    honest = ask(RANGE).json()
    for action in ("wrong_ticker", "short_count", "over_count", "twice", "loop", "onward", "astray", "empty"):
        spoilt.fault(action, times=1)
    wrong, short, over, twice, loop, onward, astray, empty = (ask(RANGE).json() for _ in range(8))
    assert wrong["ticker"] != "MSFT"
    assert wrong["results"] == honest["results"]
    assert short["resultsCount"] > len(short["results"])
    assert over["resultsCount"] == len(over["results"]) - 1
    assert twice["results"] == honest["results"] * 2
    assert twice["resultsCount"] == 2 * honest["resultsCount"]
    assert loop["next_url"].startswith(spoilt.url + RANGE)
    assert onward["next_url"].startswith(spoilt.url + RANGE)
    assert "results" not in onward
    assert astray["next_url"].startswith("https://astray.invalid" + RANGE)
    assert astray["results"] == honest["results"]
    assert empty["resultsCount"] == 0
    assert "results" not in empty
    assert ask(RANGE).json()["results"] == honest["results"]


def test_a_correction_reaches_every_endpoint_and_can_be_undone(spoilt: MarketProcess, ask: Get) -> None:
    before = ask(RANGE).json()["results"]
    spoilt.fault("revise", ticker="MSFT", date="2026-03-06", values={"c": 123.45, "volume": 7.5, "vw": None})
    after = ask(RANGE).json()["results"]
    assert after[:-1] == before[:-1]
    assert (after[-1]["c"], after[-1]["v"], "vw" in after[-1]) == (123.45, 7.5, False)
    (row,) = (row for row in ask(DAY).json()["results"] if row["T"] == "MSFT")
    assert (row["c"], row["v"]) == (123.45, 7.5)
    spoilt.fault("revise", ticker="MSFT", date="2026-03-06", values=None)
    assert len(ask(RANGE).json()["results"]) == len(before) - 1
    assert "MSFT" not in {row["T"] for row in ask(DAY).json()["results"]}
    spoilt.clear_faults()
    assert ask(RANGE).json()["results"] == before


def test_an_added_split_is_listed_and_adjusts_the_past(spoilt: MarketProcess, ask: Get) -> None:
    before = ask(RANGE).json()["results"]
    spoilt.fault("add_split", ticker="MSFT", date="2026-03-05", split_from=1, split_to=2)
    after = ask(RANGE).json()["results"]
    assert [row["c"] for row in after[:3]] == pytest.approx([row["c"] / 2 for row in before[:3]], abs=1e-4)
    assert after[3:] == before[3:]
    assert ask(RANGE + "?adjusted=false").json()["results"][3:] == before[3:]
    listed = ask("/v3/reference/splits?ticker=MSFT&execution_date=2026-03-05").json()["results"]
    assert [(s["split_from"], s["split_to"]) for s in listed] == [(1, 2)]
    (row,) = (r for r in ask(DAY.replace("03-06", "03-04")).json()["results"] if r["T"] == "MSFT")
    assert row["c"] == after[2]["c"]


@pytest.mark.parametrize(
    "rule",
    [
        {"action": "explode"},
        {"action": "status", "colour": "red"},
        {"action": "status", "regex": "("},
        {"action": "revise", "ticker": "MSFT"},
        {"action": "revise", "ticker": "MSFT", "date": "2026-03-06", "values": {"price": 3}},
        {"action": "revise", "ticker": "MSFT", "date": "Friday", "values": {"c": 3}},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(spoilt: MarketProcess, rule: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a fault"):
        spoilt.fault(**rule)
