"""The column block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closingbell.bars import BAR, VALUES, Bars


def block(tickers: tuple[str, ...], positions: list[int], timeframe: str = "1d") -> Bars:
    rows = np.zeros(len(positions), BAR)
    rows["ticker"] = positions
    rows["close"] = np.random.default_rng(len(positions)).random(len(positions))
    return Bars(tickers, rows, timeframe)


def spelled(bars: Bars) -> list[tuple[str, float]]:
    return [(bars.tickers[row["ticker"]], float(row["close"])) for row in bars.rows]


blocks = st.lists(st.sampled_from(["A", "B", "a", "BRK.B"]), unique=True, min_size=1).flatmap(
    lambda names: st.lists(st.integers(0, len(names) - 1), max_size=6).map(
        lambda positions: block(tuple(names), positions)
    )
)


@settings(max_examples=100, deadline=None)
@given(st.lists(blocks, min_size=1, max_size=5))
def test_joined_blocks_keep_their_rows_in_order(parts: list[Bars]) -> None:
    before = [part.rows.tobytes() for part in parts]
    joined = Bars.concat(iter(parts))
    assert spelled(joined) == [row for part in parts for row in spelled(part)]
    assert len(set(joined.tickers)) == len(joined.tickers)
    assert [part.rows.tobytes() for part in parts] == before


def test_blocks_of_different_timeframes_do_not_join() -> None:
    with pytest.raises(ValueError, match=r"1d.*1m"):
        Bars.concat([block(("A",), [0]), block(("A",), [0], "1m")])
    with pytest.raises(ValueError, match="timeframes"):
        Bars.concat([])
    assert Bars.concat([block(("A",), [0], "1m")] * 2).timeframe == "1m"


def test_the_rows_under_a_mask() -> None:
    bars = block(("A", "B"), [0, 1, 1])
    some = bars.where(np.array([True, False, True]))
    assert spelled(some) == [spelled(bars)[0], spelled(bars)[2]]
    assert bars.where(np.ones(3, np.bool_)) is bars, "a block that is all good is not copied"
    assert len(bars.where(np.zeros(3, np.bool_))) == 0
    assert len(Bars(())) == 0


def test_a_row_is_what_the_table_holds() -> None:
    assert BAR.names is not None
    assert BAR.names == ("ticker", "session", "ts", *VALUES)
