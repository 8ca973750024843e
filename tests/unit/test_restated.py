"""A history that comes again on another scale is refused; corrections are not."""

from __future__ import annotations

import numpy as np
import pytest

from closingbell.bars import Bars
from closingbell.quality import PROFILES, Asked, check
from closingbell.restated import restated
from tests.unit.test_twins import series


def scaled(bars: Bars, factor: float, first: int = 0, last: int | None = None) -> Bars:
    rows = bars.rows.copy()
    for name in ("open", "high", "low", "close"):
        rows[name][first:last] = np.round(rows[name][first:last] * factor, 4)
    rows["volume"][first:last] /= factor
    return Bars(bars.tickers, rows)


@pytest.mark.parametrize("factor", [0.5, 2.0, 20.0, 1 / 1.5, 0.01])
def test_a_history_on_another_scale_is_refused_and_the_rest_is_not(factor: float) -> None:
    stored = series("A", 100)
    came = scaled(stored, factor, 10, 60)
    np.testing.assert_array_equal(np.flatnonzero(restated(came, stored)), np.arange(10, 60))
    verdict = check(came, Asked(came.rows["session"], came.rows["session"][-1]), PROFILES["stocks"])
    assert "restated" not in verdict.rules, "without what is stored nobody can tell"
    verdict = check(came, Asked(came.rows["session"], came.rows["session"][-1], stored), PROFILES["stocks"])
    assert verdict.rules == ("restated",) * 50


def test_corrections_are_taken() -> None:
    stored = series("A", 100)
    came = scaled(stored, 1.0)
    chance = np.random.default_rng(4)
    came.rows["close"][::3] *= 1.5
    for i in range(0, 100, 5):
        for name in ("open", "high", "low", "close"):
            came.rows[name][i] *= chance.uniform(1.3, 3)
    assert not restated(came, stored).any()


def test_a_few_bars_may_all_have_been_wrong() -> None:
    stored = series("A", 100)
    assert not restated(scaled(stored, 2.0, 40, 43), stored).any()


def test_the_right_series_is_taken_where_a_strangers_was_stored() -> None:
    for seed in range(200):
        foreign, right = series("A", 250, seed=seed), scaled(series("A", 250, seed=seed + 1_000), 3.3)
        assert not restated(right, foreign).any(), seed


def test_each_ticker_by_itself_and_only_at_its_own_instants() -> None:
    a, b = series("A", 50), series("B", 50, seed=1)
    stored = Bars.concat([b, a])
    came = Bars.concat([a, scaled(b, 0.25)])
    np.testing.assert_array_equal(restated(came, stored), np.repeat([False, True], 50))
    later = series("A", 50, first="2024-01-01")
    assert not restated(scaled(later, 2.0), stored).any()
    assert not restated(came, Bars(())).any()
    assert not restated(Bars(()), stored).any()
