"""What a tester changed in the market, laid over a source: corrected bars, splits, dividends, instruments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import numpy as np

from closingbell.bars import BAR, NO_TRADES, Bars
from infra.market.hashing import Ints
from infra.market.instruments import Instrument, Instruments
from infra.market.listing import asset_of
from infra.market.scale import Rows, ratios, rescaled
from infra.market.source import Dividend, Listed, Source, Split

#: The names a correction may use for a value: the vendor's and ours.
FIELDS: Final = {
    "o": "open",
    "h": "high",
    "l": "low",
    "c": "close",
    "v": "volume",
    "vw": "vwap",
    "n": "trades",
}
FIELDS.update({name: name for name in FIELDS.values()})

#: Splits are announced this long before they happen, unless a script says otherwise.
_ANNOUNCED: Final = timedelta(days=14)

_Fact = TypeVar("_Fact", Split, Dividend)


@dataclass(frozen=True, slots=True)
class Entry(Generic[_Fact]):
    """A fact that the vendor lists from one instant of the market's clock (None: when it usually would) to another."""

    fact: _Fact
    since: datetime | None = None
    until: datetime | None = None

    def stands(self, now: datetime, usually: bool) -> bool:
        """Whether it is listed; ``usually`` is the answer when nothing is said of when it begins to be."""
        return (usually if self.since is None else self.since <= now) and (self.until is None or now < self.until)


class Edited:
    """A source with corrections on top; ``version`` changes with each, so that cached answers can be dropped.

    Corrections reach daily bars only. A correction of None removes the bar; one to a bar that does not exist
    adds it, with what it does not name left at 1 (no vwap, no trades).
    """

    def __init__(self, source: Source) -> None:
        self.instruments = Instruments(source)
        self._bars: dict[str, dict[np.datetime64, Mapping[str, Any] | None]] = {}
        self._moves: list[Split] = []
        self._splits: list[Entry[Split]] = []
        self._dividends: list[Entry[Dividend]] = []
        self.version = 0

    def revise(self, ticker: str, session: np.datetime64, values: Mapping[str, Any] | None) -> None:
        """Override raw values (by the vendor's or our names) of one bar; None removes the bar.

        Raises:
            ValueError: a name is not a bar's.
        """
        named = None if values is None else {FIELDS.get(key, key): value for key, value in values.items()}
        if unknown := set(named or ()) - set(FIELDS.values()):
            raise ValueError(f"no such values of a bar: {', '.join(sorted(unknown))}")
        before = self._bars.setdefault(ticker, {}).get(session) or {}
        self._bars[ticker][session] = None if named is None else {**before, **named}
        self.version += 1

    def move(self, split: Split) -> None:
        """Let the raw bars move at a split, listed or not: on and after its day they are in the new scale."""
        self._moves.append(split)
        self.version += 1

    def add_split(self, entry: Entry[Split]) -> None:
        """List one more split. The raw bars stay as they were."""
        self._splits.append(entry)
        self.version += 1

    def add_dividend(self, entry: Entry[Dividend]) -> None:
        """List one more dividend."""
        self._dividends.append(entry)
        self.version += 1

    def put(self, instrument: Instrument) -> None:
        """Script an instrument. Raises: ValueError: its tenures cannot be."""
        self.instruments.put(instrument)
        self.version += 1

    def clear(self) -> None:
        """Undo every edit."""
        self._bars.clear()
        self._moves.clear()
        self._splits.clear()
        self._dividends.clear()
        self.instruments.clear()
        self.version += 1

    def state(self, now: datetime) -> tuple[int, int]:
        """What the answers depend on besides the request and the date: the edits, and which are listed by now."""
        entries: list[Entry[Any]] = [*self._splits, *self._dividends]
        instants = [at for entry in entries for at in (entry.since, entry.until)]
        return self.version, sum(at is not None and at <= now for at in instants)

    @property
    def name(self) -> str:
        return self.instruments.name

    def days(self, ticker: str, first: np.datetime64, last: np.datetime64) -> Bars:
        bars = self._moved(self.instruments.days(ticker, first, last))
        edits = {s: values for s, values in list(self._bars.get(ticker, {}).items()) if first <= s <= last}
        if not edits:
            return bars
        rows = _edit(bars.rows, [(0, session, values) for session, values in edits.items()])
        return Bars(bars.tickers, rows[np.argsort(rows["session"], kind="stable")])

    def minutes(self, ticker: str, first: np.datetime64, last: np.datetime64) -> Bars:
        return self._moved(self.instruments.minutes(ticker, first, last))

    def market_day(self, asset: str, session: np.datetime64) -> Bars:
        bars = self._moved(self.instruments.market_day(asset, session))
        here = {t: of[session] for t, of in list(self._bars.items()) if session in of and asset_of(t) == asset}
        if not here:
            return bars
        positions = {ticker: at for at, ticker in enumerate(bars.tickers)}
        for ticker in here:
            positions.setdefault(ticker, len(positions))
        return Bars(tuple(positions), _edit(bars.rows, [(positions[t], session, v) for t, v in here.items()]))

    def splits(self, ticker: str | None, now: datetime) -> Sequence[Split]:
        """The splits that the vendor lists at an instant, of one ticker or all; of two for one day, the last counts."""
        horizon = str((now + _ANNOUNCED).date())
        known = [split for split in self.instruments.splits(ticker) if split.execution_date <= horizon]
        return known + [
            entry.fact
            for entry in self._splits
            if ticker in (None, entry.fact.ticker) and entry.stands(now, entry.fact.execution_date <= horizon)
        ]

    def dividends(
        self, ticker: str | None, first: np.datetime64, last: np.datetime64, now: datetime
    ) -> Sequence[Dividend]:
        """The dividends that the vendor lists at an instant, with an ex-date from ``first`` to ``last``."""
        today = str(now.date())
        known = [self._paid(d) for d in self.instruments.dividends(ticker, first, last) if d.declared <= today]
        return known + [
            entry.fact
            for entry in self._dividends
            if ticker in (None, entry.fact.ticker)
            and str(first) <= entry.fact.ex_date <= str(last)
            and entry.stands(now, entry.fact.declared <= today)
        ]

    def listed(self, asset: str) -> Sequence[Listed]:
        return self.instruments.listed(asset)

    def find(self, ticker: str, day: str | None = None) -> Listed | None:
        return self.instruments.find(ticker, day) if day else self.instruments.find(ticker)

    def _moved(self, bars: Bars) -> Bars:
        if not self._moves or not len(bars):
            return bars
        ratio = ratios(bars, self._moves, self.instruments, later=False)
        return Bars(bars.tickers, rescaled(bars.rows, ratio), bars.timeframe)

    def _paid(self, dividend: Dividend) -> Dividend:
        """The dividend in the scale of its ex-date, when raw bars move at more splits than the source knows."""
        if not self._moves:
            return dividend
        holder = self.instruments.holder
        mine, ratio = holder(dividend.ticker, dividend.ex_date), 1.0
        for split in self._moves:
            if split.execution_date <= dividend.ex_date and holder(split.ticker, split.execution_date) == mine:
                ratio *= split.ratio
        return replace(dividend, cash_amount=round(dividend.cash_amount / ratio, 6))


def _edit(rows: Rows, edits: Sequence[tuple[int, np.datetime64, Mapping[str, Any] | None]]) -> Rows:
    """The rows with each (ticker, session) removed, changed or added, as its values say."""
    rows = rows.copy()
    dropped = np.zeros(len(rows), bool)
    added = []
    tickers, sessions = rows["ticker"].copy(), rows["session"].copy()
    for ticker, session, values in edits:
        here = np.flatnonzero((tickers == ticker) & (sessions == session))
        if values is None:
            dropped[here] = True
            continue
        if len(here):
            _overwrite(rows, here, values)
            continue
        fresh = np.ones(1, BAR)
        fresh["ticker"], fresh["session"] = ticker, session
        fresh["vwap"], fresh["trades"] = np.nan, NO_TRADES
        _overwrite(fresh, np.zeros(1, np.int64), values)
        added.append(fresh)
    return np.concatenate([rows[~dropped], *added])


def _overwrite(rows: Rows, here: Ints, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        absent = NO_TRADES if name == "trades" else np.nan
        rows[name][here] = absent if value is None else value
