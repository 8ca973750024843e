"""Pictures as pixels: colours that everybody tells apart, no failure hidden, every size drawn."""

from __future__ import annotations

import io
import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from closingbell.calendar import calendar_for
from closingbell.pictures import nights as nightly
from closingbell.pictures.candles import _CANDLE, Candles, _merged
from closingbell.pictures.coverage import Coverage
from closingbell.pictures.heat import worst
from closingbell.pictures.nights import Night
from closingbell.pictures.states import CELLS, CODES, STATES

AT = datetime(2026, 11, 22, 19, tzinfo=UTC)
SESSIONS = calendar_for("stocks").sessions(date(2024, 11, 25), date(2026, 11, 20))

#: How colours look to those who lack one kind of cone, on linear light: G. M. Machado and others, "A Physiologically-
#: based Model for Simulation of Color Vision Deficiency", IEEE TVCG 15 (2009), severity 1.
SIGHT = {
    "all cones": np.eye(3),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no blue": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lab(colour: tuple[int, int, int], sight: NDArray[np.float64]) -> NDArray[np.float64]:
    """A colour in CIE L*a*b*, as somebody sees it."""
    light = np.array(colour) / 255
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(sight @ light, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHT)
def test_no_two_states_look_alike_to_anybody(sight: str) -> None:
    near = {
        (a.name, b.name): round(float(np.linalg.norm(lab(a.colour, SIGHT[sight]) - lab(b.colour, SIGHT[sight]))), 1)
        for a, b in itertools.combinations(CELLS, 2)
    }
    assert {pair: distance for pair, distance in near.items() if distance < 15} == {}  # 2.3 is just noticeable


def test_trouble_stands_out_of_what_is_stored() -> None:
    for name in ("unpublished", "pending", "unentitled", "quarantined", "failed", "unexplained"):
        for sight in SIGHT.values():
            apart = lab(STATES[CODES[name]].colour, sight) - lab(STATES[CODES["stored"]].colour, sight)
            assert np.linalg.norm(apart) > 25, name


def covered(tickers: int, sessions: NDArray[np.datetime64], **cells: Any) -> Coverage:
    """All stored but some cells, each a list of row and column by its state."""
    states = np.full((tickers, len(sessions)), CODES["stored"], np.uint8)
    for name, where in cells.items():
        for row, column in where:
            states[row, column] = CODES[name]
    return Coverage("polygon", "1d", tuple(f"T{i:05d}" for i in range(tickers)), sessions, states, AT)


@pytest.mark.parametrize(("tickers", "sessions"), [(5, 499), (523, 499), (11_000, 499), (40, 1), (1, 1), (2, 5_800)])
@pytest.mark.parametrize("least", [1, 2])
def test_one_failure_among_whatever_many_cells_is_seen(tickers: int, sessions: int, least: int) -> None:
    days = calendar_for("stocks").sessions(date(2003, 1, 2), date(2026, 11, 20))[-sessions:]
    row, column = tickers * 2 // 3, sessions // 3
    found = covered(tickers, days, failed=[(row, column)], quarantined=[(row, max(column - 1, 0))] if column else [])
    png, where = found.drawn(scale=1, least=least)
    image = Image.open(io.BytesIO(png.data)).convert("RGB")
    assert image.getpixel(where.centre(row, column)) == STATES[CODES["failed"]].colour
    assert max(image.size) < 1_300, "it fits on a page"
    assert len(png.data) < 150_000


def test_the_worst_of_a_block_is_the_last_in_the_order_of_states() -> None:
    states = np.array([[1, 1, 8], [1, 7, 1], [2, 1, 9]], np.uint8)
    assert worst(states, 2, 2).tolist() == [[7, 8], [2, 9]]
    assert worst(states, 1, 1).tolist() == states.tolist()
    assert [STATES[i].name for i in (-1, -2, -3)] == ["unexplained", "failed", "quarantined"]


def test_a_share_is_never_rounded_up_to_all() -> None:
    assert covered(523, SESSIONS, failed=[(3, 4)]).sums == "260,977 cells, 99.9 % stored"
    assert covered(523, SESSIONS).sums == "260,977 cells, 100 % stored"


def test_long_and_hostile_names_are_drawn() -> None:
    names = ("X:" + "W" * 30, "$\\frac{1}{0}$", "\u202egnp.exe", "<b>", "AAPL")
    states = np.full((5, 9), 1, np.uint8)
    png = Coverage("polygon", "1d", names, SESSIONS[:9], states, AT).png()
    assert "\u202e" not in png.alt
    assert candles("$\\frac{1}{0}$", 30).png(scale=1).data.startswith(b"\x89PNG"), "a name is no formula"


def candles(ticker: str, count: int, **more: Any) -> Candles:
    rows = np.zeros(count, _CANDLE)
    rows["session"] = SESSIONS[:count]
    rows["ts"] = calendar_for("stocks").opens(rows["session"])
    rows["open"] = 100 + np.arange(count)
    rows["high"], rows["low"], rows["close"] = rows["open"] + 3, rows["open"] - 2, rows["open"] + 1
    rows["volume"] = 1e6
    blank: dict[str, Any] = {"splits": (), "events": (), "gaps": ()}
    return Candles(ticker, "1d", True, ("polygon",), rows, as_of=AT, **{**blank, **more})


@pytest.mark.parametrize("count", [0, 1, 260])
def test_candles_of_any_number_are_drawn(count: int) -> None:
    png = candles("AAPL", count).png(scale=1)
    assert Image.open(io.BytesIO(png.data)).size == (png.width, png.height) == (1070, 520)
    assert png.alt.startswith("Candlesticks of AAPL, 1d")


def test_many_bars_make_one_candle_without_losing_a_price() -> None:
    rows = candles("AAPL", 499).rows
    many = np.concatenate([rows] * 4)
    drawn, at, per = _merged(many, np.arange(len(many)), len(many))
    assert per == 4
    assert at.tolist() == list(range(499))
    assert drawn["high"].max() == many["high"].max()
    assert drawn["volume"].sum() == many["volume"].sum()
    assert (drawn["open"] == many["open"][::4]).all()
    assert (drawn["close"] == many["close"][3::4]).all()


def test_a_session_without_a_bar_has_its_place() -> None:
    whole = candles("AAPL", 20)
    kept = np.delete(whole.rows, 7)
    chart = Candles("AAPL", "1d", True, ("polygon",), kept, (), (), ((SESSIONS[7].item(), "failed"),), AT)
    places, count = chart._places()
    assert count == 20
    assert places.tolist() == [i for i in range(20) if i != 7]
    image = np.asarray(Image.open(io.BytesIO(chart.png(scale=2).data)).convert("RGB")).astype(int)
    marked = np.abs(image - np.array(STATES[CODES["failed"]].colour)).sum(axis=2) < 12
    assert marked.any(), "and a mark in the colour of its state"


def night(day: date, **values: Any) -> Night:
    blank: dict[str, Any] = {
        "runs": 1, "states": ("Completed",), "inserted": 523, "rewritten": 3, "failed_cells": 0, "failures": {},
        "planned_calls": 2, "actual_calls": 2, "seconds": 1.5, "next_commands": (),
    }  # fmt: skip
    return Night(day, **{**blank, **values})


@pytest.mark.parametrize("count", [0, 1, 30])
def test_nights_of_any_number_are_drawn(count: int) -> None:
    some = [night(date(2026, 1, 1) + timedelta(days=i), inserted=523 if i else 260_977) for i in range(count)]
    png = nightly.png(some, scale=1)
    assert Image.open(io.BytesIO(png.data)).size == (png.width, png.height)
    assert len(png.data) < 150_000


def test_threads_draw_at_once_and_get_what_one_would() -> None:
    charts = [candles(f"T{i}", 40 + i) for i in range(4)]
    alone = [chart.png(scale=1).data for chart in charts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda chart: chart.png(scale=1).data, charts)) == alone
