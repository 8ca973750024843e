"""The rules that a bar has to keep, and what happens to one that breaks them.

Each rule is one vectorised comparison over a block. A bar that breaks a quarantining rule is kept apart under
the name of the first rule it breaks and never reaches ``bar``; a warning is counted and the bar accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import NO_TRADES, VALUES, Bars
from closingbell.cells import Days

Mask = NDArray[np.bool_]


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
    """

    sessions: Days
    closed_by: np.datetime64


@dataclass(frozen=True, slots=True)
class Rule:
    """A named rule: ``broken`` tells for each bar of a block, shape (n,), whether it breaks it."""

    name: str
    explains: str
    broken: Callable[[Bars, Asked], Mask]


def _missing_value(bars: Bars, _: Asked) -> Mask:
    rows = bars.rows
    return np.asarray(
        np.logical_or.reduce([np.isnan(rows[name]) for name in ("open", "high", "low", "close", "volume")])
    )


def _not_finite(bars: Bars, _: Asked) -> Mask:
    names = ("open", "high", "low", "close", "volume", "vwap")
    return np.asarray(np.logical_or.reduce([np.isinf(bars.rows[name]) for name in names]))


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


#: In order of precedence: a bar that breaks several is filed under the first.
RULES: Final = (
    Rule("outside_asked", "the bar's session is not one that was asked for", _outside_asked),
    Rule("not_closed", "the bar's session is not over", _not_closed),
    Rule("missing_value", "open, high, low, close or volume is absent", _missing_value),
    Rule("not_finite", "a price or the volume is infinite", _not_finite),
    Rule("duplicate", "the same bar came more than once", _duplicate),
    Rule("non_positive_price", "a price is zero or negative", _non_positive_price),
    Rule("negative_volume", "the volume or the number of trades is negative", _negative_volume),
    Rule("ohlc_order", "the high is not the highest or the low not the lowest price", _ohlc_order),
    Rule("vwap_outside_range", "the vwap lies outside low..high", _vwap_outside_range),
    Rule("zero_volume", "nothing was traded", _zero_volume),
)

Profile = Mapping[str, Action]

#: vwap lies outside low..high on 6 to 17 in 100 genuine rows (it counts trades that set no high or low), and
#: untraded rows are genuine too: both are only counted.
_BASIC: Final[Profile] = {
    rule.name: Action.WARN if rule.name in ("vwap_outside_range", "zero_volume") else Action.QUARANTINE
    for rule in RULES
}

#: The profile of each asset class. A currency pair has no consolidated volume: there zero says nothing.
PROFILES: Final[Mapping[str, Profile]] = {
    "stocks": _BASIC,
    "crypto": _BASIC,
    "fx": {**_BASIC, "zero_volume": Action.ACCEPT},
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A block, judged.

    Attributes:
        accepted: the bars that may be stored.
        quarantined: the bars that may not.
        rules: shape (len(quarantined),): the name of the rule each of those breaks.
        warned: how many accepted bars break each warning rule.
    """

    accepted: Bars
    quarantined: Bars
    rules: tuple[str, ...]
    warned: Mapping[str, int]


def check(bars: Bars, asked: Asked, profile: Profile) -> Verdict:
    """Judge a block by the rules of a profile."""
    filed = np.full(len(bars), -1)
    suspect: dict[str, Mask] = {}
    with np.errstate(invalid="ignore"):
        for number, rule in enumerate(RULES):
            action = profile[rule.name]
            if action is Action.ACCEPT:
                continue
            broken = rule.broken(bars, asked)
            if action is Action.QUARANTINE:
                filed[broken & (filed < 0)] = number
            else:
                suspect[rule.name] = broken
    bad = filed >= 0
    counts = {name: int(np.count_nonzero(broken & ~bad)) for name, broken in suspect.items()}
    warned = {name: count for name, count in counts.items() if count}
    names = tuple(RULES[number].name for number in filed[bad])
    return Verdict(bars.where(~bad), bars.where(bad), names, warned)
