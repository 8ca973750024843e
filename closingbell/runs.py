"""Runs of bars that are a whole factor away from the runs beside them.

A run ends where the price, splits divided out, steps by :data:`~closingbell.neighbours.BREAK`. Clean series are one
run, and never get here; the others are looked at run by run, in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Final

import numpy as np

from closingbell.neighbours import APART, BREAK, FACTORS, VISIBLE, Floats, Ints, Mask, Series, too_coarse

#: So many sessions a run on another scale may last; a longer one is a step that lasts, and real. A split and its
#: reverse in so few sessions, neither of them known, look the same and are refused until they are.
FEW: Final = 3

#: So many if one of its ends is the day of a known split of that ratio, which was applied too early or too late.
FEW_AT_SPLIT: Final = 20

#: So many bars before and after a run have a vote on which scale is the right one.
VOTERS: Final = 20

#: The factors both ways, and by how much a run may miss them: 1.5 is what a price may do, 2 hardly ever.
_AWAY: Final = [(sign * log(f), (0.1 if f < 2 else 0.15) * log(f)) for f in FACTORS for sign in (1, -1)]


def off_runs(series: Series) -> tuple[Mask, Mask]:
    """The bars of short runs that are a hundredfold, or another factor, away from the runs beside them."""
    hundredfold, off_scale = np.zeros(len(series), np.bool_), np.zeros(len(series), np.bool_)
    if not len(series):
        return hundredfold, off_scale
    level = series.levels()
    wall = (series.ticker[1:] != series.ticker[:-1]) | (np.diff(series.day) > APART)
    ends = np.flatnonzero(wall | (np.abs(np.diff(level)) > log(BREAK))) + 1
    starts, ends = np.append(0, ends), np.append(ends, len(series))
    walled = np.append(True, wall[starts[1:] - 1])
    first = np.flatnonzero(walled)
    for begin, stop in zip(first, np.append(first[1:], len(starts)), strict=True):
        bars = ends[stop - 1] - starts[begin]
        # Where the price breaks all the time, a break says nothing.
        if 1 < stop - begin <= 5 + bars // 5:
            look = _Look(series, level, starts[begin:stop], ends[begin:stop])
            for run in range(stop - begin):
                here = slice(starts[begin + run], ends[begin + run])
                hundredfold[here] = look.hundredfold(run)
                off_scale[here] = look.off_scale(run)
    return hundredfold, off_scale


@dataclass(frozen=True, slots=True)
class _Look:
    """The runs of one ticker: bars ``starts[i]`` to ``ends[i]``, a break between each and the next."""

    series: Series
    level: Floats
    starts: Ints
    ends: Ints

    def hundredfold(self, run: int) -> bool:
        """Whether a few sessions are a hundredfold or a hundredth, within 30%, of the three or more bars beside them.

        One side is enough, as prices do not move so far by themselves; a single bar beside it is not, as that may be
        the wrong one. A split of 1 for 100 that nobody has announced looks the same, and waits for its announcement.
        """
        if self._sessions(run) > FEW:
            return False
        for way in (-1, 1):
            beside = self._beside(run, way, max(3, self._count(run) + 1))
            if beside is None:
                continue
            away = self._edge(run, way) - self._edge(beside, -way)
            if abs(abs(away) - log(100)) <= log(1.3) and self._outvoted(run, beside, -way):
                return not self._coarse(min(run, beside), max(run, beside))
        return False

    def off_scale(self, run: int) -> bool:
        """Whether a run is away from both of its sides by one recognisable factor, and these agree."""
        if self._sessions(run) > FEW_AT_SPLIT:
            return False
        # With a split's own day at one end and its ratio, the split is the witness.
        known = [(away, 0.3 * abs(away)) for away in self._splits_at(run)]
        if self._off(run, known, 2) is not None:
            return True
        if self._sessions(run) > FEW:
            return False
        left = self._off(run, _AWAY, max(2, self._count(run) + 1))
        return left is not None and self._outvoted(run, left, 1)

    def _off(self, run: int, factors: Sequence[tuple[float, float]], least: int) -> int | None:
        """The run on the left, if a run is off by one of some factors from it and from the one on the right.

        It may miss the factor by what is given beside it, and by five ordinary steps. From one scale to the other
        nothing may have been traded: a price that went there and came back is real.
        """
        left, right = self._beside(run, -1, least), self._beside(run, 1, least)
        if left is None or right is None or not factors:
            return None
        came = self._edge(run, -1) - self._edge(left, 1)
        went = self._edge(run, 1) - self._edge(right, -1)
        away = (came + went) / 2
        factor, most = min(factors, key=lambda known: abs(away - known[0]))
        noise = self._noise(left, right)
        allowed = min(max(5 * noise, 0.04), most)
        near = abs(away - factor) <= allowed and abs(came - went) <= max(2.5 * allowed, 0.1)
        if not near or abs(factor) < 6 * noise or self._coarse(left, right):
            return None
        gaps = (
            self._gap(self.ends[left] - 1, self.starts[run], away),
            self._gap(self.starts[right], self.ends[run] - 1, away),
        )
        return left if min(gaps) >= abs(factor) / 2 else None

    def _count(self, run: int) -> int:
        return int(self.ends[run] - self.starts[run])

    def _sessions(self, run: int) -> int:
        return 1 + int(np.count_nonzero(np.diff(self.series.day[self.starts[run] : self.ends[run]])))

    def _beside(self, run: int, way: int, least: int) -> int | None:
        """The next run before or after that has at least so many bars, if hardly anything lies between."""
        between, run, most = 0, run + way, max(5, self._count(run))
        while 0 <= run < len(self.starts) and between <= most:
            if self._count(run) >= least:
                return run
            between += self._count(run)
            run += way
        return None

    def _edge(self, run: int, way: int) -> float:
        """The level of a run's first (-1) or last (1) three bars."""
        start, end = self.starts[run], self.ends[run]
        bars = slice(start, min(start + 3, end)) if way < 0 else slice(max(start, end - 3), end)
        return float(np.median(self.level[bars]))

    def _noise(self, left: int, right: int) -> float:
        """An ordinary log step in the bars next to what lies between two runs; at least 0.01."""
        before = self.level[max(self.starts[left], self.ends[left] - 6) : self.ends[left]]
        after = self.level[self.starts[right] : min(self.starts[right] + 6, self.ends[right])]
        return max(1.5 * float(np.median(np.abs(np.concatenate((np.diff(before), np.diff(after)))))), 0.01)

    def _splits_at(self, run: int) -> list[float]:
        """How far a run would be away if a known split at one of its ends was applied too late, or too early."""
        split, start, end = self.series.split, self.starts[run], self.ends[run]
        late = split[start] - split[start - 1] if run > 0 else 0.0
        early = split[end - 1] - split[end] if run + 1 < len(self.starts) else 0.0
        return [float(away) for away in (late, early) if abs(away) > log(VISIBLE) - 1e-9]

    def _outvoted(self, run: int, beside: int, edge: int) -> bool:
        """Whether fewer bars around are on a run's scale, its own included, than on that of the run beside it."""
        start, end = self.starts[run], self.ends[run]
        voters = max(VOTERS, self._count(run) + 1)
        votes = self.level[max(self.starts[0], start - voters) : min(self.ends[-1], end + voters)]
        mine, theirs = float(np.median(self.level[start:end])), self._edge(beside, edge)
        ours = np.count_nonzero(np.abs(votes - mine) <= log(BREAK))
        return bool(ours < np.count_nonzero(np.abs(votes - theirs) <= log(BREAK)))

    def _gap(self, bar: int, other: int, away: float) -> float:
        """How far, in logs, the span of bar ``other`` is above that of ``bar``; below it, if ``away`` is negative."""
        lower, upper = (bar, other) if away > 0 else (other, bar)
        between = np.log(self.series.low[upper] / self.series.high[lower])
        return float(between + self.series.split[upper] - self.series.split[lower])

    def _coarse(self, left: int, right: int) -> bool:
        """Whether the bars from the end of one run to the beginning of another are quoted in too few ticks."""
        first, last = max(self.starts[left], self.ends[left] - 6), min(self.starts[right] + 6, self.ends[right])
        prices = self.series.prices[:, first:last]
        return too_coarse(prices, float(prices.min()))
