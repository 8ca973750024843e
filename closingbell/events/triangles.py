"""Triangles: converging lines through the last two swing highs and the last two swing lows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import Bars
from closingbell.errors import ConfigurationError
from closingbell.events.base import EVENT

_Positions = NDArray[np.intp]
_Floats = NDArray[np.float64]

_KINDS: Final = ("ascending", "descending", "symmetrical")


@dataclass(frozen=True, slots=True)
class Triangles:
    """Ascending, descending and symmetrical triangles, as the textbooks have them, with a number for each word.

    *Swings.* A swing high is a bar whose high is above those of the ``wing`` bars before it and not below those of the
    ``wing`` bars after it; a swing low the same of lows: B. Williams, *Trading Chaos* (1995), the fractal, with
    ``wing`` 2 there. It is known only when the last of these bars is: that bar confirms it.

    *Points.* J. J. Murphy, *Technical Analysis of the Financial Markets* (1999), chapter 6: two lines take two points
    each, so a triangle has at least four reversals, in turn at the top and at the bottom. Here the last four swings
    that are known, if they alternate. The upper line goes through the two highs, the lower one through the two lows.

    *Kinds.* R. D. Edwards and J. Magee, *Technical Analysis of Stock Trends*, chapter 8:

    - symmetrical: the upper line falls and the lower one rises;
    - ascending: the upper line is flat and the lower one rises;
    - descending: the lower line is flat and the upper one falls.

    A line is flat if from the first swing to the confirming bar it moves by no more than ``flat`` times the distance
    of the two lines at the first swing; else it rises or falls. Neither book gives a number: this one is ours.

    *Whole.* The lines have not met yet, so that their apex is ahead, and the confirming bar closes on or between
    them: the price has not left the triangle. From the first bar of the first swing's wing to the confirming bar
    there are at most ``span`` bars, not counting the latter.

    The event is stamped with the bar that confirms the fourth swing. A triangle that goes on, with a fifth swing, is
    another event at that one's confirmation. Lines run over bars, not over time: a night or a weekend is no distance,
    as on a chart. Prices are as they are given: over a split they mean nothing.

    Attributes:
        wing: bars on each side of a swing, at least 1.
        span: how many bars an event may reach back.
        flat: share of the triangle's height.

    Raises:
        ConfigurationError: a parameter with which there is no triangle.
    """

    wing: int = 3
    span: int = 120
    flat: float = 0.1

    name: ClassVar[str] = "triangles"
    kinds: ClassVar[tuple[str, ...]] = _KINDS

    def __post_init__(self) -> None:
        least = 2 * self.wing + 3  # four swings at four bars, and their wings
        if self.wing < 1 or self.span < least or not 0 <= self.flat < 1:
            raise ConfigurationError(
                "no triangle has such parameters",
                value=f"wing={self.wing}, span={self.span}, flat={self.flat}",
                fix=f"Use a wing of 1 or more, a span of {max(least, 5)} or more, and a flat from 0 to below 1.",
            )

    @property
    def version(self) -> str:
        """The revision of this definition, and its parameters."""
        return f"1 wing={self.wing} span={self.span} flat={self.flat:g}"

    @property
    def warm_up(self) -> int:
        """As far as an event may reach back."""
        return self.span

    def detect(self, bars: Bars) -> NDArray[np.void]:
        """The triangles that the bars confirm; see :class:`closingbell.events.base.Detector`."""
        rows = bars.rows
        at, is_top = self._swings(rows)
        four = self._fours(at, is_top)
        first, last = at[four], at[four + 3]
        now = last + self.wing
        tops = np.where(is_top[four], four, four + 1)  # the swings take turns
        bottoms = np.where(is_top[four], four + 1, four)
        high, low, close = (np.ascontiguousarray(rows[name]) for name in ("high", "low", "close"))
        upper, upper_slope, upper_first = _line(high, at[tops], at[tops + 2], now, first)
        lower, lower_slope, lower_first = _line(low, at[bottoms], at[bottoms + 2], now, first)
        height = upper_first - lower_first
        kind = self._kind(upper - upper_first, lower - lower_first, height)
        whole = (height > 0) & (upper > lower) & (close[now] <= upper) & (close[now] >= lower) & (kind >= 0)
        found = np.empty(np.count_nonzero(whole), EVENT)
        begin = first - self.wing
        numbers: dict[str, NDArray[Any]] = {
            "ts": rows["ts"][now],
            "session": rows["session"][now],
            "kind": kind,
            "first_ts": rows["ts"][begin],
            "bars": now - begin + 1,
            "upper": upper,
            "upper_slope": upper_slope,
            "lower": lower,
            "lower_slope": lower_slope,
        }
        for name, values in numbers.items():
            found[name] = values[whole]
        found["apex_bars"] = (found["upper"] - found["lower"]) / (found["lower_slope"] - found["upper_slope"])
        return found

    def _swings(self, rows: NDArray[np.void]) -> tuple[_Positions, NDArray[np.bool_]]:
        """The positions of all swings in order, and which are highs; both shape (swings,)."""
        tops, bottoms = _peaks(rows["high"], self.wing), _peaks(-rows["low"], self.wing)
        at = np.concatenate([tops, bottoms])
        order = np.argsort(at, kind="stable")
        return at[order], order < len(tops)

    def _fours(self, at: _Positions, is_top: NDArray[np.bool_]) -> _Positions:
        """Of which swings on four of them alternate, one after the other, and are known when the last of them is."""
        count = len(at) - 3
        if count < 1:
            return np.zeros(0, np.intp)
        turns = (is_top[1:] != is_top[:-1]) & (at[1:] > at[:-1])  # from a swing to the next
        alternate = turns[:count] & turns[1 : count + 1] & turns[2 : count + 2]
        # A bar that is both is neither: which came first cannot be seen.
        alone = np.append(at[4:] > at[3:-1], True)
        near = at[3:] - at[:count] + 2 * self.wing <= self.span
        return np.flatnonzero(alternate & alone & near)

    def _kind(self, upper: _Floats, lower: _Floats, height: _Floats) -> NDArray[np.int16]:
        """Which kind lines are that move so far; -1: none; shape (fours,)."""
        some = self.flat * height
        falls, rises = upper < -some, lower > some
        kinds = [(np.abs(upper) <= some) & rises, (np.abs(lower) <= some) & falls, falls & rises]
        return np.select(kinds, [np.int16(0), np.int16(1), np.int16(2)], np.int16(-1))


def _peaks(values: _Floats, wing: int) -> _Positions:
    """Positions of values above the ``wing`` ones before and not below the ``wing`` ones after; shape (peaks,)."""
    values = np.ascontiguousarray(values)
    end = len(values) - wing
    if end <= wing:
        return np.zeros(0, np.intp)
    middle = values[wing:end]
    is_peak = np.ones(len(middle), np.bool_)
    for step in range(1, wing + 1):
        is_peak &= middle > values[wing - step : end - step]
        is_peak &= middle >= values[wing + step : end + step]
    return np.flatnonzero(is_peak) + wing


def _line(
    prices: _Floats, one: _Positions, other: _Positions, now: _Positions, first: _Positions
) -> tuple[_Floats, _Floats, _Floats]:
    """Lines through two bars each: their prices at ``now``, slopes in price a bar, prices at ``first``."""
    slope = (prices[other] - prices[one]) / (other - one)
    return prices[other] + slope * (now - other), slope, prices[other] - slope * (other - first)
