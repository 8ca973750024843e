"""The bodies are the vendor's, to the key and the digit's form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from closingbell.bars import BAR, NO_TRADES, Bars
from infra.market import wire

Get = Callable[..., httpx.Response]


def shape(body: Any) -> Any:
    """The keys of a body in their order, of a list's first item for lists, and nothing of its values."""
    if isinstance(body, dict):
        return [(key, shape(value)) for key, value in body.items()]
    return shape(body[0]) if isinstance(body, list) and body else type(body).__name__.replace("float", "int")


@pytest.mark.data
@pytest.mark.parametrize(
    ("recording", "path"),
    [
        ("equity_AAPL_day_2023", "/v2/aggs/ticker/AAPL/range/1/day/2023-01-03/2023-01-10"),
        ("crypto_XBTCUSD_day_2023", "/v2/aggs/ticker/X:BTCUSD/range/1/day/2023-01-01/2023-01-10"),
    ],
)
def test_a_range_has_the_form_and_the_stamps_of_a_recorded_one(
    genuine: Path, get: Get, recording: str, path: str
) -> None:
    recorded = json.loads((genuine / f"{recording}.json").read_text())
    served = get(path).json()
    assert shape(served) == shape(recorded)
    assert [row["t"] for row in served["results"]] == [row["t"] for row in recorded["results"]]
    for key in ("ticker", "queryCount", "resultsCount", "count", "adjusted", "status"):
        assert served[key] == recorded[key]


@pytest.mark.data
def test_an_fx_range_has_the_form_of_a_recorded_one(genuine: Path, get: Get) -> None:
    recorded = json.loads((genuine / "fx_CEURUSD_day_2023.json").read_text())
    served = get("/v2/aggs/ticker/C:EURUSD/range/1/day/2023-01-01/2023-01-10").json()
    assert shape(served) == shape(recorded)
    # Recorded days include a thin Saturday and Sunday; the stand-in's currencies rest at the weekend.
    assert {row["t"] for row in served["results"]} <= {row["t"] for row in recorded["results"]}


@pytest.mark.data
def test_an_empty_range_is_the_recorded_one(genuine: Path, get: Get) -> None:
    recorded = json.loads((genuine / "200_empty_no_results_key_CGBPJPY.json").read_text())
    path = "/v2/aggs/ticker/C:GBPJPY/range/1/day/2023-01-07/2023-01-08?adjusted=false"
    served = get(path).json()
    assert {**served, "request_id": ""} == {**recorded, "request_id": ""}


@pytest.mark.data
@pytest.mark.parametrize(
    ("fixture", "path"),
    [
        (
            "v2_aggs_grouped_locale_us_market_stocks_2005-04-04_adjusted_true",
            "/v2/aggs/grouped/locale/us/market/stocks/2005-04-04",
        ),
        ("v1_marketstatus_upcoming", "/v1/marketstatus/upcoming"),
        ("vX_reference_tickers_META_events_types_ticker_change", "/vX/reference/tickers/META/events"),
    ],
)
def test_other_answers_have_the_form_of_the_clients_fixtures(genuine: Path, get: Get, fixture: str, path: str) -> None:
    recorded = json.loads((genuine / f"client_mock_{fixture}.json").read_text())
    assert shape(get(path).json()) == shape(recorded)


@pytest.mark.data
@pytest.mark.parametrize("name", ["splits", "dividends", "tickers"])
def test_reference_rows_have_every_key_of_the_clients_fixtures(genuine: Path, get: Get, name: str) -> None:
    recorded = json.loads((genuine / f"client_mock_v3_reference_{name}.json").read_text())["results"][0]
    served = get(f"/v3/reference/{name}?limit=1").json()["results"][0]
    assert set(recorded) - set(served) <= {"share_class_figi"}


@pytest.mark.data
def test_a_grouped_stamp_is_the_recorded_close(genuine: Path, get: Get) -> None:
    recorded = json.loads(
        (genuine / "client_mock_v2_aggs_grouped_locale_us_market_stocks_2005-04-04_adjusted_true.json").read_text()
    )
    # The fixture's own row is of 2020-10-14, whatever its name says.
    served = get("/v2/aggs/grouped/locale/us/market/stocks/2020-10-14").json()
    assert {row["t"] for row in served["results"]} == {recorded["results"][0]["t"]}


def test_volumes_are_written_with_exponents_from_a_million_on(get: Get) -> None:
    text = get("/v2/aggs/grouped/locale/us/market/stocks/2026-03-09").text
    volumes = re.findall(r'"v":([^,]+),', text)
    assert any("e+" in v for v in volumes)
    assert all(("e+" in v) == (float(v) >= 1e6) for v in volumes)
    assert sum(float(v) % 1 > 0 for v in volumes) > len(volumes) / 2  # fractional since 2026
    assert ".0," not in text


@pytest.mark.parametrize(
    ("volume", "text"),
    [
        (1029145.0, "1.029145e+06"),
        (112117471.0, "1.12117471e+08"),
        (37039737.0, "3.7039737e+07"),
        (1e6, "1e+06"),
        (999999.0, "999999"),
        (12300.315533316923, "12300.315533316923"),
        (2500000.125, "2.500000125e+06"),
        (0.0, "0"),
    ],
)
def test_a_volume_is_written_as_the_vendor_writes_it(volume: float, text: str) -> None:
    assert f'"v":{text},' in wire.bar_rows(one_bar(volume=volume), np.array([0]))[0]


def test_absent_averages_leave_their_keys_out_and_absent_prices_are_null() -> None:
    row = wire.bar_rows(one_bar(open=np.nan, vwap=np.nan, trades=NO_TRADES), np.array([5]), with_ticker=True)[0]
    assert row == '{"T":"A","v":10,"o":null,"c":1.5,"h":1.5,"l":1.5,"t":5}'


def test_a_number_reads_back_the_same() -> None:
    price = 69.71000000000001
    row = json.loads(wire.bar_rows(one_bar(close=price), np.array([0]))[0])
    assert row["c"] == price


def one_bar(**values: float) -> Bars:
    rows = np.zeros(1, BAR)
    for name in ("open", "high", "low", "close", "vwap"):
        rows[name] = 1.5
    rows["volume"] = 10
    for name, value in values.items():
        rows[name] = value
    return Bars(("A",), rows)


def test_gzip_and_plain_are_the_same_body(get: Get) -> None:
    path = "/v2/aggs/grouped/locale/us/market/stocks/2026-03-06"
    plain, packed = get(path, headers={"Accept-Encoding": "identity"}), get(path, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    one, two = plain.json(), packed.json()
    assert one.pop("request_id") != two.pop("request_id")
    assert one == two
