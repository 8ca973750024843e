"""The grids of cells against plain sets of (ticker, session)."""

from __future__ import annotations

from datetime import date, timedelta
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from closingbell.cells import REASONS, RETRYABLE, Cells, Gap, Ledger, Watermark, accounted, missing

FIRST = date(2024, 1, 1)
TICKERS = ("A", "B", "a", "BRK.B")
Pairs = set[tuple[str, date]]

days = st.integers(0, 12).map(lambda n: FIRST + timedelta(days=n))
sessions = st.sets(days).map(lambda found: np.array(sorted(found), "M8[D]"))
tickers = st.permutations(TICKERS).flatmap(lambda names: st.integers(0, 4).map(lambda n: tuple(names[:n])))
marks = st.dictionaries(
    st.sampled_from([*TICKERS, "OTHER"]), st.tuples(days, days).map(lambda span: Watermark(min(span), max(span)))
)
gaps = st.lists(
    st.builds(Gap, st.sampled_from([*TICKERS, "OTHER"]), days, st.sampled_from(REASONS)),
    unique_by=lambda gap: (gap.ticker, gap.session),
)
grids = st.builds(Cells.all, tickers, sessions)
ledgers = st.builds(Ledger, marks, gaps)


def pairs(cells: Cells, mask: NDArray[np.bool_]) -> Pairs:
    assert mask.shape == (len(cells.tickers), len(cells.sessions))
    assert mask.dtype == np.bool_
    return {(cells.tickers[i], cells.sessions[j].item()) for i, j in zip(*np.nonzero(mask), strict=True)}


def everything(cells: Cells) -> Pairs:
    return {(ticker, day) for ticker in cells.tickers for day in cells.sessions.tolist()}


def known(cells: Cells, ledger: Ledger, again: tuple[str, ...]) -> Pairs:
    open_cells = {(gap.ticker, gap.session) for gap in ledger.gaps if gap.reason in again}
    return {
        (ticker, day)
        for ticker, day in everything(cells) - open_cells
        if (mark := ledger.watermarks.get(ticker)) and mark.first <= day <= mark.last
    }


@settings(max_examples=200, deadline=None)
@given(grids, ledgers, st.sampled_from([(), RETRYABLE, REASONS, ("empty",)]))
def test_accounted(cells: Cells, ledger: Ledger, again: tuple[str, ...]) -> None:
    assert pairs(cells, accounted(cells, ledger, again)) == known(cells, ledger, again)


@settings(max_examples=200, deadline=None)
@given(grids, ledgers, st.integers(0, 15), st.randoms(use_true_random=False))
def test_missing(cells: Cells, ledger: Ledger, recheck: int, random: Random) -> None:
    mask = np.array([[random.random() < 0.8 for _ in cells.sessions] for _ in cells.tickers], np.bool_)
    asked = cells.only(mask.reshape(cells.mask.shape))
    last = set(cells.sessions.tolist()[-recheck:]) if recheck else set()
    wanted = {(t, d) for t, d in everything(cells) if d in last or (t, d) not in known(cells, ledger, RETRYABLE)}
    found = missing(asked, ledger, recheck)
    assert pairs(cells, found.mask) == wanted & pairs(cells, asked.mask)
    assert found.count == len(wanted & pairs(cells, asked.mask))
    assert pairs(cells, cells.mask) == everything(cells), "the grid asked for is left as it was"


def test_tickers_are_told_apart_by_case() -> None:
    cells = Cells.all(("PEBpE", "PEBPE"), np.array(["2024-01-02"], "M8[D]"))
    ledger = Ledger({"PEBpE": Watermark(date(2024, 1, 2), date(2024, 1, 2))}, [])
    assert missing(cells, ledger).mask.tolist() == [[False], [True]]


def test_what_a_retry_asks_again() -> None:
    """The other reasons stand until somebody asks."""
    assert set(RETRYABLE) == {"failed", "unpublished", "pending"}
    assert set(RETRYABLE) < set(REASONS)
