"""The vendor's JSON, decoded straight into typed rows and from there into columns.

Field by field as the vendor's answers show them. ``v`` may be fractional and in exponent form, and with it any other
number, so all are read as floats; instants in milliseconds stay exact (below 2**53). ``vw`` and ``n`` may be absent.
A number sent as a string is refused. An absent or null price is not: it becomes NaN, for the quality rules to judge,
since a row lost here would be a row lost without a trace.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Final, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct, field
from numpy.typing import NDArray

from closingbell.bars import BAR, NO_TRADES
from closingbell.errors import MalformedResponseError

#: Milliseconds since 1970, up to the year 2286: an instant in other units is noticed, and never overflows.
Milliseconds = Annotated[float, Meta(ge=0, le=1e13)]
Count = Annotated[float, Meta(ge=0, le=2.0**53)]
#: Of rows. Without a bound, a number of a million digits would be read, and could not even be shown.
Rows = Annotated[int, Meta(le=2**53)]


class Row(Struct, gc=False):
    """One bar: open, high, low, close, volume, volume-weighted average price, number of trades; ``t`` its instant."""

    t: Milliseconds
    o: float | None = None
    h: float | None = None
    l: float | None = None  # noqa: E741 - the vendor's name
    c: float | None = None
    v: float | None = None
    vw: float | None = None
    n: Count | None = None


class TickerRow(Row, gc=False, kw_only=True):
    """One bar of a market day, with its ticker."""

    T: str


class Envelope(Struct):
    """What surrounds every answer's results; ``error`` and ``message`` come with a bad status."""

    status: str | None = None
    next_url: str | None = None
    error: str | None = None
    message: str | None = None


class BarsEnvelope(Envelope):
    """What surrounds the rows of a range or a market day."""

    ticker: str | None = None
    queryCount: Rows | None = None  # noqa: N815 - the vendor's name
    resultsCount: Rows | None = None  # noqa: N815 - the vendor's name
    adjusted: bool | None = None


class RangeBody(BarsEnvelope):
    """``/v2/aggs/ticker/{ticker}/range/...``."""

    results: list[Row] | None = None


class MarketDayBody(BarsEnvelope):
    """``/v2/aggs/grouped/...``: no ticker above, one in each row."""

    results: list[TickerRow] | None = None


Shares = Annotated[float, Meta(gt=0)]


class SplitRow(Struct):
    """One split: ``split_from`` old shares became ``split_to`` new ones."""

    ticker: str
    execution_date: date
    split_from: Shares
    split_to: Shares
    id: str | None = None


class SplitsBody(Envelope):
    """``/v3/reference/splits``: without counts, so that ``results`` itself is the evidence of emptiness."""

    results: list[SplitRow] | None = None


class DividendRow(Struct):
    """One dividend of ``cash_amount`` a share. The question is by ex-date, so a row without one is no answer to it."""

    ticker: str
    ex_dividend_date: date
    cash_amount: Annotated[float, Meta(ge=0)]
    currency: str | None = None
    dividend_type: str | None = None
    pay_date: date | None = None
    id: str | None = None


class DividendsBody(Envelope):
    """``/v3/reference/dividends``: as for splits, ``results`` is the evidence of emptiness."""

    results: list[DividendRow] | None = None


class NewTicker(Struct):
    """What a ticker changed to."""

    ticker: Annotated[str, Meta(min_length=1)]


class Event(Struct):
    """Something that happened to an instrument; only a ``type`` of ``ticker_change`` has a ``ticker_change``."""

    type: str = ""
    day: date | None = field(name="date", default=None)
    ticker_change: NewTicker | None = None


class Instrument(Struct):
    """Whose events they are. FIGI and CIK are absent where the vendor does not know them."""

    name: str | None = None
    composite_figi: str | None = None
    cik: str | None = None
    events: list[Event] = []


class EventsBody(Envelope):
    """``/vX/reference/tickers/{ticker}/events``."""

    results: Instrument | None = None


Body = TypeVar("Body", RangeBody, MarketDayBody, SplitsBody, DividendsBody, EventsBody)

_DECODERS: Final = {
    kind: msgspec.json.Decoder(kind) for kind in (RangeBody, MarketDayBody, SplitsBody, DividendsBody, EventsBody)
}


def decode(data: bytes, kind: type[Body], subject: str) -> Body:
    """Read a body.

    Args:
        data: the whole body.
        kind: what it should be.
        subject: what was asked, for the error's text.

    Raises:
        MalformedResponseError: it is not JSON, not of this kind, or has its results more than once.
    """
    try:
        # A byte order mark changes nothing of what follows (RFC 8259, 8.1).
        body = _DECODERS[kind].decode(data.removeprefix(codecs.BOM_UTF8))
    except msgspec.ValidationError as error:
        problem, what = str(error), "the answer has a field of the wrong type"
    except RecursionError:
        problem, what = "brackets in brackets without end", "the answer is nested too deep"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        begins = data[:40].decode("ascii", "replace") if data else "nothing"
        problem, what = f"{error}; it begins {begins!r}", "the answer is not valid JSON"
    else:
        if data.count(b'"results"') <= 1:
            return body  # type: ignore[return-value]
        # Of two lists of one name the decoder keeps the last: the rows of the first would be lost without a trace.
        problem, what = "the name is there more than once", "the answer has more than one list of results"
    raise MalformedResponseError(what, value=f"{subject}: {problem}", fix="Ask again")


def columns(rows: Sequence[Row]) -> NDArray[np.void]:
    """The rows as an array of dtype :data:`~closingbell.bars.BAR`, shape (n,).

    ``ts`` is the vendor's instant in UTC, ``ticker`` 0 and ``session`` NaT: the caller knows better.
    """
    block = np.empty(len(rows), BAR)
    block["ticker"] = 0
    block["session"] = np.datetime64("NaT")
    block["ts"] = np.array([row.t for row in rows], np.float64).astype(np.int64).astype("M8[ms]")
    # numpy reads None as NaN.
    block["open"] = np.array([row.o for row in rows], np.float64)
    block["high"] = np.array([row.h for row in rows], np.float64)
    block["low"] = np.array([row.l for row in rows], np.float64)
    block["close"] = np.array([row.c for row in rows], np.float64)
    block["volume"] = np.array([row.v for row in rows], np.float64)
    block["vwap"] = np.array([row.vw for row in rows], np.float64)
    block["trades"] = np.array([NO_TRADES if row.n is None else row.n for row in rows], np.float64).astype(np.int64)
    return block
