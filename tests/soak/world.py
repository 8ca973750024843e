"""The world of a week of nights: a market, what is true in it, and what was asked of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

import numpy as np

from closingbell.bars import NO_TRADES, VALUES, Bars
from closingbell.calendar import calendar_for
from infra.market.edits import Edited
from infra.market.generated import Generated
from infra.market.process import MarketProcess
from infra.market.scripts import ASplit

Cell = tuple[str, date]

#: open, high, low, close, volume, vwap, trades; None for what the vendor did not send.
Values = tuple[float | None, ...]

#: The nightly's hour: 01:30 in New York on the next day, when the session is due.
_NIGHT: Final = time(5, 30, tzinfo=UTC)

#: Nothing is asked for that lies further back from the present.
_LONG_AGO: Final = timedelta(days=1_000)


@dataclass
class World:
    """A market process, and beside it in this process what is true in it: no fault ever reaches that.

    Attributes:
        market: the process; what is true is scripted there as well.
        truth: the same generated market with the same corrections and splits.
        session: the last session that is due.
        asked: the first and the last session that each ticker was ever asked for.
        versions: for each cell that was corrected, all that was ever true of it.
        splits: those that happened in this week.
    """

    market: MarketProcess
    session: date
    truth: Edited = field(init=False)
    asked: dict[str, tuple[date, date]] = field(default_factory=dict)
    versions: dict[Cell, set[Values | None]] = field(default_factory=dict)
    splits: list[ASplit] = field(default_factory=list)
    _corrections: list[dict[str, Any]] = field(default_factory=list)
    _known: dict[str, dict[Cell, Values]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.market.health()["config"]
        self.truth = Edited(Generated(config["size"], config["seed"]))
        self.calm()
        self.move_to(self.session)

    @property
    def now(self) -> datetime:
        """The night after the last session that is due."""
        return night_after(self.session)

    def move_to(self, session: date) -> None:
        """Let it be the night after that session."""
        self.session = session
        self.market.set_now(self.now)

    def sessions(self, back: int) -> list[date]:
        """The last ``back`` sessions that are due, oldest first."""
        days = calendar_for("stocks").sessions(self.session - timedelta(days=2 * back + 14), self.session)
        return [day.item() for day in days[-back:]]

    def after(self, count: int) -> date:
        """The session ``count`` sessions after the present one."""
        days = calendar_for("stocks").sessions(self.session, self.session + timedelta(days=2 * count + 14))
        day: date = days[count].item()
        return day

    def ask(self, tickers: Iterable[str], first: date, last: date) -> None:
        """Remember that these cells were asked for."""
        for ticker in tickers:
            known = self.asked.get(ticker, (first, last))
            self.asked[ticker] = min(first, known[0]), max(last, known[1])

    def correct(self, ticker: str, session: date, values: Mapping[str, float] | None) -> None:
        """Let the vendor correct a bar, or say that there is none."""
        known = self.versions.setdefault((ticker, session), {self.true(ticker).get((ticker, session))})
        self.truth.revise(ticker, np.datetime64(session), values)
        self._corrections.append(
            {"action": "revise", "ticker": ticker, "date": str(session), "values": values and dict(values)}
        )
        self.market.faults(self._corrections[-1:])
        self._known.pop(ticker, None)
        known.add(self.true(ticker).get((ticker, session)))

    def split(self, ticker: str, day: date, split_from: float, split_to: float) -> None:
        """Let shares be split at the open of ``day``, a session that has not been asked for."""
        self.splits.append(ASplit(ticker, day, split_from, split_to))
        self.splits[-1].carry_out(self.truth)
        self.market.split(ticker, day, split_from, split_to)
        self._known.pop(ticker, None)

    def calm(self) -> None:
        """Let the market do nothing but what is true."""
        self.market.clear_faults()
        self.market.faults(self._corrections)
        for one in self.splits:
            self.market.split(one.ticker, one.day, one.split_from, one.split_to)

    def true(self, ticker: str) -> dict[Cell, Values]:
        """Every bar of a ticker as it is true now, up to sessions that are still to come."""
        if ticker not in self._known:
            first, last = self.session - _LONG_AGO, self.session + timedelta(days=60)
            self._known[ticker] = cells_of(self.truth.days(ticker, np.datetime64(first), np.datetime64(last)))
        return self._known[ticker]

    def on_market_day(self, ticker: str) -> bool:
        """Whether market days carry the ticker; others have ranges only."""
        return any(listed.ticker == ticker for listed in self.truth.listed("stocks"))

    def ever_true(self, cell: Cell) -> set[Values | None]:
        """All that was ever true of a cell; None stands for no bar."""
        return self.versions.get(cell) or {self.true(cell[0]).get(cell)}

    def expected(self) -> dict[Cell, Values | None]:
        """Every cell that was asked for, and its bar."""
        found: dict[Cell, Values | None] = {}
        for ticker, (first, last) in self.asked.items():
            bars = self.true(ticker)
            for day in calendar_for("stocks").sessions(first, last).tolist():
                found[ticker, day] = bars.get((ticker, day))
        return found


def night_after(session: date) -> datetime:
    """The instant at which the nightly of a session runs."""
    return datetime.combine(session + timedelta(days=1), _NIGHT)


def cells_of(bars: Bars) -> dict[Cell, Values]:
    """A block of bars, cell by cell."""
    columns = [bars.rows[name].tolist() for name in VALUES]
    rows = zip(bars.rows["ticker"].tolist(), bars.rows["session"].tolist(), zip(*columns, strict=True), strict=True)
    return {(bars.tickers[ticker], session): _values(values) for ticker, session, values in rows}


def _values(values: tuple[float, ...]) -> Values:
    *prices, vwap, trades = values
    return (*prices, None if vwap != vwap else vwap, None if trades == NO_TRADES else trades)
