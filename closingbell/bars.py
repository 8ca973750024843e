"""The column block that every stage hands on: decode -> check -> load.

One numpy structured array holds the numbers; tickers are stored once and referred to by position, so a
block of 11,000 tickers by one session costs as little as one ticker by 11,000 minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Stands for "the vendor sent no trade count"; a real count is never negative.
NO_TRADES: Final = -1

#: One bar. ``ticker`` is a position in :attr:`Bars.tickers`; ``session`` is a date of the ticker's calendar;
#: ``ts`` is the UTC instant at which the bar opens; an absent price, volume or vwap is NaN, an absent trade
#: count is :data:`NO_TRADES`.
BAR: Final = np.dtype(
    [
        ("ticker", np.int32),
        ("session", "M8[D]"),
        ("ts", "M8[us]"),
        ("open", np.float64),
        ("high", np.float64),
        ("low", np.float64),
        ("close", np.float64),
        ("volume", np.float64),
        ("vwap", np.float64),
        ("trades", np.int64),
    ]
)

#: The measured columns, in table order.
VALUES: Final = ("open", "high", "low", "close", "volume", "vwap", "trades")

TIMEFRAMES: Final = ("1d", "1h", "30m", "15m", "5m", "1m")


@dataclass(frozen=True, slots=True)
class Roll:
    """From the bar at ``ts`` on, a continuous symbol stands for this instrument.

    Attributes:
        ticker: the symbol, ``NQ.v.0``.
        session: that bar's.
        ts: that bar's open, datetime64[us], UTC.
        instrument_id: the vendor's number of the contract, at that time.
    """

    ticker: str
    session: date
    ts: np.datetime64
    instrument_id: int


@dataclass(frozen=True, slots=True)
class Bars:
    """A block of bars of one timeframe.

    Attributes:
        tickers: the tickers that rows refer to, as the vendor writes them.
        rows: shape (n,), dtype :data:`BAR`.
        timeframe: one of :data:`TIMEFRAMES`.
    """

    tickers: tuple[str, ...]
    rows: NDArray[np.void] = field(default_factory=lambda: np.empty(0, BAR))
    timeframe: str = "1d"

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, mask: NDArray[np.bool_]) -> Bars:
        """The rows for which ``mask`` (shape (n,)) is true, of the same tickers; this very block if all are."""
        return self if mask.all() else Bars(self.tickers, self.rows[mask], self.timeframe)

    def only(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Bars:
        """Some rows, by a mask or their positions, of no other tickers than theirs."""
        kept = self.rows[rows].copy()
        used, kept["ticker"] = np.unique(kept["ticker"], return_inverse=True)
        return Bars(tuple(self.tickers[i] for i in used), kept, self.timeframe)

    @classmethod
    def concat(cls, blocks: Iterable[Bars]) -> Bars:
        """One block from many of one timeframe; tickers are renumbered, rows keep their order. Of one, that very block.

        Raises:
            ValueError: the blocks are of different timeframes, or there is none.
        """
        parts = list(blocks)
        if len({part.timeframe for part in parts}) != 1:
            raise ValueError(f"cannot join blocks of timeframes {sorted({p.timeframe for p in parts})}")
        if len(parts) == 1:
            return parts[0]
        number: dict[str, int] = {}
        joined = np.empty(sum(map(len, parts)), BAR)
        end = 0
        for part in parts:
            positions = np.array([number.setdefault(t, len(number)) for t in part.tickers], np.int32)
            rows = joined[end : end + len(part)]
            end += len(part)
            if len(part):
                rows[:] = part.rows
                rows["ticker"] = positions[part.rows["ticker"]]
        return cls(tuple(number), joined, parts[0].timeframe)
