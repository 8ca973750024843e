"""The rules: each with a row that breaks it, and all of them against a reading row by row."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closingbell.bars import BAR, NO_TRADES, Bars
from closingbell.quality import EXAMPLES, PROFILES, RULES, Action, Asked, Verdict, check
from closingbell.scale import ACROSS

STOCKS = PROFILES["stocks"]
#: The rules that look at neighbours and at other tickers have tests of their own, in test_scale.py.
COMPARING = {*ACROSS, "restated", "unexplained_jump", "split_without_jump"}
DAYS = np.arange("2024-01-01", "2024-01-06", dtype="M8[D]")
ASKED = Asked(DAYS[:4], DAYS[2])  # the last session asked is not over
GOOD: dict[str, Any] = {
    "ticker": 0, "session": DAYS[1], "ts": np.datetime64("2024-01-02T14:30"), "open": 10.0, "high": 12.0,
    "low": 9.0, "close": 11.0, "volume": 1_000.5, "vwap": 10.5, "trades": 7,
}  # fmt: skip


def block(*rows: dict[str, Any]) -> Bars:
    made = np.zeros(len(rows), BAR)
    for i, changes in enumerate(rows):
        for name, value in {**GOOD, "ts": GOOD["ts"] + np.timedelta64(i, "m"), **changes}.items():
            made[name][i] = value
    return Bars(("AAPL", "MSFT"), made)


def verdict(*rows: dict[str, Any], profile: str = "stocks") -> tuple[int, tuple[str, ...], dict[str, int]]:
    """How many were accepted, the rules that the others broke, the warnings."""
    judged = check(block(*rows), ASKED, PROFILES[profile])
    return len(judged.accepted), judged.rules, dict(judged.warned)


BREAKING = [
    ("outside_asked", {"session": np.datetime64("2024-01-05")}),
    ("outside_asked", {"session": np.datetime64("2023-12-31")}),
    ("outside_asked", {"session": np.datetime64("NaT")}),
    ("not_closed", {"session": np.datetime64("2024-01-04")}),
    *[("missing_value", {name: math.nan}) for name in ("open", "high", "low", "close", "volume")],
    *[("not_finite", {name: math.inf}) for name in ("open", "high", "low", "close", "volume", "vwap")],
    *[("not_finite", {name: -math.inf}) for name in ("open", "high", "low", "close", "volume", "vwap")],
    *[("implausible", {name: 1.1e20}) for name in ("open", "high", "low", "close", "volume", "vwap")],
    *[("implausible", {name: 5e-324}) for name in ("open", "high", "low", "close", "volume", "vwap")],
    *[("non_positive_price", {name: 0.0}) for name in ("open", "high", "low", "close")],
    *[("non_positive_price", {name: -0.0}) for name in ("open", "high", "low", "close")],
    *[("non_positive_price", {name: -1.0}) for name in ("open", "high", "low", "close")],
    ("negative_volume", {"volume": -1e-9}),
    ("negative_volume", {"trades": -2}),
    ("ohlc_order", {"high": 10.9}),
    ("ohlc_order", {"low": 10.1}),
    ("ohlc_order", {"open": 12.1}),
    ("ohlc_order", {"close": 8.9}),
    ("ohlc_order", {"high": 8.0, "low": 13.0}),
]

PASSING = [
    {"session": DAYS[0]},
    {"session": DAYS[2]},  # the last that is over
    {"vwap": math.nan},
    {"trades": NO_TRADES},
    {"trades": 0},
    {"open": 1e-20, "high": 1e-20, "low": 1e-20, "close": 1e-20, "vwap": 1e-20},
    {"open": 10.0, "high": 10.0, "low": 10.0, "close": 10.0, "vwap": 10.0},
    {"volume": 1e-20},
    {"volume": 1e20, "high": 1e20},
]


@pytest.mark.parametrize(("rule", "changes"), BREAKING)
def test_a_bar_that_breaks_a_rule_is_kept_apart(rule: str, changes: dict[str, Any]) -> None:
    assert verdict({}, changes, {}) == (2, (rule,), {})


@pytest.mark.parametrize("changes", PASSING)
def test_a_bar_that_keeps_them_all_is_accepted(changes: dict[str, Any]) -> None:
    assert verdict(changes) == (1, (), {})


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("vwap_outside_range", {"vwap": 12.01}),
        ("vwap_outside_range", {"vwap": 8.99}),
        ("zero_volume", {"volume": 0.0}),
        ("zero_volume", {"volume": -0.0}),
    ],
)
def test_a_warning_is_counted_and_the_bar_accepted(rule: str, changes: dict[str, Any]) -> None:
    assert verdict({}, changes, changes) == (3, (), {rule: 2})


#: Tried in tests/sources/databento/test_futures_rules.py.
OF_FUTURES = {"out_of_bounds", "price_jump", "gap_beside_small_range", "flat_and_apart"}


def test_every_rule_is_tried_here() -> None:
    warned = {"vwap_outside_range", "zero_volume"}
    tried = {rule for rule, _ in BREAKING} | warned | {"duplicate"} | COMPARING | OF_FUTURES
    assert tried == {rule.name for rule in RULES}
    assert {name for name, action in STOCKS.items() if action is Action.WARN} == warned | {
        "unexplained_jump",
        "split_without_jump",
    }


def test_a_bar_is_filed_once_under_the_first_rule_it_breaks() -> None:
    everything = {"session": DAYS[4], "open": math.nan, "high": math.inf, "low": -1.0, "volume": -1.0}
    order = [("session", "outside_asked"), ("open", "missing_value"), ("high", "not_finite"),
             ("low", "non_positive_price"), ("volume", "negative_volume")]  # fmt: skip
    for name, rule in order:
        assert verdict(everything) == (0, (rule,), {})
        del everything[name]


def test_a_bar_kept_apart_warns_of_nothing() -> None:
    assert verdict({"volume": 0.0, "high": 1.0, "vwap": 50.0}) == (0, ("ohlc_order",), {})


def test_a_warning_before_a_later_rule_counts_accepted_bars_only() -> None:
    profile = {**STOCKS, "non_positive_price": Action.WARN}
    judged = check(block({"low": 0.0}, {"low": 0.0, "high": 1.0}), ASKED, profile)
    assert (judged.rules, judged.warned) == (("ohlc_order",), {"non_positive_price": 1})


def test_profiles_cover_every_rule() -> None:
    for name, profile in PROFILES.items():
        assert set(profile) == {rule.name for rule in RULES}, name
    assert verdict({"volume": 0.0}, profile="crypto") == (1, (), {"zero_volume": 1})
    assert verdict({"volume": 0.0}, profile="fx") == (1, (), {})
    assert verdict({"high": 1.0}, profile="fx") == (0, ("ohlc_order",), {})


def test_an_empty_block() -> None:
    judged = check(Bars(()), ASKED, STOCKS)
    assert (len(judged.accepted), len(judged.quarantined), judged.rules, judged.warned) == (0, 0, (), {})


def test_an_answer_to_nothing() -> None:
    assert check(block({}), Asked(DAYS[:0], DAYS[2]), STOCKS).rules == ("outside_asked",)


SAME = {"ts": GOOD["ts"]}


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([SAME, SAME], [0]),
        ([SAME, SAME, SAME], [0]),
        ([SAME, {**SAME, "close": 11.5}], []),
        ([SAME, SAME, {**SAME, "close": 11.5}], []),
        ([SAME, {**SAME, "close": 11.5}, SAME], []),
        ([{**SAME, "vwap": math.nan}, {**SAME, "vwap": math.nan}], [0]),
        ([{**SAME, "vwap": math.nan}, SAME], []),
        ([{**SAME, "trades": NO_TRADES}, SAME], []),
        ([SAME, {**SAME, "ticker": 1}], [0, 1]),
        ([{}, SAME, {"ticker": 1}, {"ticker": 1, **SAME}, {**SAME, "ticker": 1}, {"ts": GOOD["ts"]}], [0, 2, 3]),
        ([{**SAME, "open": math.nan}, SAME], []),
    ],
)
def test_duplicates(rows: list[dict[str, Any]], kept: list[int]) -> None:
    """Alike: the first is kept. Differing: none, for nothing says which of them is right."""
    bars = block(*rows)
    bars.rows["volume"] = 1.0
    judged = check(bars, ASKED, STOCKS)
    assert np.array_equal(_bytes(judged.accepted), _bytes(bars)[kept])
    assert set(judged.rules) <= {"duplicate", "missing_value"}


def _bytes(bars: Bars) -> Any:
    return np.array([row.tobytes() for row in bars.rows], "S200") if len(bars) else np.empty(0, "S200")


def test_rules_stay_beside_their_bars() -> None:
    judged = check(block({"high": 1.0}, {}, {"open": math.nan}, {"volume": -1.0}), ASKED, STOCKS)
    assert judged.rules == ("ohlc_order", "missing_value", "negative_volume")
    assert judged.quarantined.rows["high"][0] == 1.0
    assert np.isnan(judged.quarantined.rows["open"][1])
    assert judged.quarantined.rows["volume"][2] == -1.0


def test_examples_are_the_earliest_bars_of_each_rule() -> None:
    later = {"session": DAYS[2], "ts": np.datetime64("2024-01-03T14:30")}
    rows = [{"high": 1.0, **later}, {"high": 1.0, "ticker": 1}, {"high": 1.0, "ts": GOOD["ts"]}, {"volume": 0.0}]
    rows += [{"volume": 0.0, "ticker": 1, **later}, {"high": 1.0, **later, "ts": later["ts"] + np.timedelta64(1, "m")}]
    judged = check(block(*rows), ASKED, STOCKS)
    assert judged.examples["ohlc_order"] == ("AAPL 2024-01-02", "MSFT 2024-01-02", "AAPL 2024-01-03")
    assert len(judged.examples["ohlc_order"]) == EXAMPLES < len(judged.quarantined)
    assert judged.examples["zero_volume"] == ("AAPL 2024-01-02", "MSFT 2024-01-03")


def test_examples_of_bars_within_a_day_tell_the_minute() -> None:
    bars = block({}, {"high": 1.0})
    judged = check(Bars(bars.tickers, bars.rows, "1m"), ASKED, STOCKS)
    assert judged.examples == {"ohlc_order": ("AAPL 2024-01-02 14:31",)}


def test_a_clean_block_has_no_examples() -> None:
    assert check(block({}), ASKED, STOCKS).examples == {}
    nothing = Bars(())
    assert Verdict(nothing, nothing, (), {}).examples == {}


# -- against a reading row by row ------------------------------------------------------------------------------


def naive(bars: Bars, asked: Asked, profile: dict[str, Action]) -> tuple[list[str | None], Counter[str]]:
    """The rule that each bar is filed under, and the warnings: plain Python, one bar at a time."""
    names = ("open", "high", "low", "close", "volume", "vwap", "trades")
    rows = [{name: bars.rows[name][i].item() for name in BAR.names or ()} for i in range(len(bars))]
    sessions = asked.sessions.tolist()
    filed: list[str | None] = []
    warned: Counter[str] = Counter()
    for i, row in enumerate(rows):
        opened, high, low, close, volume, vwap, trades = (row[name] for name in names)
        prices = (opened, high, low, close)
        copies = [j for j, other in enumerate(rows) if (other["ticker"], other["ts"]) == (row["ticker"], row["ts"])]
        alike = all(
            rows[j][name] == row[name] or (rows[j][name] != rows[j][name] and row[name] != row[name])
            for j in copies
            for name in names
        )
        broken = {
            "outside_asked": row["session"] not in sessions,
            "not_closed": row["session"] > asked.closed_by.item(),
            "missing_value": any(math.isnan(value) for value in (*prices, volume)),
            "not_finite": any(math.isinf(value) for value in (*prices, volume, vwap)),
            "implausible": any(abs(value) > 1e20 or 0 < abs(value) < 1e-20 for value in (*prices, volume, vwap)),
            "duplicate": not alike or i != copies[0],
            "non_positive_price": any(price <= 0 for price in prices),
            "negative_volume": volume < 0 or trades < -1,
            "ohlc_order": any(high < price or low > price for price in prices),
            "restated": False,  # nothing is stored here
            "vwap_outside_range": vwap < low or vwap > high,
            "zero_volume": volume == 0,
        }
        first = next((name for name, action in profile.items() if action == "quarantine" and broken[name]), None)
        filed.append(first)
        if first is None:
            warned.update(name for name, action in profile.items() if action == "warn" and broken[name])
    return filed, warned


ODD = st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, -1.0, math.nan, math.inf, -math.inf, 5e-324])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "ticker": st.integers(0, 1),
            "session": st.sampled_from(DAYS.tolist()),
            "ts": st.sampled_from([GOOD["ts"] + np.timedelta64(i, "m") for i in range(4)]),
            "trades": st.integers(-3, 2),
        },
        optional=dict.fromkeys(("open", "high", "low", "close", "volume", "vwap"), ODD),
    ),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(ROWS, st.sampled_from(["stocks", "fx"]))
def test_the_vectors_say_what_a_reading_row_by_row_says(rows: list[dict[str, Any]], profile: str) -> None:
    bars = block(*rows)
    before = bars.rows.tobytes()
    alone = {name: Action.ACCEPT if name in COMPARING else action for name, action in PROFILES[profile].items()}
    judged = check(bars, ASKED, alone)
    filed, warned = naive(bars, ASKED, alone)
    assert judged.rules == tuple(rule for rule in filed if rule)
    assert judged.warned == warned
    good = np.array([rule is None for rule in filed], np.bool_)
    assert judged.accepted.rows.tobytes() == bars.rows[good].tobytes()
    assert judged.quarantined.rows.tobytes() == bars.rows[~good].tobytes()
    assert bars.rows.tobytes() == before
