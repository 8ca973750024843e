"""What a tester changed in the market: corrected bars and added splits, laid over a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from closingbell.bars import BAR, NO_TRADES, Bars
from infra.market.listing import asset_of
from infra.market.source import Listed, Source, Split

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


class Edited:
    """A source with corrections on top; ``version`` changes with each, so that cached answers can be dropped.

    Corrections reach daily bars only. A correction of None removes the bar; one to a bar that does not exist
    adds it, with what it does not name left at 1 (no vwap, no trades).
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._bars: dict[str, dict[np.datetime64, Mapping[str, Any] | None]] = {}
        self._splits: list[Split] = []
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

    def add_split(self, split: Split) -> None:
        """List one more split. It adjusts the past; the raw bars stay as they were."""
        self._splits.append(split)
        self.version += 1

    def clear(self) -> None:
        """Undo every edit."""
        self._bars.clear()
        self._splits.clear()
        self.version += 1

    @property
    def name(self) -> str:
        return self._source.name

    def days(self, ticker: str, first: np.datetime64, last: np.datetime64) -> Bars:
        bars = self._source.days(ticker, first, last)
        edits = {s: values for s, values in self._bars.get(ticker, {}).items() if first <= s <= last}
        if not edits:
            return bars
        rows = bars.rows
        for session, values in edits.items():
            rows = _edit(rows, 0, session, values)
        return Bars(bars.tickers, rows[np.argsort(rows["session"], kind="stable")])

    def minutes(self, ticker: str, first: np.datetime64, last: np.datetime64) -> Bars:
        return self._source.minutes(ticker, first, last)

    def market_day(self, asset: str, session: np.datetime64) -> Bars:
        bars = self._source.market_day(asset, session)
        rows, tickers = bars.rows, bars.tickers
        for ticker, edits in self._bars.items():
            if session in edits and asset_of(ticker) == asset:
                if ticker not in tickers:
                    tickers = (*tickers, ticker)
                rows = _edit(rows, tickers.index(ticker), session, edits[session])
        return Bars(tickers, rows)

    def splits(self, ticker: str | None = None) -> Sequence[Split]:
        known = self._source.splits(ticker)
        added = [split for split in self._splits if ticker in (None, split.ticker)]
        return sorted([*known, *added]) if added else known

    def listed(self, asset: str) -> Sequence[Listed]:
        return self._source.listed(asset)

    def find(self, ticker: str) -> Listed | None:
        return self._source.find(ticker)


Rows = np.ndarray[tuple[int], np.dtype[np.void]]


def _edit(rows: Rows, ticker: int, session: np.datetime64, values: Mapping[str, Any] | None) -> Rows:
    here = (rows["ticker"] == ticker) & (rows["session"] == session)
    if values is None:
        kept: Rows = rows[~here]
        return kept
    if not here.any():
        fresh = np.ones(1, BAR)
        fresh["ticker"], fresh["session"] = ticker, session
        fresh["vwap"], fresh["trades"] = np.nan, NO_TRADES
        rows = np.concatenate([rows, fresh])
        here = np.r_[here, True]
    else:
        rows = rows.copy()
    for name, value in values.items():
        absent = NO_TRADES if name == "trades" else np.nan
        rows[name][here] = absent if value is None else value
    return rows
