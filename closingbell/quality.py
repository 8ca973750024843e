"""The rules that a bar has to keep, and what happens to one that breaks them.

Each rule is one vectorised comparison over a block. A bar that breaks a quarantining rule is kept apart under
the name of the first rule it breaks and never reaches ``bar``; a warning is counted and the bar accepted. Most
rules look at one bar; those of :mod:`closingbell.scale` look at its neighbours in time and at other tickers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closingbell import profiles
from closingbell.bars import NO_TRADES, VALUES, Bars
from closingbell.cells import Days
from closingbell.intraday import is_intraday
from closingbell.neighbours import KnownSplit
from closingbell.restated import restated
from closingbell.scale import Scale

Mask = NDArray[np.bool_]

_NONE: Final = Bars(())

#: The sizes that a price or a volume other than zero can have. The smallest price of a crypto token is about 1e-10, the
#: largest volume of one about 1e15.
PLAUSIBLE: Final = (1e-20, 1e20)

#: What a bar is filed under that keeps every rule here and that the database refuses all the same: a constraint or a
#: trigger of somebody's own.
REFUSED: Final = "refused"

#: How many bars a verdict names for a rule.
EXAMPLES: Final = 3


class Action(StrEnum):
    """What to do with a bar that breaks a rule."""

    ACCEPT = "accept"
    WARN = "warn"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call was asked for, against which its bars are judged.

    Attributes:
        sessions: shape (k,), datetime64[D], ascending: the sessions whose bars may come.
        closed_by: the last session that is over; a later bar is still forming.
        around: stored bars of these tickers, before, between and after; those that came again are ignored.
        splits: the known splits of these tickers; without them, a split is an unexplained jump.
        scale: the block between its neighbours, worked out once for all rules; :func:`check` sets it.
    """

    sessions: Days
    closed_by: np.datetime64
    around: Bars = _NONE
    splits: Sequence[KnownSplit] = ()
    scale: Scale | None = field(default=None, repr=False, compare=False)

    def compared(self, bars: Bars) -> Scale:
        """A block of bars between its neighbours."""
        return self.scale or Scale(bars, self.around, self.splits)


@dataclass(frozen=True, slots=True)
class Rule:
    """A named rule.

    Attributes:
        name: what a bar that breaks it is filed under.
        explains: what is wrong with such a bar, for a report.
        broken: tells for each bar of a block, shape (n,), whether it breaks the rule.
        moved: by what factor the price of each bar moved, where that says more than its name.
    """

    name: str
    explains: str
    broken: Callable[[Bars, Asked], Mask]
    moved: Callable[[Bars, Asked], NDArray[np.float64]] | None = None


def _missing_value(bars: Bars, _: Asked) -> Mask:
    rows = bars.rows
    return np.asarray(
        np.logical_or.reduce([np.isnan(rows[name]) for name in ("open", "high", "low", "close", "volume")])
    )


def _not_finite(bars: Bars, _: Asked) -> Mask:
    names = ("open", "high", "low", "close", "volume", "vwap")
    return np.asarray(np.logical_or.reduce([np.isinf(bars.rows[name]) for name in names]))


def _implausible(bars: Bars, _: Asked) -> Mask:
    """So far off that what is computed from it overflows: one such bar makes a whole adjusted history unreadable."""
    smallest, largest = PLAUSIBLE
    sizes = [np.abs(bars.rows[name]) for name in ("open", "high", "low", "close", "volume", "vwap")]
    return np.asarray(np.logical_or.reduce([(size > largest) | ((size > 0) & (size < smallest)) for size in sizes]))


def _outside_asked(bars: Bars, asked: Asked) -> Mask:
    return ~np.isin(bars.rows["session"], asked.sessions)


def _not_closed(bars: Bars, asked: Asked) -> Mask:
    return np.asarray(bars.rows["session"] > asked.closed_by)


def _duplicate(bars: Bars, _: Asked) -> Mask:
    """Every copy of a bar that came with differing values; every copy but the first of one that came alike."""
    rows = bars.rows
    order = np.lexsort((rows["ts"], rows["ticker"]))
    ordered = rows[order]
    same_key = (ordered["ticker"][1:] == ordered["ticker"][:-1]) & (ordered["ts"][1:] == ordered["ts"][:-1])
    broken = np.zeros(len(rows), np.bool_)
    if not same_key.any():
        return broken
    group = np.concatenate([[0], np.cumsum(~same_key)])
    alike = np.ones(len(rows) - 1, np.bool_)
    for name in VALUES:
        a, b = ordered[name][1:], ordered[name][:-1]
        alike &= (a == b) | ((a != a) & (b != b))
    differs = np.bincount(group[1:], same_key & ~alike, minlength=group[-1] + 1).astype(np.bool_)
    broken[order] = np.concatenate([[False], same_key]) | (differs[group])
    return broken


def _non_positive_price(bars: Bars, _: Asked) -> Mask:
    rows = bars.rows
    return np.asarray(np.logical_or.reduce([rows[name] <= 0 for name in ("open", "high", "low", "close")]))


def _negative_volume(bars: Bars, _: Asked) -> Mask:
    return np.asarray((bars.rows["volume"] < 0) | (bars.rows["trades"] < NO_TRADES))


def _ohlc_order(bars: Bars, _: Asked) -> Mask:
    rows = bars.rows
    top = np.maximum(np.maximum(rows["open"], rows["close"]), rows["low"])
    bottom = np.minimum(np.minimum(rows["open"], rows["close"]), rows["high"])
    return np.asarray((rows["high"] < top) | (rows["low"] > bottom))


def _vwap_outside_range(bars: Bars, _: Asked) -> Mask:
    return np.asarray((bars.rows["vwap"] > bars.rows["high"]) | (bars.rows["vwap"] < bars.rows["low"]))


def _zero_volume(bars: Bars, _: Asked) -> Mask:
    return np.asarray(bars.rows["volume"] == 0)


def _across(name: str) -> Callable[[Bars, Asked], Mask]:
    return lambda bars, asked: asked.compared(bars).breaks(name)


def _moved(bars: Bars, asked: Asked) -> NDArray[np.float64]:
    return asked.compared(bars).factors()


def _alone(broken: Callable[[Bars], Mask]) -> Callable[[Bars, Asked], Mask]:
    """A rule that looks at nothing but the block."""
    return lambda bars, _: broken(bars)


def _restated(bars: Bars, asked: Asked) -> Mask:
    return restated(bars, asked.around)


#: In order of precedence: a bar that breaks several is filed under the first.
RULES: Final = (
    Rule("outside_asked", "the bar's session is not one that was asked for", _outside_asked),
    Rule("not_closed", "the bar's session is not over", _not_closed),
    Rule("missing_value", "open, high, low, close or volume is absent", _missing_value),
    Rule("not_finite", "a price or the volume is infinite", _not_finite),
    Rule("implausible", "a price or the volume is beyond anything that was ever traded", _implausible),
    Rule("duplicate", "the same bar came more than once", _duplicate),
    Rule("non_positive_price", "a price is zero or negative", _non_positive_price),
    Rule("out_of_bounds", "a price is beyond what this instrument can cost", _alone(profiles.out_of_bounds)),
    Rule("negative_volume", "the volume or the number of trades is negative", _negative_volume),
    Rule(
        "restated",
        "it is a factor away from what is stored, like others of its ticker: adjusted prices sent for raw ones",
        _restated,
    ),
    Rule(
        "half_split",
        "some of its prices are on another scale than the others and the bars around it, like a split half applied",
        _across("half_split"),
    ),
    Rule("ohlc_order", "the high is not the highest or the low not the lowest price", _ohlc_order),
    Rule(
        "hundredfold",
        "its prices are about 100 times, or a hundredth of, those of the bars beside it, like cents sent for dollars",
        _across("hundredfold"),
    ),
    Rule(
        "off_scale",
        "its prices are a factor like 2 or 10 away from the bars before and after it, which agree with each other",
        _across("off_scale"),
    ),
    Rule(
        "same_series",
        "the very same prices and volume came under several tickers: at most one of them can be right",
        _across("same_series"),
    ),
    Rule(
        "price_jump",
        "it stands more than 500 points from the bars before and after it, which go on from each other",
        _alone(profiles.price_jump),
    ),
    Rule(
        "gap_beside_small_range",
        "its range is small, and it stands more than 150 points from the bars before and after it",
        _alone(profiles.gap_beside_small_range),
    ),
    Rule(
        "flat_and_apart",
        "its prices are all one, and it stands more than 50 points from the bars before and after it",
        _alone(profiles.flat_and_apart),
    ),
    Rule("vwap_outside_range", "the vwap lies outside low..high", _vwap_outside_range),
    Rule("zero_volume", "nothing was traded", _zero_volume),
    Rule(
        "unexplained_jump",
        "the price moved by a factor of 1.8 or more from the bar before, and no known split explains it",
        _across("unexplained_jump"),
        _moved,
    ),
    Rule(
        "split_without_jump",
        "a split is known for this session, but the price did not move with it: adjusted prices, or a wrong split",
        _across("split_without_jump"),
    ),
)

#: Rules of futures, and those of them that are for tables of uncertain origin.
_DISCONTINUITIES: Final = ("price_jump", "gap_beside_small_range", "flat_and_apart")
_OF_FUTURES: Final = ("out_of_bounds", *_DISCONTINUITIES)

#: What a share may do and a future does not: split. Scales are judged by its bounds; two of one root are one series.
_OF_SHARES: Final = (
    "non_positive_price",
    "restated",
    "half_split",
    "hundredfold",
    "off_scale",
    "same_series",
    "unexplained_jump",
    "split_without_jump",
)

_WARNINGS: Final = ("vwap_outside_range", "zero_volume", "unexplained_jump", "split_without_jump")

Profile = Mapping[str, Action]

#: vwap lies outside low..high on 6 to 17 in 100 genuine rows (it counts trades that set no high or low), and
#: untraded rows are genuine too: both are only counted. So is a step that lasts: it may be a split announced late.
_BASIC: Final[Profile] = {
    **{rule.name: Action.WARN if rule.name in _WARNINGS else Action.QUARANTINE for rule in RULES},
    **dict.fromkeys(_OF_FUTURES, Action.ACCEPT),
}

#: The profile of each asset class. A currency pair has no consolidated volume: there zero says nothing.
PROFILES: Final[Mapping[str, Profile]] = {
    "stocks": _BASIC,
    "crypto": _BASIC,
    "fx": {**_BASIC, "zero_volume": Action.ACCEPT},
    "futures": {**_BASIC, **dict.fromkeys(_OF_SHARES, Action.ACCEPT), "out_of_bounds": Action.QUARANTINE},
}


#: Rules that say of a day what cannot be, and of a minute what is rare: a price that trades at twice its level and
#: back within minutes, one print far from the others of its minute, two cheap stocks that have the same minute.
_OF_DAYS: Final = ("half_split", "off_scale", "same_series")


@cache
def profile_of(asset_class: str, timeframe: str, *, uncertain: bool = False) -> Profile:
    """The profile for bars of a timeframe: what is no evidence within a day is counted there, and accepted.

    Args:
        asset_class: whose bars.
        timeframe: of the bars.
        uncertain: nobody knows where the bars come from: futures are searched for discontinuities as well.
    """
    profile = PROFILES[asset_class]
    if asset_class == "futures":
        return {**profile, **dict.fromkeys(_DISCONTINUITIES, Action.QUARANTINE)} if uncertain else profile
    return {**profile, **dict.fromkeys(_OF_DAYS, Action.WARN)} if is_intraday(timeframe) else profile


@dataclass(frozen=True, slots=True)
class Verdict:
    """A block, judged.

    Attributes:
        accepted: the bars that may be stored.
        quarantined: the bars that may not.
        rules: shape (len(quarantined),): the name of the rule each of those breaks.
        warned: how many accepted bars break each warning rule.
        examples: for each rule broken, up to :data:`EXAMPLES` of its bars, the earliest: ``LNT 2016-05-19``.
        messages: shape (len(quarantined),): what the database said of those that it refused; empty where it was not
            asked.
    """

    accepted: Bars
    quarantined: Bars
    rules: tuple[str, ...]
    warned: Mapping[str, int]
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    messages: tuple[str | None, ...] = ()


#: Of what has no bar.
NOTHING: Final = Verdict(_NONE, _NONE, (), {})


def check(bars: Bars, asked: Asked, profile: Profile) -> Verdict:
    """Judge a block by the rules of a profile."""
    asked = replace(asked, scale=Scale(bars, asked.around, asked.splits))
    filed = np.full(len(bars), -1)
    suspect: dict[Rule, Mask] = {}
    with np.errstate(invalid="ignore"):
        for number, rule in enumerate(RULES):
            action = profile[rule.name]
            if action is Action.ACCEPT:
                continue
            broken = rule.broken(bars, asked)
            if action is Action.QUARANTINE:
                filed[broken & (filed < 0)] = number
            else:
                suspect[rule] = broken
    bad = filed >= 0
    warned: dict[str, int] = {}
    examples = {RULES[i].name: _examples(RULES[i], filed == i, bars, asked) for i in np.unique(filed[bad])}
    for rule, broken in suspect.items():
        counted = broken & ~bad
        if count := int(np.count_nonzero(counted)):
            warned[rule.name], examples[rule.name] = count, _examples(rule, counted, bars, asked)
    names = tuple(RULES[number].name for number in filed[bad])
    return Verdict(bars.where(~bad), bars.where(bad), names, warned, examples)


def _examples(rule: Rule, broken: Mask, bars: Bars, asked: Asked) -> tuple[str, ...]:
    """The earliest bars that break a rule, in words; a bar of a day by its session, another by its instant."""
    rows = bars.rows
    at = np.flatnonzero(broken)
    ts = rows["ts"][at].view(np.int64)
    if len(at) > EXAMPLES:
        early = ts <= np.partition(ts, EXAMPLES - 1)[EXAMPLES - 1]
        at, ts = at[early], ts[early]
    at = at[np.lexsort((rows["ticker"][at], ts))[:EXAMPLES]]
    when = rows["session"][at] if bars.timeframe == "1d" else rows["ts"][at].astype("M8[m]")
    told = [f"{bars.tickers[row]} {str(t).replace('T', ' ')}" for row, t in zip(rows["ticker"][at], when, strict=True)]
    if rule.moved is None:
        return tuple(told)
    return tuple(f"{name} x{_short(by)}" for name, by in zip(told, rule.moved(bars, asked)[at], strict=True))


def _short(factor: float) -> str:
    return f"{factor:.2f}" if 0.1 <= factor < 10 else f"{factor:,.0f}" if factor >= 10 else f"{factor:.2g}"
