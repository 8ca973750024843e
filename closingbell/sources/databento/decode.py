"""DBN -> bars, in columns: no row is looked at by itself.

A record of the ohlcv schemas has 56 bytes: ``ts_event`` (uint64, ns since 1970, UTC) is the bar's open, prices are
int64 in units of 1e-9, the largest int64 stands for "none", volume is uint64. A continuous symbol's ``instrument_id``
changes where it rolls.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import BAR, NO_TRADES, Bars, Roll
from closingbell.calendar import Calendar
from closingbell.errors import UnknownTickerError
from closingbell.sources.databento.client import Span
from closingbell.sources.databento.errors import malformed

#: A price is a whole number of these.
SCALE: Final = 1e9

#: Stands for a price that there is none of.
UNDEFINED: Final = np.iinfo(np.int64).max

#: The record type of each schema.
_RTYPES: Final = {"ohlcv-1m": 33, "ohlcv-1h": 34, "ohlcv-1d": 35}

_PRICES: Final = ("open", "high", "low", "close")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A span's bars, and where the symbol rolled.

    Attributes:
        bars: of the one ticker, ascending by ``ts``; an undefined price is NaN.
        rolls: the instrument at the first bar, and each other one at its first.
    """

    bars: Bars
    rolls: tuple[Roll, ...]


def decode(store: Any, span: Span, timeframe: str, calendar: Calendar) -> Decoded:
    """The bars of an answer.

    Args:
        store: the client's, of one schema.
        span: what was asked.
        timeframe: of the bars.
        calendar: tells the session of each.

    Raises:
        MalformedResponseError: it is truncated, or of another dataset, schema or symbol.
        UnknownTickerError: the vendor says that there is no such symbol.
    """
    _check(store, span)
    records = _records(store, span)
    records = records[np.argsort(records["ts_event"], kind="stable")]
    rows = np.empty(len(records), BAR)
    rows["ticker"] = 0
    ts = (records["ts_event"] // 1_000).astype(np.int64).view("M8[us]")
    rows["ts"] = ts
    if timeframe == "1d":  # the vendor's days are those of UTC
        rows["session"] = ts.astype("M8[D]")
        known = calendar.is_session(rows["session"])
        rows["ts"][known] = calendar.opens(rows["session"][known])
    else:
        rows["session"] = calendar.session_of(ts)
    for name in _PRICES:
        rows[name] = np.where(records[name] == UNDEFINED, np.nan, records[name] / SCALE)
    rows["volume"] = records["volume"]
    rows["vwap"] = np.nan
    rows["trades"] = NO_TRADES
    ticker = span.symbol.ticker
    return Decoded(Bars((ticker,), rows, timeframe), _rolls(ticker, records["instrument_id"], rows))


def _check(store: Any, span: Span) -> None:
    """Whether the answer says of itself that it is what was asked, whole."""
    metadata = store.metadata
    if span.symbol.ticker in metadata.not_found:
        raise UnknownTickerError("the vendor knows no such symbol", value=span, fix="Check root, rule and rank")
    told = (str(metadata.dataset), str(metadata.schema), list(metadata.symbols))
    asked = (span.symbol.dataset, span.schema, [span.symbol.ticker])
    if told != asked:
        raise malformed(f"it is of {told[0]} {told[1]} {', '.join(told[2][:3])}", str(span))


def _records(store: Any, span: Span) -> NDArray[np.void]:
    size = _size(store.raw, str(span))
    records: NDArray[np.void] = store.to_ndarray().ravel()  # of none, the client's shape is (0, 1)
    if size != len(records) * records.itemsize:
        raise malformed("it ends inside a record", str(span))
    if (records["rtype"] != _RTYPES[span.schema]).any():
        raise malformed("it has records of another type", str(span))
    return records


def _size(raw: bytes, subject: str) -> int:
    """Bytes of the records in a body. One that ends inside a frame of zstd is refused: the client takes that for the
    end."""
    import zstandard

    head, size, left = b"", 0, raw
    while left:
        decompressor = zstandard.ZstdDecompressor().decompressobj()
        try:
            part = decompressor.decompress(left)
        except zstandard.ZstdError:
            raise malformed("it is no zstd", subject) from None
        if not decompressor.eof:
            raise malformed("it is cut off", subject)
        head, size = head or part[:8], size + len(part)
        left = decompressor.unused_data
    return size - 8 - int.from_bytes(head[4:8], "little")  # "DBN", the version, the length of the metadata


def _rolls(ticker: str, instruments: NDArray[np.uint32], rows: NDArray[np.void]) -> tuple[Roll, ...]:
    """The first bar of each run of one instrument; shape of both: (n,)."""
    if not len(instruments):
        return ()
    at = np.flatnonzero(np.concatenate([[True], instruments[1:] != instruments[:-1]]))
    ids, when, days = instruments[at].tolist(), rows["ts"][at].tolist(), rows["session"][at].tolist()
    return tuple(_roll(ticker, day, ts, number) for number, ts, day in zip(ids, when, days, strict=True))


def _roll(ticker: str, session: date, ts: datetime, instrument: int) -> Roll:
    return Roll(ticker, session, np.datetime64(ts, "us"), instrument)
