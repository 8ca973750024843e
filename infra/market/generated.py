"""Generated bars: any well-formed ticker, any session, the same answer from every endpoint and process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Final

import numpy as np

from closingbell.bars import BAR, NO_TRADES, Bars
from infra.market import hashing
from infra.market.dividends import dividends_of
from infra.market.hashing import Floats, Ints
from infra.market.hours import FIRST_BAR, hours
from infra.market.issues import Issues, issues
from infra.market.listing import CRYPTO_PAIRS, FX_PAIRS, OWN, asset_of, listing, series_asset
from infra.market.minutes import minute_rows
from infra.market.source import Dividend, Listed, Split

_STREAM_DAY: Final = 3
_STREAM_VOLUME: Final = 48

#: Volumes carry fractions of shares from here on.
_FRACTIONS_FROM: Final = np.datetime64("2026-01-01")


class Generated:
    """The market that a seed describes.

    Args:
        size: stocks on the market day.
        seed: another seed is another market.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._one = lru_cache(20_000)(self._make_one)

    @property
    def name(self) -> str:
        return f"generated, {self.size:,} tickers, seed {self.seed}"

    def days(self, ticker: str, first: np.datetime64, last: np.datetime64) -> Bars:
        asset = series_asset(ticker)
        if asset not in ("stocks", "crypto", "fx"):
            return Bars((ticker,))
        span = hours(asset)
        wanted = span.between(max(first, FIRST_BAR), last)
        return Bars((ticker,), day_rows(self._one(ticker), np.arange(wanted.start, wanted.stop)))

    def minutes(self, ticker: str, first: np.datetime64, last: np.datetime64) -> Bars:
        daily = self.days(ticker, first, last).rows
        if not len(daily):
            return Bars((ticker,), daily, "1m")
        one = self._one(ticker)
        return Bars((ticker,), minute_rows(one.hashes, one.hours, daily), "1m")

    def market_day(self, asset: str, session: np.datetime64) -> Bars:
        at = hours(asset).position(session)
        if at is None or session < FIRST_BAR:
            return Bars(())
        batch = self._listed[asset]
        return Bars(batch.tickers, day_rows(batch, np.array(at)))

    def splits(self, ticker: str | None = None) -> Sequence[Split]:
        if ticker is None:
            return self._all_splits
        return _splits_of(self._one(ticker)) if asset_of(ticker) == "stocks" else ()

    def dividends(self, ticker: str | None, first: np.datetime64, last: np.datetime64) -> Sequence[Dividend]:
        if ticker is None:
            return dividends_of(self._listed["stocks"], first, last)
        return dividends_of(self._one(ticker), first, last) if series_asset(ticker) == "stocks" else ()

    def listed(self, asset: str) -> Sequence[Listed]:
        return self._references[asset]

    def find(self, ticker: str) -> Listed | None:
        asset = asset_of(ticker)
        return _reference(self._one(ticker))[0] if asset in ("stocks", "crypto", "fx") else None

    def series_of(self, figi: str, tickers: Sequence[str]) -> str:
        return OWN + figi

    @cached_property
    def _listed(self) -> dict[str, Issues]:
        tickers = {"stocks": listing(self.size, self.seed), "crypto": CRYPTO_PAIRS, "fx": FX_PAIRS}
        return {asset: issues(names, asset, self.seed) for asset, names in tickers.items()}

    @cached_property
    def _references(self) -> dict[str, list[Listed]]:
        return {asset: _reference(batch) for asset, batch in self._listed.items()}

    @cached_property
    def _all_splits(self) -> list[Split]:
        return _splits_of(self._listed["stocks"])

    def _make_one(self, ticker: str) -> Issues:
        return issues((ticker,), series_asset(ticker) or "stocks", self.seed)


def day_rows(batch: Issues, at: Ints) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Daily bars of many tickers on one session (``at`` of shape ()), or of one ticker on many (shape (m,))."""
    h, sigma = batch.hashes, batch.sigma

    def draw(part: int) -> Floats:
        return hashing.uniform(h, _STREAM_DAY, at * 16 + part)

    before, close = batch.economic_level(at - 1), batch.economic_level(at)
    open_ = before + sigma * 0.7 * (draw(0) - 0.5)
    high = np.maximum(open_, close) + sigma * 0.8 * draw(1) ** 2
    low = np.minimum(open_, close) - sigma * 0.8 * draw(2) ** 2
    scale = batch.split_scale(at)
    digits = 5 if batch.hours.asset == "fx" else 2

    rows = np.zeros(len(close), BAR)
    rows["ticker"] = np.arange(len(close)) if np.ndim(at) == 0 else 0
    rows["session"] = batch.hours.sessions[at]
    for field, price in (("open", open_), ("high", high), ("low", low), ("close", close)):
        rows[field] = _quoted(np.exp(price) * scale, digits)

    size = np.exp(batch.shares + 0.35 * hashing.walk(h, _STREAM_VOLUME, at, 1, 16) + 0.6 * (draw(3) - 0.5)) / scale
    volume = np.floor(size) + 50.0
    whole = (rows["session"] < _FRACTIONS_FROM) | (draw(4) < 0.1)
    if batch.hours.asset == "fx":
        whole = np.ones(len(close), bool)
    elif batch.hours.asset == "crypto":
        whole = ~np.ones(len(close), bool)
    rows["volume"] = np.where(whole, volume, volume + np.round(draw(5) * 0.9998 + 0.0001, 4))
    rows["trades"] = volume if batch.hours.asset == "fx" else 20 + volume / batch.lot
    inside = rows["low"] + (rows["high"] - rows["low"]) * (0.3 + 0.4 * draw(6))
    # Trades that do not set the high or the low still count in the average, so a few averages lie outside.
    rows["vwap"] = np.round(np.where(draw(7) < 0.08, rows["high"] * 1.0004, inside), 4)

    idle = draw(8) < batch.idle
    if idle.any():
        quiet = _quoted(np.exp(before) * scale, digits)
        for field in ("open", "high", "low", "close"):
            rows[field] = np.where(idle, quiet, rows[field])
        rows["volume"] = np.where(idle, 0.0, rows["volume"])
        rows["vwap"] = np.where(idle, np.nan, rows["vwap"])
        rows["trades"] = np.where(idle, NO_TRADES, rows["trades"])
    traded = (draw(9) >= batch.halts) & (at >= batch.listed) & (at < batch.delisted)
    return rows[traded]


def _quoted(price: Floats, digits: int) -> Floats:
    """Prices as quoted: cents, and hundredths of a cent below a dollar; the order of prices is kept."""
    return np.where(price < 1.0, np.maximum(np.round(price, max(digits, 4)), 1e-4), np.round(price, digits))


def _splits_of(batch: Issues) -> list[Split]:
    found = []
    sessions = batch.hours.sessions
    for row, year in np.argwhere(batch.split_at < len(sessions)):
        at = int(batch.split_at[row, year])
        split = Split(
            str(sessions[at]), batch.tickers[row], int(batch.split_from[row, year]), int(batch.split_to[row, year])
        )
        found.append(split)
        if int(batch.hashes[row]) % 97 == 0:  # the vendor lists some splits twice
            found.append(Split(split.execution_date, split.ticker, split.split_from, split.split_to, 1))
    return sorted(found)


def _reference(batch: Issues) -> list[Listed]:
    sessions = batch.hours.sessions
    first = int(np.searchsorted(sessions, FIRST_BAR))
    return [
        Listed(
            ticker,
            batch.hours.asset,
            str(sessions[listed]) if listed > first else None,
            str(sessions[gone]) if gone < len(sessions) else None,
        )
        for ticker, listed, gone in zip(batch.tickers, batch.listed.tolist(), batch.delisted.tolist(), strict=True)
    ]
