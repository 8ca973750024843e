"""What a run is asked for: tickers, sessions, how far back to look again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np

from closingbell.bars import TIMEFRAMES
from closingbell.calendar import AssetClass, by_asset_class, calendar_for
from closingbell.cells import Cells, Gap
from closingbell.errors import ConfigurationError
from closingbell.identity import Tenure, former
from closingbell.intraday import last_over
from closingbell.resample import split, told


@dataclass(frozen=True, slots=True)
class Request:
    """The cells a run is about, and how to look at them.

    Attributes:
        tickers: as the vendor writes them, each once.
        start: first date asked for.
        end: last date asked for.
        recheck_sessions: how many of the last sessions to fetch again although they are stored.
        source: the vendor.
        timeframes: of the bars, each once.
        skip_non_sessions: do nothing when nothing is missing and no session became due in the last day.
        gaps_only: ask only for cells inside the watermarks, and so for no history that nobody asked for.
        heal: ask as well for what is missing of these tickers before ``start``, where it was asked for once.
        ask_again: ask as well for what the vendor said is empty or not ours, and for bars in quarantine.
        limits: the first and the last day of tickers that are not asked for throughout, such as former ones.
        compare: ask for what is stored, all of it or a sample, to hold it against what the vendor says now.
        sample: how many tickers, and how many sessions, of a comparison; 0: everything.
        minutes: how many daily bars of a comparison to hold against their own minutes.
        seed: of the sample's choice.
        notes: what was changed in what the person asked for, and why.
        extended_hours: store a stock's intraday bars from before the open and after the close as well.
        derived: timeframes whose bars are made of stored minutes, without a call; each once, none of ``timeframes``.
        uncertain: nobody knows where the bars come from: futures are searched for discontinuities as well.
    """

    tickers: tuple[str, ...]
    start: date
    end: date
    recheck_sessions: int = 0
    source: str = "polygon"
    timeframes: tuple[str, ...] = ("1d",)
    skip_non_sessions: bool = False
    gaps_only: bool = False
    heal: bool = False
    ask_again: bool = False
    limits: Mapping[str, tuple[date, date]] = field(default_factory=dict)
    compare: bool = False
    sample: int = 0
    minutes: int = 0
    seed: int = 0
    notes: tuple[str, ...] = ()
    extended_hours: bool = True
    derived: tuple[str, ...] = ()
    uncertain: bool = False

    @property
    def timeframe(self) -> str:
        """The timeframe; of several the first one."""
        return (*self.timeframes, *self.derived)[0]

    def grids(
        self, now: datetime, since: date | None = None, timeframe: str | None = None
    ) -> list[tuple[AssetClass, Cells]]:
        """Every cell asked for whose session is over: one grid for each asset class, as each has its own sessions.

        Args:
            now: the present instant.
            since: let the grids begin as early as this; cells before ``start`` are in none of them.
            timeframe: whose cells; None: those of :attr:`timeframe`.
        """
        grids: list[tuple[AssetClass, Cells]] = []
        for name, tickers in by_asset_class(self.tickers).items():
            calendar = calendar_for(name)
            first = min(since or self.start, self.start)
            over = last_over(name, timeframe or self.timeframe, now, extended_hours=self.extended_hours)
            sessions = calendar.sessions(first, min(self.end, over))
            mask = np.broadcast_to(sessions >= np.datetime64(self.start), (len(tickers), len(sessions)))
            limited = [(i, self.limits[ticker]) for i, ticker in enumerate(tickers) if ticker in self.limits]
            mask = mask.copy() if limited else mask  # of a large grid it is megabytes
            for i, limit in limited:
                mask[i] &= (sessions >= np.datetime64(limit[0])) & (sessions <= np.datetime64(limit[1]))
            grids.append((name, Cells(tuple(tickers), sessions, mask)))
        return grids

    def as_dict(self) -> dict[str, Any]:
        """The request as plain JSON, for the run's row and report."""
        return {
            "tickers": list(self.tickers),
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "recheck_sessions": self.recheck_sessions,
            "source": self.source,
            "timeframe": self.timeframe,
            "timeframes": list(self.timeframes),
            "extended_hours": self.extended_hours,
            "derived": list(self.derived),
            "uncertain": self.uncertain,
            "gaps_only": self.gaps_only,
            "heal": self.heal,
            "ask_again": self.ask_again,
            "limits": {ticker: [day.isoformat() for day in limit] for ticker, limit in self.limits.items()},
            "compare": self.compare,
            "sample": self.sample,
            "minutes": self.minutes,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, asked: Mapping[str, Any]) -> Request:
        """The request that a run's row remembers, to be done again, without the recheck."""
        return cls(
            tuple(asked["tickers"]),
            date.fromisoformat(asked["start"]),
            date.fromisoformat(asked["end"]),
            source=asked["source"],
            timeframes=tuple(asked.get("timeframes", [asked["timeframe"]])),
            derived=tuple(asked.get("derived", ())),
            uncertain=bool(asked.get("uncertain", False)),
            extended_hours=bool(asked.get("extended_hours", True)),
            gaps_only=bool(asked.get("gaps_only", False)),
            heal=bool(asked.get("heal", False)),
            limits={
                ticker: (date.fromisoformat(first), date.fromisoformat(last))
                for ticker, (first, last) in asked.get("limits", {}).items()
            },
        )


def of_gaps(
    gaps: Sequence[Gap], now: datetime, source: str = "polygon", timeframes: tuple[str, ...] = ("1d",)
) -> Request:
    """The request whose missing cells are at most these gaps: their tickers, from the first session to the last."""
    sessions = [gap.session for gap in gaps] or [now.date()]
    tickers = tuple(dict.fromkeys(gap.ticker for gap in gaps))
    return Request(tickers, min(sessions), max(sessions), 0, source, timeframes, gaps_only=True)


def with_former(request: Request, tenures: Sequence[Tenure]) -> Request:
    """The same request, and what the instruments of its tickers were called before, for as long as they were.

    Args:
        request: what is asked for.
        tenures: whole instruments, as :func:`closingbell.identity.former` takes them.
    """
    limits: dict[str, tuple[date, date]] = {}
    for earlier in former(request.tickers, tenures).values():
        for tenure in earlier:
            first, last = max(tenure.first, request.start), request.end
            if tenure.end is not None:
                last = min(last, tenure.end - timedelta(days=1))
            if first <= last and tenure.ticker not in request.tickers:
                known = limits.get(tenure.ticker, (first, last))
                limits[tenure.ticker] = (min(first, known[0]), max(last, known[1]))
    notes = tuple(f"{ticker} as well, {first} to {last}" for ticker, (first, last) in limits.items())
    names = (*request.tickers, *limits)
    return replace(request, tickers=names, limits=limits, notes=(*request.notes, *notes))


def build(
    tickers: Sequence[str],
    start: date | None,
    end: date | None,
    now: datetime,
    *,
    recheck_sessions: int = 0,
    skip_non_sessions: bool = False,
    ask_again: bool = False,
    source: str = "polygon",
    timeframes: Sequence[str] = ("1d",),
    extended_hours: bool = True,
    derive: bool = False,
    uncertain: bool = False,
) -> Request:
    """Fill in what the person left open, and refuse what cannot be.

    Args:
        tickers: at least one.
        start: first date; None: two years back, as far as the free plan's history goes, and what is missing of
            longer histories that were asked for once.
        end: last date; None: the last session that should be published by now. A later one than the last
            session that is over is moved back to it, and said.
        now: the present instant.
        recheck_sessions: how many of the last sessions to fetch again.
        skip_non_sessions: do nothing when nothing is missing and no session became due in the last day.
        ask_again: ask as well for cells whose answer would stand for some time yet.
        source: the vendor.
        timeframes: of the bars, at least one.
        extended_hours: store a stock's intraday bars from before the open and after the close as well.
        derive: make those of them that can be made of stored minutes, instead of fetching them.
        uncertain: nobody knows where the bars come from.

    Raises:
        ConfigurationError: there is no session to fetch, or no such timeframe.
    """
    check_timeframes(timeframes)
    fetched, derived = split(timeframes, tickers) if derive else (tuple(timeframes), ())
    names = list(by_asset_class(tickers))
    calendars = [calendar_for(name) for name in names]
    if not calendars:
        raise ConfigurationError("no ticker was asked for", fix="Name tickers, or a universe such as sp500+etfs.")
    closed = max(
        last_over(name, timeframe, now, extended_hours=extended_hours) for name in names for timeframe in timeframes
    )
    due = max(calendar.last_due(now) for calendar in calendars)
    notes: list[str] = [told(derived)] if derived else []
    first = start or min(calendar.default_start(now) for calendar in calendars)
    last = end or max(due, min(first, closed))
    if last > closed:
        notes.append(f"{last} is not over: asking up to {closed}")
        last = closed
    if not any(len(calendar.sessions(first, last)) for calendar in calendars):
        raise ConfigurationError(
            "there is no session to fetch",
            value=f"{first}..{end or last}",
            fix=f"Give a start on or before the end, and not after {closed}, the last session that is over.",
        )
    return Request(
        tuple(dict.fromkeys(tickers)),
        first,
        last,
        recheck_sessions,
        source,
        tuple(dict.fromkeys(fetched)),
        skip_non_sessions=skip_non_sessions,
        heal=start is None,
        ask_again=ask_again,
        notes=tuple(notes),
        extended_hours=extended_hours,
        uncertain=uncertain,
        derived=tuple(dict.fromkeys(derived)),
    )


def check_timeframes(timeframes: Sequence[str]) -> None:
    """Know every timeframe that is asked for, and at least one.

    Raises:
        ConfigurationError: one is none.
    """
    unknown = [timeframe for timeframe in timeframes if timeframe not in TIMEFRAMES]
    if unknown or not timeframes:
        fix = f"Use one of {', '.join(TIMEFRAMES)}."
        raise ConfigurationError("there is no such timeframe", value=", ".join(unknown) or "none", fix=fix)
