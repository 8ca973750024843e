"""The source over TLS, by the vendor's own client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from opengate import OpenGate

from closingbell.calendar import calendar_for
from closingbell.errors import (
    ClosingbellError,
    ConfigurationError,
    MalformedResponseError,
    NotEntitledError,
    NotYetPublishedError,
    RetryableError,
    RunEndingError,
    UnknownTickerError,
)

pytest.importorskip("databento", reason="the optional extra databento is not installed")

from closingbell.sources.databento import DatabentoSource
from closingbell.sources.databento.client import Span
from closingbell.sources.databento.decode import decode
from closingbell.sources.databento.symbols import Symbol
from tests.databento.gateway import KEY, Gateway, records
from tests.databento.minutes import of_sessions, series, walk

FIRST, LAST = date(2024, 1, 2), date(2024, 1, 4)


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    with Gateway(tmp_path / "gateway") as running:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(running.certificate))
        running.series["NQ.v.0", "ohlcv-1m"] = series(FIRST, LAST)
        yield running


@pytest.fixture
def gate() -> OpenGate:
    return OpenGate()


@pytest.fixture
def source(gateway: Gateway, gate: OpenGate) -> DatabentoSource:
    return DatabentoSource(KEY, gate, gateway=gateway.url, timeout=5)  # type: ignore[arg-type]


def test_minutes_come_as_they_were_sent(gateway: Gateway, gate: OpenGate, source: DatabentoSource) -> None:
    sent = gateway.series["NQ.v.0", "ohlcv-1m"]
    bars = source.fetch_range("NQ.v.0", FIRST, LAST, "1m")
    assert bars.tickers == ("NQ.v.0",)
    assert len(bars) == len(sent) == 3 * 1_380
    assert (bars.rows["ts"] == sent["ts_event"].astype("M8[ns]").astype("M8[us]")).all()
    for name in ("open", "high", "low", "close"):
        assert (np.rint(bars.rows[name] * 1e9) == sent[name]).all()
    assert (bars.rows["volume"] == sent["volume"]).all()
    assert np.isnan(bars.rows["vwap"]).all()
    assert set(bars.rows["session"].tolist()) == {FIRST, date(2024, 1, 3), LAST}
    assert source.calls == {"range": 1}
    assert gate.calls == 1
    (asked,) = gateway.of("get_range")
    assert (asked["dataset"], asked["stype_in"], asked["schema"]) == ("GLBX.MDP3", "continuous", "ohlcv-1m")
    assert asked["start"].startswith("2024-01-01T23:00:00")
    assert asked["end"].startswith("2024-01-04T23:00:00")


def test_rolls_are_told_once(source: DatabentoSource) -> None:
    bars = source.fetch_range("NQ.v.0", FIRST, LAST, "1m")
    rolls = source.take_rolls("NQ.v.0", FIRST, LAST, "1m")
    assert [roll.instrument_id for roll in rolls] == [118, 4358]
    assert [roll.ts for roll in rolls] == [bars.rows["ts"][0], bars.rows["ts"][len(bars) * 2 // 3]]
    assert source.take_rolls("NQ.v.0", FIRST, LAST, "1m") == ()


def test_an_undefined_price_is_absent(gateway: Gateway, source: DatabentoSource) -> None:
    ts = of_sessions(FIRST, FIRST, 3)
    prices = walk(ts)
    prices[1, 2] = np.nan
    gateway.series["NQ.v.0", "ohlcv-1m"] = records(ts, prices)
    assert np.isnan(source.fetch_range("NQ.v.0", FIRST, FIRST, "1m").rows["low"]).tolist() == [False, True, False]


def test_daily_bars_are_days_of_utc(gateway: Gateway, source: DatabentoSource) -> None:
    days = np.array(["2024-01-02", "2024-01-03"], "M8[D]")
    gateway.series["NQ.v.0", "ohlcv-1d"] = records(days.astype("M8[us]"), walk(days), schema="ohlcv-1d")
    rows = source.fetch_range("NQ.v.0", FIRST, date(2024, 1, 3), "1d").rows
    assert rows["session"].tolist() == days.tolist()
    assert (rows["ts"] == calendar_for("futures").opens(days)).all()


def test_price_and_reach_are_free(gateway: Gateway, gate: OpenGate, source: DatabentoSource) -> None:
    rows = len(gateway.series["NQ.v.0", "ohlcv-1m"])
    assert source.price("NQ.v.0", FIRST, LAST, "1m") == pytest.approx(rows * 56 * 280 / 1e9)
    gateway.end = "2024-01-04T12:00:00.123456789Z"
    assert source.last_whole("NQ.v.0", "1m") == date(2024, 1, 3)
    with pytest.raises(NotYetPublishedError):
        source.fetch_range("NQ.v.0", FIRST, LAST, "1m")
    assert source.calls == {}
    assert gate.calls == 0


REFUSED = {
    401: ({"detail": f"no such key {KEY}"}, ConfigurationError),
    402: ({"detail": "pay"}, ConfigurationError),
    403: ({"detail": {"case": "license", "message": "no licence", "docs": ""}}, NotEntitledError),
    404: ({"detail": "what?"}, UnknownTickerError),
    429: ({"detail": "slow down"}, RetryableError),
    500: ({"detail": "oh"}, RetryableError),
}


@pytest.mark.parametrize(("status", "body", "kind"), [(s, *rest) for s, rest in REFUSED.items()])
def test_refusals_are_typed(
    gateway: Gateway, source: DatabentoSource, status: int, body: object, kind: type[ClosingbellError]
) -> None:
    gateway.faults.append((status, body))
    with pytest.raises(kind) as caught:
        source.fetch_range("NQ.v.0", FIRST, LAST, "1m")
    assert KEY not in str(caught.value)
    assert getattr(caught.value, "status", status) == status
    assert len(source.fetch_range("NQ.v.0", FIRST, LAST, "1m"))  # and the next call is another one


def test_cases_of_a_422(gateway: Gateway, source: DatabentoSource) -> None:
    gateway.faults = [
        (422, {"detail": {"case": "data_end_after_available_end", "message": "too late", "docs": ""}}),
        (422, {"detail": {"case": "symbology_invalid_request", "message": "None of the symbols", "docs": ""}}),
        (422, {"detail": {"case": "other", "message": "no", "docs": ""}}),
    ]
    for kind in (NotYetPublishedError, UnknownTickerError, RetryableError):
        with pytest.raises(kind):
            source.fetch_range("NQ.v.0", FIRST, LAST, "1m")


@pytest.mark.parametrize("fault", ["cut", "short"])
def test_half_an_answer_is_none(gateway: Gateway, source: DatabentoSource, fault: str) -> None:
    gateway.faults.append(fault)
    with pytest.raises(MalformedResponseError):
        source.fetch_range("NQ.v.0", FIRST, LAST, "1m")


def test_nothing_there_is_no_bars_and_an_unknown_symbol_is_said(gateway: Gateway, source: DatabentoSource) -> None:
    assert len(source.fetch_range("NQ.v.0", date(2024, 2, 1), date(2024, 2, 2), "1m")) == 0
    with pytest.raises(UnknownTickerError):
        source.fetch_range("QQ.v.0", FIRST, LAST, "1m")


def test_an_untrusted_gateway_is_not_spoken_to(
    gateway: Gateway, source: DatabentoSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(RetryableError, match="no secure connection"):
        source.price("NQ.v.0", FIRST, LAST, "1m")
    assert gateway.asked == []


def test_nobody_is_there(gateway: Gateway, gate: OpenGate) -> None:
    away = DatabentoSource(KEY, gate, gateway="https://127.0.0.1:9", timeout=1)  # type: ignore[arg-type]
    with pytest.raises(RetryableError, match="cannot be reached") as caught:
        away.price("NQ.v.0", FIRST, LAST, "1m")
    assert caught.value.status is None


def test_what_it_has_not_is_refused_before_a_call(gateway: Gateway, source: DatabentoSource) -> None:
    for ask in (
        lambda: source.check("X:BTCUSD", "1m"),
        lambda: source.check("NQ.v.0", "5m"),
        lambda: source.market_day(FIRST),
        lambda: source.splits(FIRST),
        lambda: source.dividends(FIRST),
        lambda: source.identity("AAPL"),
    ):
        with pytest.raises(ConfigurationError):
            ask()  # type: ignore[no-untyped-call]
    assert gateway.asked == []
    assert source.check("AAPL", "1d") == Symbol("AAPL", "EQUS.MINI", "raw_symbol")
    assert KEY not in repr(source) + repr(vars(source)["_client"])


def test_a_source_that_is_stopped_calls_nobody(gateway: Gateway, source: DatabentoSource) -> None:
    source.available_to("NQ.v.0", "1m")
    source.abort()
    with pytest.raises(RunEndingError):
        source.fetch_range("NQ.v.0", FIRST, LAST, "1m")
    assert gateway.of("get_range") == []


@pytest.mark.data
@pytest.mark.skipif("CLOSINGBELL_DATA" not in os.environ, reason="CLOSINGBELL_DATA does not name the real data")
def test_a_genuine_file() -> None:
    from databento import DBNStore

    path = Path(os.environ["CLOSINGBELL_DATA"]) / "databento" / "test_data.ohlcv-1m.dbn.zst"
    start = np.datetime64("2020-12-28", "us").item()
    span = Span(Symbol("ESH1", "GLBX.MDP3", "raw_symbol"), "ohlcv-1m", start, start)
    found = decode(DBNStore.from_file(path), span, "1m", calendar_for("futures"))
    first = found.bars.rows[0]
    assert len(found.bars) == 4
    assert first["ts"] == np.datetime64("2020-12-28T00:00")
    assert first["session"] == np.datetime64("2020-12-28")
    assert [first[name] for name in ("open", "high", "low", "close", "volume")] == [
        3702.75,
        3704.75,
        3702.5,
        3704.75,
        306,
    ]
    assert [roll.instrument_id for roll in found.rolls] == [5482]
