"""Triangles: those that are drawn by hand are found, no later bar changes one, and chunks give what the whole gives."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from closingbell.bars import BAR, Bars
from closingbell.cells import Watermark
from closingbell.errors import ConfigurationError
from closingbell.events import DETECTORS, Detector, Triangles, detector
from closingbell.events.todo import merged, planned, rest
from closingbell.store.events import Mark, Standing


def block(closes: NDArray[np.float64]) -> Bars:
    """Five-minute bars of a day each 288, a cent high, around these closes."""
    rows = np.zeros(len(closes), BAR)
    rows["ts"] = np.datetime64("2024-01-01") + np.arange(len(rows)) * np.timedelta64(5, "m")
    rows["session"] = rows["ts"].astype("M8[D]")
    rows["close"] = rows["open"] = closes
    rows["high"], rows["low"] = closes + 0.005, closes - 0.005
    return Bars(("X:BTCUSD",), rows, "5m")


def through(*points: tuple[int, float]) -> Bars:
    """A price that goes straight from point to point, given as bar and price."""
    at, price = zip(*points, strict=True)
    return block(np.interp(np.arange(at[-1] + 1), at, price))


def wandering(count: int, seed: int) -> Bars:
    rng = np.random.default_rng(seed)
    bars = block(np.round(100 + np.cumsum(rng.normal(0, 0.05, count)), 2))  # equal prices happen
    bars.rows["high"] += np.round(rng.random(count) * 0.05, 2)
    bars.rows["low"] -= np.round(rng.random(count) * 0.05, 2)
    return bars


#: A top at 10 and 30, a bottom at 20 and 40; the fourth is known at 43.
DRAWN = {
    "symmetrical": ((0, 100), (10, 110), (20, 102), (30, 108), (40, 104), (50, 107)),
    "ascending": ((0, 100), (10, 110), (20, 102), (30, 110), (40, 106), (50, 109)),
    "descending": ((0, 105), (10, 110), (20, 102), (30, 106), (40, 102), (50, 104)),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_one_that_is_drawn_is_found(kind: str) -> None:
    bars = through(*DRAWN[kind])
    (found,) = Triangles().detect(bars)
    assert Triangles.kinds[found["kind"]] == kind
    assert found["ts"] == bars.rows["ts"][43]  # three bars after the last swing, not at it
    assert found["first_ts"] == bars.rows["ts"][7]
    assert found["bars"] == 43 - 7 + 1
    tops, bottoms = (DRAWN[kind][1], DRAWN[kind][3]), (DRAWN[kind][2], DRAWN[kind][4])
    up, down = ((other[1] - one[1]) / 20 for one, other in (tops, bottoms))
    assert found["upper_slope"] == pytest.approx(up)
    assert found["lower_slope"] == pytest.approx(down)
    assert found["upper"] == pytest.approx(tops[1][1] + 0.005 + 13 * up)
    assert found["lower"] == pytest.approx(bottoms[1][1] - 0.005 + 3 * down)
    meet = found["upper"] + found["apex_bars"] * up
    assert meet == pytest.approx(found["lower"] + found["apex_bars"] * down)


@pytest.mark.parametrize(
    "points",
    [
        ((0, 100), (10, 108), (20, 102), (30, 110), (40, 100), (50, 107)),  # broadening
        ((0, 100), (10, 110), (20, 102), (30, 112), (40, 104), (50, 107)),  # a channel
        ((0, 100), (10, 110), (20, 102), (30, 110), (40, 102), (50, 109)),  # a rectangle
        ((0, 100), (10, 110), (20, 102), (30, 108), (40, 104), (43, 120), (50, 121)),  # left before it is known
        ((0, 100), (60, 110), (90, 102), (120, 108), (176, 104), (190, 107)),  # longer than it may be
        ((0, 100), (10, 110), (20, 102), (30, 108), (40, 104), (42, 104.4)),  # not known yet
    ],
)
def test_what_is_none_is_not_found(points: tuple[tuple[int, float], ...]) -> None:
    assert not len(Triangles().detect(through(*points)))


def test_no_bars_no_event() -> None:
    for count in range(12):
        assert not len(Triangles().detect(wandering(count, 1)))


@pytest.mark.parametrize("found", DETECTORS.values(), ids=DETECTORS)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(0, 1_499), size=st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_an_event_is_of_its_bar_and_those_before(found: Detector, seed: int, cut: int, size: int) -> None:
    """The law of detectors: neither what comes later nor what lies further back than the warm-up matters."""
    bars = wandering(1_500, seed)
    whole, ts = found.detect(bars), bars.rows["ts"]
    past = found.detect(Bars(bars.tickers, bars.rows[:cut], "5m"))
    assert np.array_equal(past, whole[whole["ts"] < ts[cut]])
    begin, end = max(0, cut - found.warm_up), min(cut + size, len(ts))
    chunk = found.detect(Bars(bars.tickers, bars.rows[begin:end], "5m"))
    inside = [part[(part["ts"] >= ts[cut]) & (part["ts"] <= ts[end - 1])] for part in (chunk, whole)]
    assert np.array_equal(*inside)
    assert len(whole)
    assert ((whole["ts"] - whole["first_ts"]) // np.timedelta64(5, "m") <= found.warm_up).all()


def test_parameters_are_the_version() -> None:
    assert Triangles().version == "1 wing=3 span=120 flat=0.1"
    assert Triangles(wing=2).version != Triangles().version
    assert all(len(found.version) <= 40 and len(found.name) <= 32 for found in DETECTORS.values())
    for wrong in ({"wing": 0}, {"span": 5}, {"flat": 1.0}):
        with pytest.raises(ConfigurationError):
            Triangles(**wrong)
    with pytest.raises(ConfigurationError, match="triangles"):
        detector("squares")


SESSIONS = np.arange("2024-01-01", "2024-03-01", dtype="M8[D]")
JANUARY = Watermark(date(2024, 1, 1), date(2024, 1, 31))


def day(number: int) -> date:
    return date(2024, 1, number)


def standing(mark: Mark | None, bars: Watermark = JANUARY, gaps: tuple[int, ...] = (), **seen: object) -> Standing:
    told: dict[str, object] = {"changed": frozenset(), "revision_id": 0, "late_id": 0, **seen}
    return Standing(mark, bars, frozenset(map(day, gaps)), **told)  # type: ignore[arg-type]


def next_day(session: date, last: date) -> date:
    return min(date(2024, session.month, session.day + 1), last)


DONE = Mark(day(5), day(25), (), day(4), day(1), frozenset({day(9)}), 3, 0, 7)


@pytest.mark.parametrize(
    ("now", "asked", "todo"),
    [
        (standing(None), (1, 31), [(1, 31)]),
        (standing(DONE, gaps=(9,), revision_id=3), (5, 25), None),
        (standing(DONE, gaps=(9,), revision_id=3), (6, 7), None),
        (standing(DONE, gaps=(9,), revision_id=3), (1, 31), [(1, 4), (26, 31)]),
        (standing(DONE, gaps=(), revision_id=3), (5, 25), [(9, 10)]),  # the gap got its bar
        (standing(DONE, gaps=(9, 12), revision_id=3), (5, 25), [(12, 13)]),  # a bar is gone
        (standing(DONE, gaps=(9, 27), revision_id=3), (5, 25), []),  # one that no event knows
        (standing(DONE, gaps=(9,), revision_id=4, changed=frozenset({day(20)})), (5, 25), [(20, 21)]),
        (standing(DONE, gaps=(9,), revision_id=4, changed=frozenset({day(4)})), (5, 25), [(5, 5)]),
        (standing(DONE, gaps=(9,), late_id=2, revision_id=3, changed=frozenset({day(25)})), (5, 25), [(25, 25)]),
    ],
)
def test_what_is_to_do(now: Standing, asked: tuple[int, int], todo: list[tuple[int, int]] | None) -> None:
    new = planned(now, SESSIONS, (day(asked[0]), day(asked[1])), next_day)
    if todo is None:
        assert new is None
        return
    assert new is not None
    assert [(first.day, last.day) for first, last in new.todo] == todo
    assert (new.revision_id, new.late_id, new.gaps) == (now.revision_id, now.late_id, now.gaps)
    assert now.mark is None or new.turn == 8


def test_more_history_than_there_was_to_warm_up_with() -> None:
    began = Mark(day(5), day(25), (), day(5), day(5), frozenset(), 0, 0, 1)
    new = planned(standing(began), SESSIONS, (day(5), day(25)), next_day)
    assert new is not None
    assert new.todo == ((day(5), day(6)),)


def test_spans() -> None:
    spans = [(day(9), day(12)), (day(1), day(3)), (day(4), day(5)), (day(10), day(11))]
    assert merged(spans) == ((day(1), day(5)), (day(9), day(12)))
    assert rest(merged(spans), day(2)) == ((day(3), day(5)), (day(9), day(12)))
    assert rest(merged(spans), day(5)) == ((day(9), day(12)),)
