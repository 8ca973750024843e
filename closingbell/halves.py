"""Bars of which some prices are on another scale than the others, as if a split had been applied to half of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Final

import numpy as np

from closingbell.neighbours import APART, BREAK, FACTORS, VISIBLE, Floats, Ints, Mask, Series, too_coarse

#: So many days from a known split a bar may be in part on its other scale.
CLOSE_BY: Final = 7

#: So many ordinary bars on each side are compared with.
BESIDE: Final = 5

#: How far, in logs, an extreme of a mended bar may be inside the others: what rounding does to a halved price.
ROUNDED: Final = 0.001

_LOG_FACTORS: Final = np.log(np.array(FACTORS))


def half_split(series: Series) -> Mask:
    """Bars of which some prices are on another scale than the others and the neighbours.

    Put back by a recognisable factor, the wrong prices have to give an ordinary bar at the neighbours' level. Where
    high and low are not the bar's extremes it is wrong in any case, and two neighbours are enough to say how. Where
    they are, it may be a spike that was really traded: then it takes both sides, or a split known close by.
    """
    found = np.zeros(len(series), np.bool_)
    wide = series.high > series.low * BREAK
    at = np.flatnonzero(wide & (series.row >= 0))
    if not len(at):
        return found
    beside = _Beside.of(series, wide, at)
    known = _known_close_by(series, at)[:, None]
    factors = np.concatenate((np.broadcast_to(_LOG_FACTORS, (len(at), len(FACTORS))), known), axis=1)
    factors = np.concatenate((factors, -factors), axis=1)
    size = np.abs(factors)
    mends, span = _mended(series, at, beside, factors)

    opened, high, low, close = series.prices[:, at]
    disorder = (high < np.maximum(np.maximum(opened, close), low)) | (low > np.minimum(opened, close))
    agree, count = beside.agree, beside.counts.sum(axis=1)
    plain = (disorder & agree & (count >= 2))[:, None]
    ordinary = np.maximum(6 * beside.noise, 5 * beside.span)[:, None]
    both = (agree & (beside.counts.min(axis=1) >= 2))[:, None] & (size >= ordinary) & (span <= size / 4)
    by_split = (agree & (count >= 3))[:, None] & (np.abs(size - known) < 1e-9)
    for i in np.flatnonzero((mends & (plain | both | by_split)).any(axis=1)):
        prices = series.prices[:, beside.bars[i][beside.bars[i] >= 0]]
        found[at[i]] = not too_coarse(prices, float(prices.min()))
    return found


@dataclass(frozen=True, slots=True)
class _Beside:
    """The ordinary bars next to some bars; arrays of shape (k,) if not said otherwise.

    Attributes:
        bars: shape (k, 2 * BESIDE): their positions, -1 for none.
        counts: shape (k, 2): how many there are before and after.
        level: the log price beside the bar, splits divided out.
        span: the log of high to low of an ordinary one.
        noise: an ordinary log step: 1.5 times the median, near the deviation; at least 0.01.
        near: how far from ``level`` a bar may ordinarily be.
        agree: whether both sides are on one level, or there is but one.
    """

    bars: Ints
    counts: Ints
    level: Floats
    span: Floats
    noise: Floats
    near: Floats
    agree: Mask

    @classmethod
    def of(cls, series: Series, wide: Mask, at: Ints) -> _Beside:
        level = series.levels()
        before, after = _calm(series, wide, at, -1), _calm(series, wide, at, 1)
        bars = np.concatenate((before, after), axis=1)
        left, right = _median(level, before[:, :3]), _median(level, after[:, :3])
        moves = [np.abs(_at(level, side[:, 1:]) - _at(level, side[:, :-1])) for side in (before, after)]
        noise = np.fmax(1.5 * _middle(np.concatenate(moves, axis=1)), 0.01)
        near = np.clip(5 * noise, log(1.1), log(1.25))
        one_sided = np.isnan(left) | np.isnan(right)
        return cls(
            bars,
            np.stack([np.count_nonzero(side >= 0, axis=1) for side in (before, after)], axis=1),
            np.where(one_sided, np.fmax(left, right), (left + right) / 2),
            _median(np.log(series.high / series.low), bars),
            noise,
            near,
            one_sided | (np.abs(left - right) <= near),
        )


def _mended(series: Series, at: Ints, beside: _Beside, factors: Floats) -> tuple[Mask, Floats]:
    """Whether each factor, shape (k, f), makes an ordinary bar of a wrong one; and the log of high to low it leaves."""
    away = np.log(series.prices[:, at].T) + series.split[at, None] - beside.level[:, None]
    factor = factors[:, :, None]
    wrong = away[:, None, :] * np.sign(factor) > np.abs(factor) / 2
    mended = away[:, None, :] - np.where(wrong, factor, 0.0)
    ends = mended[:, :, [0, 3]]  # open and close
    span = np.ptp(mended, axis=2)
    most = np.clip(2.5 * beside.span, 0.03, log(BREAK))[:, None]
    mends = (
        wrong.any(axis=2)
        & ~wrong.all(axis=2)
        & (mended[:, :, 1] >= ends.max(axis=2) - ROUNDED)
        & (mended[:, :, 2] <= ends.min(axis=2) + ROUNDED)
        & (np.abs(np.median(mended, axis=2)) <= beside.near[:, None])
        & (span <= np.minimum(most, np.abs(factors) / 3))
    )
    return mends, span


def _calm(series: Series, wide: Mask, at: Ints, way: int) -> Ints:
    """The positions of the ordinary bars before (-1) or after (1) each bar, nearest first; shape (k, BESIDE)."""
    calm = np.flatnonzero(~wide)
    steps = np.arange(BESIDE) if way > 0 else -1 - np.arange(BESIDE)
    which = np.searchsorted(calm, at)[:, None] + steps
    inside = (which >= 0) & (which < len(calm))
    bars = np.append(calm, 0)[np.where(inside, which, -1)]
    inside &= series.ticker[bars] == series.ticker[at, None]
    inside &= np.abs(series.day[bars] - series.day[at, None]) <= APART
    return np.where(inside, bars, -1)


def _at(values: Floats, which: Ints) -> Floats:
    return np.where(which >= 0, values[which], np.nan)


def _median(values: Floats, which: Ints) -> Floats:
    return _middle(_at(values, which))


def _middle(values: Floats) -> Floats:
    """Row by row the median, NaN left out; NaN where all are."""
    ordered = np.sort(values, axis=1)  # NaN come last
    rows, last = np.arange(len(values)), np.maximum(np.count_nonzero(~np.isnan(values), axis=1) - 1, 0)
    return np.asarray((ordered[rows, last // 2] + ordered[rows, (last + 1) // 2]) / 2)


def _known_close_by(series: Series, at: Ints) -> Floats:
    """The log ratio of the known split nearest in time to each bar ``at``; NaN where none is close."""
    known = series.known
    if not len(known.ticker):
        return np.full(len(at), np.nan)
    days = np.abs(series.day[at, None] - known.day).astype(np.float64)
    days[(series.ticker[at, None] != known.ticker) | (np.abs(known.ratio) < log(VISIBLE) - 1e-9)] = np.inf
    nearest = days.argmin(axis=1)
    return np.where(days[np.arange(len(at)), nearest] <= CLOSE_BY, np.abs(known.ratio[nearest]), np.nan)
