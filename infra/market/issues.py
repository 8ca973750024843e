"""What each generated ticker is like: its price level, its liveliness, its life span, its splits.

Everything is a function of (seed, ticker), vectorised over tickers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from infra.market import hashing
from infra.market.hashing import Floats, Hashes, Ints
from infra.market.hours import FIRST_BAR, Hours, hours
from infra.market.listing import OWN, core

#: (split_from, split_to), from the usual to the odd.
_FORWARD: Final = ((1, 2), (1, 2), (1, 3), (2, 3), (1, 4), (1, 5), (1, 10), (4, 5))
_STEEP: Final = ((1, 4), (1, 5), (1, 10), (1, 20))
_REVERSE: Final = ((10, 1), (10, 1), (5, 1), (20, 1), (15, 1), (4, 1), (50, 1), (25, 1))

_STREAM_TRAITS, _STREAM_SPLIT, _STREAM_LEVEL = 1, 2, 16
_NEVER: Final = 1 << 30
_ALL: Final = slice(None)


@dataclass(frozen=True, slots=True)
class Issues:
    """A batch of tickers; every array has shape (n,), or (n, years) where it says so.

    Attributes:
        level: log price of the first session, before noise.
        drift: log price gained a session.
        sigma: standard deviation of a session's log return.
        shares: log of a usual session's volume.
        lot: shares a trade.
        halts, idle: chance of a session without a bar, and of one without a trade.
        listed, delisted: the first session's number, and the first one after the last.
        split_at: (n, years) session number of the year's split, or never.
        split_from, split_to: (n, years) its ratio.
        scale: (n, years) product of from/to over the splits of earlier years.
    """

    tickers: tuple[str, ...]
    hours: Hours
    hashes: Hashes
    level: Floats
    drift: Floats
    sigma: Floats
    shares: Floats
    lot: Floats
    halts: Floats
    idle: Floats
    listed: Ints
    delisted: Ints
    split_at: Ints
    split_from: Ints
    split_to: Ints
    scale: Floats

    def economic_level(self, at: Ints, shortest: int = 1, rows: Ints | slice = _ALL) -> Floats:
        """Log price at the close of sessions ``at`` (of the tickers ``rows``), as if no split had ever happened."""
        noise = hashing.walk(self.hashes[rows], _STREAM_LEVEL, at, shortest)
        out: Floats = self.level[rows] + self.drift[rows] * at + self.sigma[rows] * noise
        return out

    def split_scale(self, at: Ints, rows: Ints | int | None = None) -> Floats:
        """What one original share's price is multiplied by in the quotes of sessions ``at`` (of ``rows``)."""
        year = _years(self.hours)[at]
        if rows is None:
            rows = np.arange(len(self.tickers)) if np.ndim(at) == 0 else 0
        this_year = np.where(
            self.split_at[rows, year] <= at, self.split_from[rows, year] / self.split_to[rows, year], 1.0
        )
        out: Floats = self.scale[rows, year] * this_year
        return out


def issues(tickers: Sequence[str], asset: str, seed: int) -> Issues:
    """The traits of ``tickers``, all of one asset class."""
    span = hours(asset)
    names = tuple(tickers)
    hashes = hashing.ticker_hashes(names, seed)

    def draw(trait: int) -> Floats:
        return hashing.uniform(hashes, _STREAM_TRAITS, np.array(trait))

    stock = asset == "stocks"
    members = set(core())
    steady = np.array([not stock or t in members or t.startswith(OWN) for t in names], bool)
    first = int(np.searchsorted(span.sessions, FIRST_BAR))
    newest = int(np.searchsorted(span.sessions, np.datetime64("2026-01-01")))

    late = ~steady & (draw(0) < 0.25)
    listed = np.where(late, first + (draw(1) * (newest - first)).astype(np.int64), first)
    gone = ~steady & (draw(2) < 0.03)
    delisted = np.where(gone, listed + 60 + (draw(3) * (newest - listed)).astype(np.int64), _NEVER)

    sigma = np.where(steady, 0.008 + 0.014 * draw(4), 0.012 + 0.03 * draw(4))
    shares = np.where(steady, np.log(4e5) + draw(5) * np.log(150), np.log(3e3) + draw(5) ** 1.5 * np.log(1500))
    level = np.where(steady, np.log(12) + draw(6) * np.log(15), np.log(2) + draw(6) * np.log(40))
    drift = (-0.02 + 0.12 * draw(7)) / 252
    if asset == "fx":
        sigma, drift, level = sigma * 0.2, drift * 0.0, np.log(0.6) + draw(6) ** 4 * np.log(250)
    if asset == "crypto":
        sigma, shares = sigma * 2.0, np.log(2e3) + draw(5) * np.log(1e4)

    bare = Issues(
        names,
        span,
        hashes,
        level,
        drift,
        sigma,
        shares,
        lot=60 + 240 * draw(8),
        halts=np.where(steady, 2e-6 if stock else 0.0, 1.5e-3),
        idle=np.where(steady, 0.0, np.where(draw(9) < 0.2, 0.035, 0.0)),
        listed=listed,
        delisted=delisted,
        split_at=(none := np.full((len(names), int(_years(span)[-1]) + 1), _NEVER)),
        split_from=np.ones_like(none),
        split_to=np.ones_like(none),
        scale=np.ones(none.shape),
    )
    if stock and not names[0].startswith(OWN):  # a scripted instrument splits when the script says so
        _split(bare, steady)
    return bare


def _split(batch: Issues, steady: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
    """Fill in at most one split a year: a dear share divides, a cheap one consolidates, a few are whims."""
    every = np.arange(batch.split_at.shape[1])
    first, after = (np.searchsorted(_years(batch.hours), every + shift) for shift in (0, 1))

    def draw(part: int) -> Floats:
        return hashing.uniform(batch.hashes[:, None], _STREAM_SPLIT, every * 8 + part)

    # All the years at once: one numpy call on a table is as quick as one on a single ticker's year.
    noise = hashing.walk(batch.hashes[:, None], _STREAM_LEVEL, first, shortest=64)
    unsplit = np.exp(batch.level[:, None] + batch.drift[:, None] * first + batch.sigma[:, None] * noise)
    luck, turn, which = draw(0), draw(1) < 0.35, draw(2)
    at = first + (draw(3) * (after - first)).astype(np.int64)
    listed = (at > batch.listed[:, None]) & (at < batch.delisted[:, None])
    forward, steep, reverse = (_pick(ratios, which) for ratios in (_FORWARD, _STEEP, _REVERSE))

    scale = np.ones(len(batch.tickers))
    for year in every.tolist():
        price = unsplit[:, year] * scale
        very, dear, cheap = price > 600, price > 150, price < 1.5
        chance = np.where(very, 0.25, np.where(dear, 0.08, np.where(cheap, 0.12, 0.012)))
        happens = (luck[:, year] < chance) & ~(steady & cheap) & listed[:, year]
        consolidates = cheap | (~dear & ~steady & turn[:, year])
        ratio = np.where(
            consolidates[:, None], reverse[:, year], np.where(very[:, None], steep[:, year], forward[:, year])
        )
        ratio = np.where(happens[:, None], ratio, 1)
        batch.scale[:, year] = scale
        batch.split_at[:, year] = np.where(happens, at[:, year], _NEVER)
        batch.split_from[:, year], batch.split_to[:, year] = ratio.T
        scale = scale * ratio[:, 0] / ratio[:, 1]


def _pick(ratios: tuple[tuple[int, int], ...], draw: Floats) -> Ints:
    """One of the ratios for each draw; the last axis holds (split_from, split_to)."""
    return np.array(ratios, np.int64)[(draw * len(ratios)).astype(np.int64)]


@cache
def _years(span: Hours) -> Ints:
    """Each session's year, counted from the first."""
    years = span.sessions.astype("M8[Y]").astype(np.int64)
    out: Ints = years - years[0]
    return out
