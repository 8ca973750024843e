"""Scale: defects put into random series have to be found, and no good bar refused; then five years of real ones."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closingbell.bars import BAR, NO_TRADES, Bars
from closingbell.neighbours import FACTORS
from closingbell.quality import PROFILES, Action, Asked, Verdict, check
from closingbell.runs import FEW
from closingbell.scale import ACROSS, sweep
from closingbell.sources.base import Split

STOCKS = PROFILES["stocks"]
END = np.datetime64("2030-01-01")
PRICES = ("open", "high", "low", "close")
DAY = np.timedelta64(1, "D")


def walk(rng: np.random.Generator, n: int = 40, noise: float = 0.015, start: float = 50.0) -> Any:
    """Daily bars of a price that walks at random, one row a business day."""
    rows = np.zeros(n, BAR)
    rows["session"] = np.busday_offset("2020-01-01", np.arange(n), roll="forward")
    rows["ts"] = rows["session"].astype("M8[us]") + np.timedelta64(5, "h")
    close = start * np.exp(np.cumsum(rng.normal(0, noise, n)))
    opened = np.append(start, close[:-1]) * np.exp(rng.normal(0, noise / 3, n))
    rows["open"], rows["close"] = opened, close
    rows["high"] = np.maximum(opened, close) * np.exp(np.abs(rng.normal(0, noise / 2, n)))
    rows["low"] = np.minimum(opened, close) * np.exp(-np.abs(rng.normal(0, noise / 2, n)))
    rows["volume"] = rng.integers(1_000, 1_000_000, n)
    rows["vwap"], rows["trades"] = np.nan, NO_TRADES
    return rows


def scaled(rows: Any, which: int | slice, factor: float, names: Sequence[str] = PRICES) -> Any:
    rows = rows.copy()
    for name in names:
        rows[name][which] *= factor
    return rows


def judge(
    rows: Any, around: Any = None, splits: Sequence[Split] = (), tickers: tuple[str, ...] = ("A",), days: str = "1d"
) -> Verdict:
    near = Bars(tickers, np.empty(0, BAR) if around is None else around, days)
    asked = Asked(np.unique(rows["session"]), END, near, splits)
    return check(Bars(tickers, rows, days), asked, STOCKS)


def refused(rows: Any, judged: Verdict) -> dict[int, str]:
    """The rule of each row that was kept apart, by its place among the rows."""
    places = {(row["ticker"], row["ts"]): i for i, row in enumerate(rows)}
    kept = judged.quarantined.rows
    return {places[row["ticker"], row["ts"]]: rule for row, rule in zip(kept, judged.rules, strict=True)}


@pytest.fixture
def rows() -> Any:
    return walk(np.random.default_rng(7))


def split(rows: Any, at: int, split_from: float, split_to: float, ticker: str = "A") -> Split:
    return Split(ticker, rows["session"][at].item(), split_from, split_to)


# -- a good series --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.04, 0.08])
def test_a_price_that_walks_at_random_breaks_nothing(noise: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        judged = judge(walk(rng, 500, noise))
        assert (judged.rules, judged.warned, judged.examples) == ((), {}, {})


def test_a_price_of_few_ticks_breaks_nothing() -> None:
    """From 0.0003 to 0.0006 and back is one day's ordinary trading there."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        rows = walk(rng, 500, 0.08, 0.0006)
        for name in PRICES:
            rows[name] = np.maximum(np.round(rows[name] / 0.0001), 1) * 0.0001
        assert judge(rows).rules == ()


def test_a_spike_that_was_traded_is_real(rows: Any) -> None:
    rows["high"][20] = 3 * rows["close"][20]
    rows["close"][21] = rows["high"][21] = 1.9 * rows["open"][21]
    rows["open"][22] = rows["high"][22] = 1.7 * rows["open"][22]
    assert judge(rows).rules == ()


# -- half a bar -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [*[(name,) for name in PRICES], ("open", "low"), ("low", "close"), PRICES[:3]])
@pytest.mark.parametrize("factor", [0.5, 0.1, 2, 100])
def test_a_bar_in_part_on_another_scale(rows: Any, names: tuple[str, ...], factor: float) -> None:
    judged = judge(scaled(rows, 20, factor, names))
    assert refused(rows, judged) == {20: "half_split"}
    assert judged.examples == {"half_split": (f"A {rows['session'][20]}",)}
    assert judged.warned == {}


def test_half_a_bar_at_the_newest_edge_is_explained_where_its_order_tells(rows: Any) -> None:
    assert refused(rows, judge(scaled(rows, -1, 0.5, ["close"]))) == {39: "half_split"}
    assert refused(rows, judge(scaled(rows, -1, 0.5, ["low"]))) == {}  # it may have been traded there


def test_half_a_bar_alone_is_only_in_disorder(rows: Any) -> None:
    assert judge(scaled(rows, -1, 0.5, ["close"])[-1:]).rules == ("ohlc_order",)


def test_a_wrong_price_at_no_recognisable_factor_is_only_in_disorder(rows: Any) -> None:
    assert refused(rows, judge(scaled(rows, 20, 0.56, ["open"]))) == {20: "ohlc_order"}


def test_half_a_bar_on_the_day_of_its_split(rows: Any) -> None:
    """Open and high are still on the old scale: 7 is no factor of the list, but that of the split."""
    late = scaled(scaled(rows, slice(20, None), 1 / 7), 20, 7, ["open", "high"])
    assert refused(rows, judge(late, splits=[split(rows, 20, 1, 7)])) == {20: "half_split"}
    edge = judge(late[20:21], late[:20], [split(rows, 20, 1, 7)])
    assert edge.rules == ("half_split",)


# -- a hundredfold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 20, 38, 39])
@pytest.mark.parametrize("factor", [100, 0.01, 120, 0.012])
def test_a_hundredfold(rows: Any, at: int, factor: float) -> None:
    bad = scaled(rows, at, factor)
    judged = judge(bad)
    assert refused(rows, judged) == {at: "hundredfold"}
    assert judged.warned == {}
    if at > 2:
        assert judge(bad[at : at + 1], bad[:at]).rules == ("hundredfold",)


def test_a_hundredfold_needs_three_neighbours(rows: Any) -> None:
    bad = scaled(rows, 3, 100)
    assert judge(bad[3:4], bad[1:3]).rules == ()
    assert judge(bad[3:4], bad[1:3]).warned == {"unexplained_jump": 1}
    assert judge(bad[3:4], bad[:3]).rules == ("hundredfold",)


def test_a_hundredfold_that_lasts_is_accepted(rows: Any) -> None:
    judged = judge(scaled(rows, slice(20, None), 100))
    assert (judged.rules, judged.warned) == ((), {"unexplained_jump": 1})


def test_a_hundredfold_with_its_split_known_is_fine(rows: Any) -> None:
    reverse = scaled(rows, slice(20, None), 100)
    known = [split(rows, 20, 100, 1)]
    assert judge(reverse, splits=known).examples == {}
    assert judge(reverse[20:21], reverse[:20], known).examples == {}


def test_good_bars_come_after_bad_ones_that_were_stored(rows: Any) -> None:
    stored = scaled(rows, slice(17, 20), 100)
    for at in range(20, 30):
        assert judge(rows[at : at + 1], np.concatenate((stored[:20], rows[20:at]))).rules == ()


# -- off scale ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [*FACTORS, *(1 / f for f in FACTORS)])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_few_bars_on_another_scale(rows: Any, factor: float, length: int) -> None:
    judged = judge(scaled(rows, slice(20, 20 + length), factor))
    rule = "hundredfold" if factor in (100, 0.01) else "off_scale"
    assert refused(rows, judged) == dict.fromkeys(range(20, 20 + length), rule)
    assert judged.warned == {}


def test_one_side_is_no_evidence(rows: Any) -> None:
    judged = judge(scaled(rows, -1, 2))
    assert (judged.rules, judged.warned) == ((), {"unexplained_jump": 1})
    assert judge(scaled(rows, -2, 2)).rules == ()  # nor is a single bar on the other
    assert judge(scaled(rows, -3, 2)).rules == ("off_scale",)


def test_a_longer_run_is_accepted_with_a_word_at_both_ends(rows: Any) -> None:
    length = FEW + 1
    judged = judge(scaled(rows, slice(20, 20 + length), 2))
    assert (judged.rules, judged.warned) == ((), {"unexplained_jump": 2})


def test_the_stored_version_of_a_bar_is_no_neighbour_of_it(rows: Any) -> None:
    bad = scaled(rows, 20, 2)
    judged = judge(bad[20:21], bad)
    assert judged.rules == ("off_scale",)
    assert judge(rows[20:21], bad).examples == {}
    assert judge(bad[20:21], rows).rules == ("off_scale",)


def test_neighbours_of_other_tickers_are_none(rows: Any) -> None:
    bars, others = Bars(("A",), scaled(rows, 20, 2)[20:21]), Bars(("B", "C"), rows.copy())
    asked = Asked(bars.rows["session"], END, others, [split(rows, 20, 1, 3, "B")])
    assert check(bars, asked, STOCKS).examples == {}
    renumbered = rows.copy()
    renumbered["ticker"] = 1
    asked = Asked(bars.rows["session"], END, Bars(("B", "A"), renumbered))
    assert check(bars, asked, STOCKS).rules == ("off_scale",)


def test_nothing_is_compared_over_a_long_pause(rows: Any) -> None:
    """After months the ticker may be another issuer's: that the price is another is no defect, but worth a word."""
    later = rows.copy()
    later["session"] += 200 * DAY
    later["ts"] += 200 * DAY
    for factor in (2, 100):
        judged = judge(scaled(later[:1], 0, factor), rows)
        assert (judged.rules, judged.warned) == ((), {"unexplained_jump": 1})


@pytest.mark.parametrize("ratio", [(1, 2), (20, 1), (2, 3), (1, 7)])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 10, 15])
@pytest.mark.parametrize("late", [False, True])
def test_a_split_applied_too_early_or_too_late(rows: Any, ratio: tuple[int, int], length: int, late: bool) -> None:
    raw = scaled(rows, slice(20, None), ratio[0] / ratio[1])
    wrong = slice(20, 20 + length) if late else slice(20 - length, 20)
    bad = scaled(raw, wrong, ratio[1] / ratio[0] if late else ratio[0] / ratio[1])
    judged = judge(bad, splits=[split(rows, 20, *ratio)])
    assert refused(rows, judged) == dict.fromkeys(range(wrong.start, wrong.stop), "off_scale")
    assert judged.warned == {}


# -- steps that last ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1 / 20, 0.5, 2, 20])
def test_a_split_that_nobody_knows_is_accepted_with_a_word(rows: Any, factor: float) -> None:
    bad = scaled(rows, slice(20, None), factor)
    judged = judge(bad)
    assert (judged.rules, judged.warned) == ((), {"unexplained_jump": 1})
    [example] = judged.examples["unexplained_jump"]
    moved = bad["close"][20] / bad["close"][19]
    assert example.split(" x")[0] == f"A {rows['session'][20]}"
    assert float(example.split(" x")[1]) == pytest.approx(moved, rel=0.05)
    warned = [judge(bad[at : at + 1], bad[max(0, at - 10) : at]) for at in range(1, 40)]
    assert [at for at, verdict in enumerate(warned, 1) if verdict.warned] == [20]
    assert not any(verdict.rules for verdict in warned)


def test_a_split_that_is_known_is_fine(rows: Any) -> None:
    raw = scaled(rows, slice(20, None), 1 / 20)
    known = [split(rows, 20, 1, 20)]
    assert judge(raw, splits=known).examples == {}
    assert judge(raw[20:21], raw[:20], known).examples == {}
    # In two steps on days without a bar; and listed twice, of which the later entry counts.
    steps = [split(rows, 20, 1, 5), split(rows, 21, 1, 4)]
    assert judge(np.delete(raw, [20, 21]), splits=steps).examples == {}
    assert judge(raw, splits=[split(rows, 20, 1, 3), *known]).examples == {}


def test_two_splits_in_a_week(rows: Any) -> None:
    """Known, they are fine. Unknown, a few sessions between them are refused, more are accepted."""
    for apart in (1, 2, 3, 4):
        raw = scaled(rows, slice(20, 20 + apart), 1 / 10)
        known = [split(rows, 20, 1, 10), split(rows, 20 + apart, 10, 1)]
        assert judge(raw, splits=known).examples == {}
        judged = judge(raw)
        assert len(judged.quarantined) == (apart if apart <= FEW else 0)
        assert judged.warned == ({} if apart <= FEW else {"unexplained_jump": 2})
    both = [split(rows, 20, 1, 10), split(rows, 22, 10, 1)]
    assert judge(np.delete(rows, slice(20, 22)), splits=both).examples == {}


def test_adjusted_prices_where_raw_ones_were_asked(rows: Any) -> None:
    known = [split(rows, 20, 1, 2)]
    judged = judge(rows, splits=known)
    assert (judged.rules, judged.warned) == ((), {"split_without_jump": 1})
    assert judged.examples == {"split_without_jump": (f"A {rows['session'][20]}",)}
    assert judge(rows[20:21], rows[:20], known).warned == {"split_without_jump": 1}
    assert judge(rows[21:22], rows[:21], known).warned == {}
    assert judge(rows, splits=[split(rows, 20, 5, 6)]).warned == {}  # too small to be seen


# -- one series under several names ---------------------------------------------------------------------------------

MARKET = tuple("ABCDE")


def market(rng: np.random.Generator, n: int = 12) -> Any:
    """The bars of five tickers on quite different levels, by session."""
    parts = [walk(rng, n, start=10.0 * 3**i) for i in range(len(MARKET))]
    for i, part in enumerate(parts):
        part["ticker"] = i
        part["vwap"] = (part["high"] + part["low"]) / 2
    rows = np.concatenate(parts)
    return rows[np.argsort(rows["ts"], kind="stable")]


def copied(rows: Any, to: Sequence[int], of: int, session: int = 11) -> Any:
    """A ticker's bar of a session under other tickers' names."""
    rows = rows.copy()
    day = np.unique(rows["session"])[session]
    for ticker in to:
        row = np.flatnonzero((rows["ticker"] == of) & (rows["session"] == day))
        into = np.flatnonzero((rows["ticker"] == ticker) & (rows["session"] == day))
        rows[into] = rows[row]
        rows["ticker"][into] = ticker
    return rows


@pytest.mark.parametrize("others", [[3], [0, 1], [0, 1, 3, 4]])
def test_one_series_under_many_names(others: list[int]) -> None:
    rows = copied(market(np.random.default_rng(3)), others, of=2)
    for around in (rows[:0], rows[:-5]):  # a level that fits may fit by chance: no neighbour is believed
        judged = judge(rows[-5:], around, tickers=MARKET)
        assert judged.quarantined.rows["ticker"].tolist() == sorted([*others, 2])
        assert set(judged.rules) == {"same_series"}


def test_whole_series_under_two_names() -> None:
    rows = market(np.random.default_rng(4))
    for session in range(12):
        rows = copied(rows, [1], 2, session)
    judged = judge(rows, tickers=MARKET)
    assert judged.quarantined.rows["ticker"].tolist() == [1, 2] * 12
    assert set(judged.rules) == {"same_series"}


@pytest.mark.parametrize(
    "changes",
    [
        {"volume": 999.0},
        {"volume": 9_999.0, "vwap": np.nan},
        dict.fromkeys((*PRICES, "vwap"), 10.0),
        {"open": 10.0, "low": 10.0, "high": 11.0, "close": 11.0, "vwap": 10.5},
    ],
)
def test_bars_that_are_alike_by_chance(changes: dict[str, float]) -> None:
    rows = market(np.random.default_rng(5))
    for name, value in changes.items():
        rows[name][-3] = value
    assert judge(copied(rows, [3], of=2)[-5:], tickers=MARKET).rules == ()


def test_bars_of_two_prices_are_no_chance_under_three_names() -> None:
    rows = market(np.random.default_rng(5))
    for name, value in {"open": 10.0, "low": 10.0, "high": 11.0, "close": 11.0, "vwap": 10.5}.items():
        rows[name][-3] = value
    judged = judge(copied(rows, [0, 3], of=2)[-5:], tickers=MARKET)
    assert (judged.rules, judged.quarantined.rows["ticker"].tolist()) == (("same_series",) * 3, [0, 2, 3])


def test_bars_whose_vwap_differs_are_of_two_series() -> None:
    rows = copied(market(np.random.default_rng(5)), [3], of=2)
    rows["vwap"][-2] = rows["low"][-2]
    assert judge(rows[-5:], tickers=MARKET).rules == ()


# -- laws -----------------------------------------------------------------------------------------------------------

ANY_FACTOR = st.one_of(st.sampled_from([*FACTORS, *(1 / f for f in FACTORS)]), st.floats(0.001, 1_000))
ANY_PRICES = st.lists(st.sampled_from(PRICES), min_size=1, unique=True)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.002, 0.06), st.integers(0, 39), ANY_FACTOR, ANY_PRICES)
def test_one_bad_bar_never_costs_a_good_one(seed: int, noise: float, at: int, factor: float, names: list[str]) -> None:
    bad = scaled(walk(np.random.default_rng(seed), noise=noise), at, factor, names)
    assert set(refused(bad, judge(bad))) <= {at}
    for now in range(max(at, 1), 40):  # each as it came in its night, all before it stored
        judged = judge(bad[now : now + 1], bad[max(0, now - 10) : now])
        assert now == at or not judged.rules


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 59), ANY_FACTOR, ANY_PRICES), max_size=4))
def test_the_order_of_rows_changes_nothing(seed: int, defects: list[tuple[int, float, list[str]]]) -> None:
    rng = np.random.default_rng(seed)
    rows = market(rng)
    for at, factor, names in defects:
        rows = scaled(rows, at, factor, names)
    rows = np.concatenate((rows, rows[7:9]))  # twice, and twice with differing values
    rows["close"][-1] *= 1.5
    stored = rng.random(len(rows) - 2) < 0.3
    own = np.append(~stored, [True, True])
    known, outcomes = [split(rows, 30, 1, 2)], []
    for _ in range(3):
        outcomes.append(_outcome(judge(rows[own], rows[~own], known, MARKET)))
        rows, own = _shuffled(rng, rows, own)
    assert outcomes[0] == outcomes[1] == outcomes[2]


def _shuffled(rng: np.random.Generator, rows: Any, own: Any) -> tuple[Any, Any]:
    order = rng.permutation(len(rows))
    return rows[order], own[order]


def _outcome(judged: Verdict) -> tuple[Counter[Any], dict[str, int], set[str]]:
    kept = judged.quarantined.rows
    filed = Counter(
        (row["ticker"].item(), row["ts"].item(), rule) for row, rule in zip(kept, judged.rules, strict=True)
    )
    return filed, dict(judged.warned), {name for names in judged.examples.values() for name in names}


WEIRD = st.sampled_from([0.0, -1.0, np.nan, np.inf, 5e-324, 1e-308, 1e308, 1.0, 2.0, 100.0])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 59), st.sampled_from((*PRICES, "volume", "vwap")), WEIRD), max_size=30))
def test_nothing_is_too_odd_to_be_judged(changes: list[tuple[int, str, float]]) -> None:
    rows = market(np.random.default_rng(6))
    for at, name, value in changes:
        rows[name][at] = value
    rows["session"][5] = rows["ts"][5] = np.datetime64("NaT")
    judged = judge(rows[10:], rows[:10], tickers=MARKET)
    assert len(judged.accepted) + len(judged.quarantined) == 50
    broken, rules = sweep(Bars(MARKET, rows), [], STOCKS)
    assert np.count_nonzero(broken) == len(rules)


# -- the sweep ------------------------------------------------------------------------------------------------------


def test_a_sweep_finds_what_could_not_be_seen_at_the_edge(rows: Any) -> None:
    bad = scaled(scaled(scaled(rows, 0, 100), 12, 0.5, ["low"]), slice(20, 22), 2)
    for now in range(40):  # night after night all of it was accepted: nothing came later yet to tell
        judged = judge(bad[now : now + 1], bad[max(0, now - 10) : now])
        assert judged.rules == ()
    broken, rules = sweep(Bars(("A",), bad), [], STOCKS)
    assert np.flatnonzero(broken).tolist() == [0, 12, 20, 21]
    assert rules == ("hundredfold", "half_split", "off_scale", "off_scale")


def test_a_sweep_over_tickers_and_splits() -> None:
    rows = copied(market(np.random.default_rng(8)), [3], of=2, session=5)
    fine = scaled(rows, np.flatnonzero((rows["ticker"] == 1) & (rows["session"] >= rows["session"][30])), 1 / 20)
    broken, rules = sweep(Bars(MARKET, fine), [split(rows, 30, 1, 20, "B")], STOCKS)
    assert (sorted(rows["ticker"][broken].tolist()), rules) == ([2, 3], ("same_series",) * 2)


def test_a_sweep_heeds_the_profile(rows: Any) -> None:
    bad = Bars(("A",), scaled(rows, 20, 100))
    assert sweep(bad, [], STOCKS)[1] == ("hundredfold",)
    assert sweep(bad, [], {**STOCKS, "hundredfold": Action.WARN})[1] == ("off_scale",)
    assert sweep(bad, [], dict.fromkeys(STOCKS, Action.WARN))[1] == ()
    assert sweep(Bars(()), [], STOCKS)[1] == ()
    assert all(PROFILES[name][rule] is Action.QUARANTINE for name in PROFILES if name != "futures" for rule in ACROSS)


# -- real bars ------------------------------------------------------------------------------------------------------

JUMPS = [
    "BAX 2015-07-01 x0.56",  # spin-offs and, of Discovery, shares handed out
    "DISCA 2014-08-07 x0.49",
    "DISCK 2014-08-07 x0.49",
    "EBAY 2015-07-20 x0.43",
    "NI 2015-07-02 x0.37",
]
DEFECTS = {"missing_value": 11, "ohlc_order": 11, "half_split": 1}


@pytest.fixture(scope="module")
def five_years(data: Path) -> Bars:
    """By ticker and session."""
    table = pytest.importorskip("pyarrow.parquet").read_table(data / "daily" / "sp500_5yr.parquet")
    names, tickers = np.unique(table["ticker"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    rows = np.zeros(len(table), BAR)
    rows["ticker"], rows["session"] = tickers, table["date"].to_numpy().astype("M8[D]")
    rows["ts"], rows["vwap"], rows["trades"] = rows["session"], np.nan, NO_TRADES
    for name in (*PRICES, "volume"):
        rows[name] = table[name].to_numpy()
    return Bars(tuple(names.tolist()), rows[np.lexsort((rows["ts"], rows["ticker"]))])


@pytest.mark.data
def test_five_years_ticker_by_ticker(five_years: Bars) -> None:
    rules: Counter[str] = Counter()
    told: dict[str, list[str]] = {}
    ends = np.bincount(five_years.rows["ticker"]).cumsum()
    for i, name in enumerate(five_years.tickers):
        part = five_years.rows[ends[i - 1] if i else 0 : ends[i]].copy()
        part["ticker"] = 0
        judged = judge(part, tickers=(name,))
        rules.update(judged.rules)
        for rule, names in judged.examples.items():
            told.setdefault(rule, []).extend(names)
    assert rules == DEFECTS
    assert told["half_split"] == ["LNT 2016-05-19"]
    assert told["unexplained_jump"] == JUMPS
    assert "split_without_jump" not in told


@pytest.mark.data
@pytest.mark.parametrize("after", [0, pytest.param(10, marks=pytest.mark.soak)])
def test_five_years_day_by_day(five_years: Bars, after: int) -> None:
    rules: Counter[str] = Counter()
    told: list[str] = []
    rows = five_years.rows[np.argsort(five_years.rows["session"], kind="stable")]
    starts = np.append(np.unique(rows["session"], return_index=True)[1], len(rows))
    for i in range(len(starts) - 1):
        begin, end = starts[i], starts[i + 1]
        before, later = starts[max(0, i - 10)], starts[min(i + 1 + after, len(starts) - 1)]
        judged = judge(rows[begin:end], np.delete(rows[before:later], slice(begin - before, end - before)),
                       tickers=five_years.tickers)  # fmt: skip
        rules.update(judged.rules)
        told += judged.examples.get("unexplained_jump", ())
        assert judged.examples.get("half_split", ("LNT 2016-05-19",)) == ("LNT 2016-05-19",)
    assert rules == DEFECTS
    assert sorted(told) == JUMPS


@pytest.mark.data
def test_five_years_swept(five_years: Bars) -> None:
    broken, rules = sweep(five_years, [], STOCKS)
    assert rules == ("half_split",)
    assert five_years.tickers[five_years.rows["ticker"][broken][0]] == "LNT"


def _raw(data: Path, ticker: str) -> tuple[Any, list[Split]]:
    """Raw bars with a stock's splits, these where its split factor changes."""
    with zipfile.ZipFile(data / "splits" / f"{ticker}.zip") as archive:
        lines = list(csv.reader(io.StringIO(archive.read(archive.namelist()[0]).decode())))
    rows = np.zeros(len(lines), BAR)
    rows["session"] = [datetime.strptime(line[0], "%Y%m%d %H:%M").date() for line in lines]  # noqa: DTZ007
    rows["ts"], rows["vwap"], rows["trades"] = rows["session"], np.nan, NO_TRADES
    for i, name in enumerate((*PRICES, "volume"), 1):
        rows[name] = [float(line[i]) / (1 if name == "volume" else 10_000) for line in lines]
    factors = list(csv.reader((data / "splits" / f"{ticker}_factors.csv").read_text().splitlines()))
    splits = []
    for (last, _, factor, *_), (_, _, following, *_) in pairwise(factors):
        later = rows["session"][rows["session"] > np.datetime64(date.fromisoformat(last))]
        if factor != following and len(later):
            splits.append(Split(ticker, later[0].item(), float(factor), float(following)))
    return rows, splits


@pytest.mark.data
def test_raw_prices_and_their_splits(data: Path) -> None:
    googl, _ = _raw(data, "googl")
    assert judge(googl).examples == {}
    aig, splits = _raw(data, "aig")
    assert len(splits) == 4
    lehman = "A 2008-09-15 x0.42"  # a real one
    reverse = "A 2009-07-01 x16"  # 1 for 20, and a fifth less
    known = [Split("A", s.execution_date, s.split_from, s.split_to) for s in splits]
    assert judge(aig, splits=known).examples == {"unexplained_jump": (lehman,)}
    unknown = judge(aig)
    assert (unknown.rules, unknown.examples) == ((), {"unexplained_jump": (lehman, reverse)})
    for rules in (sweep(Bars(("A",), aig), known, STOCKS)[1], sweep(Bars(("A",), aig), [], STOCKS)[1]):
        assert rules == ()
    wrong = [Split("A", s.execution_date, s.split_to, s.split_from) for s in splits]
    assert judge(aig, splits=wrong).rules == ()


@pytest.mark.data
@pytest.mark.parametrize("name", ["btc_perp_1m_2022-01.csv", "6EH4_1m_2024-01.csv.gz"])
def test_real_minutes(data: Path, name: str) -> None:
    raw = (data / "intraday" / name).read_bytes()
    lines = list(csv.reader((gzip.decompress(raw) if name.endswith("gz") else raw).decode().splitlines()))[1:]
    rows = np.zeros(len(lines), BAR)
    rows["ts"] = [line[0][:19].replace(" ", "T") for line in lines]
    rows["session"], rows["vwap"], rows["trades"] = rows["ts"].astype("M8[D]"), np.nan, NO_TRADES
    for i, column in enumerate((*PRICES, "volume"), 1):
        rows[column] = [float(line[i]) for line in lines]
    assert judge(rows, days="1m").examples == {}
    spoiled = scaled(scaled(rows, 5_000, 100), slice(9_000, 9_060), 2)
    assert Counter(judge(spoiled, days="1m").rules) == {"hundredfold": 1, "off_scale": 60}
