"""The generated market's bars as the vendor's flat files: one gzipped CSV a session, every ticker in it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import pairwise
from typing import Any, Final

import numpy as np

from closingbell.bars import Bars
from infra.market.generated import Generated
from infra.market.hours import midnights

#: The vendor's columns, in its order; there is no vwap.
HEADER: Final = "ticker,volume,open,close,high,low,window_start,transactions\n"

_GZIP: Final = 16 + zlib.MAX_WBITS

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


def minute_files(market: Generated, tickers: Iterable[str], first: date, last: date) -> dict[date, bytes]:
    """The minutes of every session from ``first`` to ``last``, by ticker and time: ``us_stocks_sip/minute_aggs_v1``."""
    blocks = (market.minutes(ticker, np.datetime64(first), np.datetime64(last)) for ticker in sorted(tickers))
    return _files((bars, bars.rows["ts"].astype(np.int64) * 1_000) for bars in blocks)


def day_files(market: Generated, tickers: Iterable[str], first: date, last: date) -> dict[date, bytes]:
    """The same for daily bars, each of which begins at midnight in New York: ``us_stocks_sip/day_aggs_v1``."""
    blocks = (market.days(ticker, np.datetime64(first), np.datetime64(last)) for ticker in sorted(tickers))
    return _files((bars, midnights("stocks", bars.rows["session"]) * 1_000_000) for bars in blocks)


def _files(blocks: Iterable[tuple[Bars, Ints]]) -> dict[date, bytes]:
    """Files of blocks of one ticker each, with the first instants of their bars in ns since 1970."""
    zips: dict[date, Any] = {}
    parts: dict[date, list[bytes]] = {}
    for bars, stamps in blocks:
        starts = np.flatnonzero(np.diff(bars.rows["session"], prepend=np.datetime64(0, "D")))
        lines = list(_lines(bars, stamps))
        for begin, end in pairwise([*starts, len(lines)]):
            session = bars.rows["session"][begin].item()
            if session not in zips:
                zips[session] = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
                parts[session] = [zips[session].compress(HEADER.encode())]
            parts[session].append(zips[session].compress("".join(lines[begin:end]).encode()))
    return {session: b"".join([*parts[session], zips[session].flush()]) for session in sorted(zips)}


def _lines(bars: Bars, stamps: Ints) -> Iterator[str]:
    ticker, rows = bars.tickers[0], bars.rows
    prices = (rows[name].tolist() for name in ("volume", "open", "close", "high", "low"))
    trades = np.maximum(rows["trades"], 0).tolist()
    for volume, open_, close, high, low, stamp, count in zip(*prices, stamps.tolist(), trades, strict=True):
        shown = repr(volume).removesuffix(".0")
        yield f"{ticker},{shown},{open_!r},{close!r},{high!r},{low!r},{stamp},{count}\n"
