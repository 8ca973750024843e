"""One series under two tickers is noticed whatever part of it comes; bars that are alike by chance are not."""

from __future__ import annotations

import pickle
from typing import cast

import numpy as np
import pytest

from closingbell.bars import BAR, Bars
from closingbell.store import Store
from closingbell.twins import Twins, sight
from tasks.context import Context


def series(ticker: str, n: int, seed: int = 0, first: str = "2020-01-01") -> Bars:
    rows = np.zeros(n, BAR)
    rows["session"] = np.arange(first, n, dtype="M8[D]")
    rows["ts"] = rows["session"].astype("M8[us]")
    rows["close"] = 100 * np.exp(np.random.default_rng(seed).normal(0, 0.02, n).cumsum())
    rows["open"] = rows["close"] * 1.001
    rows["high"], rows["low"] = rows["open"] * 1.01, rows["close"] * 0.99
    rows["volume"] = 1e6 + np.arange(n)
    return Bars((ticker,), rows)


def part(bars: Bars, first: int, last: int, ticker: str) -> Bars:
    return Bars((ticker,), bars.rows[first:last])


def test_the_same_series_under_another_ticker() -> None:
    twins, whole = Twins(), series("A", 1_000)
    assert twins.claim("A", whole) is None
    assert twins.claim("A", whole) is None
    assert twins.claim("B", series("B", 1_000, seed=1)) is None
    for first, last in ((0, 1_000), (300, 400), (990, 1_000), (500, 540)):
        assert twins.claim("C", part(whole, first, last, "C")) == "A", (first, last)


def test_each_of_many_is_known_however_their_keys_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("closingbell.twins._MOST", 256)
    twins = Twins()
    for number in range(60):
        assert twins.claim(f"T{number}", series("T", 300, seed=number)) is None
    assert max(map(len, twins._blocks)) <= 256
    assert len(twins._blocks) < 20
    for number in range(60):
        assert twins.claim("OTHER", part(series("T", 300, seed=number), 100, 200, "OTHER")) == f"T{number}"


def test_one_bar_has_to_say_enough() -> None:
    twins, whole = Twins(), series("A", 20)
    twins.claim("A", whole)
    assert twins.claim("B", part(whole, 19, 20, "B")) == "A"
    small = series("C", 20, seed=2)
    small.rows["volume"] = 2_000.0
    twins.claim("C", small)
    assert twins.claim("D", part(small, 19, 20, "D")) is None


def test_flat_and_small_bars_are_alike_by_chance() -> None:
    twins = Twins()
    for column, value in (("volume", 100.0), ("high", 0.0)):
        alike = series("A", 50)
        if column == "high":
            for name in ("open", "high", "low", "close"):
                alike.rows[name] = 10.0
        else:
            alike.rows[column] = value
        assert twins.claim("A", alike) is None
        assert twins.claim("B", alike) is None


def test_a_series_that_stands_beside_another_is_no_twin_for_one_equal_bar() -> None:
    twins, whole = Twins(), series("A", 100)
    twins.claim("A", whole)
    other = series("B", 100, seed=3)
    other.rows[99] = whole.rows[99]
    assert twins.claim("B", other) is None


def test_nothing_is_no_twin_of_nothing() -> None:
    twins = Twins()
    assert twins.claim("A", Bars(("A",))) is None
    assert twins.claim("B", Bars(("B",))) is None


def test_what_came_in_two_processes_is_compared_afterwards() -> None:
    """Neither of them could know; each tells what it saw, a few bytes of it."""
    whole, other = series("A", 1_000), series("B", 1_000, seed=1)
    here = [sight("A", whole), sight("B", other)]
    there = [sight("C", part(whole, 300, 400, "C"))]
    for seen in ([here[0]], [here[1]], there):
        twins = Twins()
        assert [twins.meet(each) for each in seen] == [None] * len(seen)

    context = Context(cast(Store, None), "polygon", "1d", frozenset(), {}, 0)
    context.meet(pickle.loads(pickle.dumps([*here, *there])))  # noqa: S301
    assert (context.copied, context.shared) == ({"A", "C"}, {("A", "C")})
    assert len(pickle.dumps(here[0])) < 2_000
