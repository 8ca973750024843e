"""Coverage: the state of every cell of some tickers, as one array and as a heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from closingbell.calendar import AssetClass, asset_class, calendar_for
from closingbell.cells import REASONS, Cells, in_blocks, positions
from closingbell.errors import ConfigurationError
from closingbell.pictures.heat import Geometry, heat_map
from closingbell.pictures.png import Png
from closingbell.pictures.states import CELLS, CODES, STATES
from closingbell.store import pictured

Days = NDArray[np.datetime64]

#: So many times as much as a cell does a gap take while it is put in its place.
_A_GAP: Final = 32

#: The code of each reason of a gap, in the order of :data:`closingbell.cells.REASONS`.
_OF_REASON: Final = np.array([CODES[reason] for reason in REASONS], np.uint8)


@dataclass(frozen=True)
class Coverage:
    """The state of every cell of some tickers.

    Attributes:
        source: whose ledger it is.
        timeframe: of the bars.
        tickers: n tickers.
        sessions: shape (m,), datetime64[D], ascending: every session of any ticker's calendar.
        states: shape (n, m), uint8: positions in :data:`closingbell.pictures.states.STATES`.
        as_of: the instant at which the database was read, aware.
        verified: whether each cell was held against the bars; else it is as the ledger has it.
    """

    source: str
    timeframe: str
    tickers: tuple[str, ...]
    sessions: Days
    states: NDArray[np.uint8]
    as_of: datetime
    verified: bool = True

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many cells are in each state, without those that are in none."""
        found = np.zeros(len(STATES), np.int64)
        n, m = self.states.shape
        for some in in_blocks(n, 8 * m):  # it makes a copy, eight bytes a cell
            found += np.bincount(self.states[some].ravel(), minlength=len(STATES))
        return {state.name: int(found[CODES[state.name]]) for state in CELLS}

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return sum(self.counts.values())

    @property
    def first(self) -> date | None:
        """The first session; None: there is none."""
        return self.sessions[0].item() if len(self.sessions) else None

    @property
    def last(self) -> date | None:
        """The last session."""
        return self.sessions[-1].item() if len(self.sessions) else None

    @property
    def title(self) -> str:
        """Tickers, timeframe and span."""
        plural = "" if len(self.tickers) == 1 else "s"
        span = f", {self.first} to {self.last}" if self.first != self.last else f", {self.first}"
        return f"Coverage of {len(self.tickers):,} ticker{plural}, {self.timeframe}{span if self.first else ''}"

    @property
    def subtitle(self) -> str:
        """Source, moment, and how much of it is stored."""
        held = "" if self.verified else ", by the ledger"
        return f"{self.source}, as of {self.as_of:%Y-%m-%d %H:%M} UTC. {self.sums}{held}"

    @property
    def sums(self) -> str:
        """The cells and how many of them are stored, in words; a share is never rounded up to all."""
        counts = self.counts
        whole = sum(counts.values())
        if not whole:
            return "No cell"
        share = np.floor(1000 * counts["stored"] / whole) / 10
        return f"{whole:,} cells, {share:g} % stored"

    def as_dict(self) -> dict[str, Any]:
        """The numbers behind the picture, and of each ticker with a cell that is neither stored nor empty."""
        return {
            "source": self.source,
            "timeframe": self.timeframe,
            "tickers": len(self.tickers),
            "sessions": len(self.sessions),
            "first_session": self.first,
            "last_session": self.last,
            "as_of": self.as_of.isoformat(),
            "verified": self.verified,
            "cells": self.cells,
            "states": self.counts,
            "open": self.open(),
        }

    def open(self, limit: int | None = None) -> dict[str, dict[str, int]]:
        """The tickers with a cell that is neither stored nor empty, most such cells first, and how many in each state.

        Args:
            limit: so many at most.
        """
        trouble = [CODES[name] for name in ("unexplained", "failed", "quarantined", "unentitled", "pending",
                                            "unpublished")]  # fmt: skip
        per_ticker = np.stack([np.count_nonzero(self.states == code, axis=1) for code in trouble])
        whole = per_ticker.sum(axis=0)
        order = [i for i in np.argsort(-whole, kind="stable").tolist() if whole[i]]
        return {
            self.tickers[i]: {
                STATES[code].name: int(count) for code, count in zip(trouble, per_ticker[:, i], strict=True) if count
            }
            for i in order[:limit]
        }

    def png(self, *, width: int = 1100, height: int = 1080, scale: int = 2, least: int = 2) -> Png:
        """The heat map; see :func:`closingbell.pictures.heat.heat_map`."""
        return self.drawn(width=width, height=height, scale=scale, least=least)[0]

    def drawn(self, *, width: int = 1100, height: int = 1080, scale: int = 2, least: int = 2) -> tuple[Png, Geometry]:
        """The heat map, and where in it the cells are."""
        return heat_map(
            self.states,
            self.tickers,
            self.sessions,
            self.title,
            self.subtitle,
            self.counts,
            width=width,
            height=height,
            scale=scale,
            least=least,
        )


def read(
    engine: sa.Engine,
    source: str,
    timeframe: str,
    as_of: datetime,
    tickers: Sequence[str] | None = None,
    first: date | None = None,
    last: date | None = None,
    *,
    verified: bool = True,
) -> Coverage:
    """The coverage of some tickers.

    Args:
        engine: of a store.
        source: the vendor, by its name in the tables.
        timeframe: of the bars.
        as_of: the present instant, aware; it only says when the picture was made.
        tickers: whose; None: of all that have a watermark.
        first: the first session; None: the first that was ever asked for.
        last: the last one; None: the last that was.
        verified: hold every cell against the bars as well; else what the ledger says is believed.

    Raises:
        ConfigurationError: ``last`` is before ``first``, or a date that the calendar does not know.
    """
    if first is not None and last is not None and last < first:
        fix = "Give a start on or before the end."
        raise ConfigurationError("there is no session to show", value=f"{first}..{last}", fix=fix)
    found = pictured.standing(engine, source, timeframe, tickers, first, last, verified=verified)
    return of_standing(found, source, timeframe, as_of, verified=verified)


def of_standing(
    found: pictured.Standing,
    source: str,
    timeframe: str,
    as_of: datetime,
    *,
    verified: bool,
    asked: Sequence[Cells] | None = None,
) -> Coverage:
    """The coverage that a ledger tells of: set arithmetic, no query.

    Args:
        found: the ledger.
        source: whose it is.
        timeframe: of the bars.
        as_of: when it was read.
        verified: whether ``found.wrong`` was looked for.
        asked: only these cells; None: every session of each ticker's calendar.
    """
    sessions, masks = _sessions(found, asked)
    states = np.zeros(masks.shape, np.uint8)
    never = np.datetime64("9999-12-31")
    marks = [found.marks.get(ticker) for ticker in found.tickers]
    begins = np.array([mark.first if mark else never for mark in marks], "M8[D]")[:, None]
    ends = np.array([mark.last if mark else begins[0, 0] for mark in marks], "M8[D]")[:, None] if marks else begins
    n, m = masks.shape
    for some in in_blocks(n, 4 * m):  # as many masks at once
        spanned = (sessions >= begins[some]) & (sessions <= ends[some])
        states[some] = np.where(spanned, np.uint8(CODES["stored"]), np.uint8(CODES["not asked for"])) * masks[some]
    for some in in_blocks(len(found.days), _A_GAP) if len(sessions) else ():
        named, days = found.rows[some], found.days[some].astype("M8[D]")
        there = np.minimum(np.searchsorted(sessions, days), len(sessions) - 1)
        inside = (sessions[there] == days) & masks[named, there]
        states[named[inside], there[inside]] = _OF_REASON[found.reasons[some][inside]]
    rows, columns = positions(found.tickers, sessions, found.wrong)
    inside = masks[rows, columns]
    states[rows[inside], columns[inside]] = CODES["unexplained"]
    return Coverage(source, timeframe, found.tickers, sessions, states, as_of, verified)


def _sessions(found: pictured.Standing, asked: Sequence[Cells] | None) -> tuple[Days, NDArray[np.bool_]]:
    """Every session of any ticker, and which are whose; shapes (m,) and (n, m)."""
    parts: list[tuple[Sequence[str], Days, NDArray[np.bool_] | None]]
    if asked is not None:
        parts = [(cells.tickers, cells.sessions, cells.mask) for cells in asked]
    elif found.first is None or found.last is None:
        parts = []
    else:
        parts = [
            (tickers, calendar_for(name).sessions(found.first, found.last), None)
            for name, tickers in _by_calendar(found.tickers).items()
        ]
    if len(parts) == 1 and tuple(parts[0][0]) == found.tickers:
        (_, sessions, mask), shape = parts[0], (len(found.tickers), len(parts[0][1]))
        return sessions, np.broadcast_to(True, shape) if mask is None else mask
    days = [sessions for _, sessions, _ in parts]
    union = np.unique(np.concatenate(days)) if days else np.zeros(0, "M8[D]")
    row = {ticker: i for i, ticker in enumerate(found.tickers)}
    masks = np.zeros((len(found.tickers), len(union)), np.bool_)
    for tickers, sessions, mask in parts:
        places = np.ix_(np.array([row[ticker] for ticker in tickers], np.intp), np.searchsorted(union, sessions))
        masks[places] = True if mask is None else mask
    return union, masks


def _by_calendar(tickers: Sequence[str]) -> Mapping[AssetClass, list[str]]:
    """The tickers of each calendar; whatever else stands in the tables, such as an index, is shown with the stocks."""
    found: dict[AssetClass, list[str]] = {}
    for ticker in tickers:
        found.setdefault(asset_class(ticker) if pictured.has_calendar(ticker) else "stocks", []).append(ticker)
    return found
