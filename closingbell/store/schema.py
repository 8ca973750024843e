"""The tables, in SQLAlchemy Core: one definition for every statement that is not on the hot path.

The database gets them through the migrations in ``infra/migrations``; a test holds the two together.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

metadata = sa.MetaData()

#: The table that says which migration a database is at. Nobody but the migrations writes there.
VERSION: Final = "alembic_version"


class Ticker(sa.String):
    """A ticker: case-sensitive, compared and sorted byte by byte, whatever the database's own collation."""

    def __init__(self, length: int = 32) -> None:
        super().__init__(length)


class Json(sa.JSON):
    """A value in JSON; None is NULL, not JSON's own null."""

    def __init__(self) -> None:
        super().__init__(none_as_null=True)


_SHORT: Final = sa.String(16)
_INSTANT: Final = sa.DateTime(timezone=True)

#: For texts that are there even when they are empty. Oracle takes an empty text for NULL: there, NULL is allowed.
MAY_BE_EMPTY: Final = {"may_be_empty": True}


def _now(name: str, comment: str | None = None) -> sa.Column[datetime]:
    """An instant that is the present where a statement names none.

    PostgreSQL's tables say so themselves. Oracle's do not, for there the present is that of the session's time zone:
    what writes rows there in other ways than SQLAlchemy's ``insert`` names every instant.
    """
    return sa.Column(
        name, _INSTANT, nullable=False, default=sa.func.now(), server_default=sa.func.now(), comment=comment
    )


def _values(prefix: str = "") -> list[sa.Column[Any]]:
    """The measured columns of a bar. Volume is fractional; vwap and trades may be absent."""
    names = ("open", "high", "low", "close", "volume", "vwap")
    columns: list[sa.Column[Any]] = [sa.Column(prefix + name, sa.Double()) for name in names]
    return [*columns, sa.Column(prefix + "trades", sa.BigInteger())]


def _required(columns: list[sa.Column[Any]]) -> list[sa.Column[Any]]:
    for column in columns:
        column.nullable = column.name in ("vwap", "trades")
    return columns


bar = sa.Table(
    "bar",
    metadata,
    sa.Column("ticker", Ticker, primary_key=True),
    sa.Column("timeframe", sa.String(4), primary_key=True),
    sa.Column("session", sa.Date, nullable=False),
    sa.Column("ts", _INSTANT, primary_key=True, comment="UTC instant at which the bar opens"),
    *_required(_values()),
    sa.Column("source", _SHORT, nullable=False),
    sa.Column("run_id", sa.Uuid, nullable=False, comment="the run that last wrote the row"),
    postgresql_partition_by="LIST (timeframe)",  # and those of intraday bars by ts: partitions.py
)

watermark = sa.Table(
    "watermark",
    metadata,
    sa.Column("source", _SHORT, primary_key=True),
    sa.Column("ticker", Ticker, primary_key=True),
    sa.Column("timeframe", sa.String(4), primary_key=True),
    sa.Column("first_session", sa.Date, nullable=False),
    sa.Column("last_session", sa.Date, nullable=False, comment="first..last is all accounted for, inclusive"),
    sa.Column("run_id", sa.Uuid, nullable=False),
)

gap = sa.Table(
    "gap",
    metadata,
    sa.Column("source", _SHORT, primary_key=True),
    sa.Column("ticker", Ticker, primary_key=True),
    sa.Column("timeframe", sa.String(4), primary_key=True),
    sa.Column("session", sa.Date, primary_key=True),
    sa.Column("reason", _SHORT, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("last_error", sa.String(500)),
    sa.Column("run_id", sa.Uuid, nullable=False),
    _now("updated_at"),
    sa.CheckConstraint(
        "reason IN ('empty', 'unpublished', 'unentitled', 'failed', 'quarantined', 'pending')", name="gap_reason"
    ),
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("source", _SHORT, primary_key=True),
    sa.Column("ticker", Ticker, primary_key=True),
    sa.Column("timeframe", sa.String(4), primary_key=True),
    sa.Column("ts", _INSTANT, primary_key=True),
    sa.Column("copy", sa.SmallInteger, primary_key=True, comment="counts bars of one instant in one answer"),
    sa.Column("session", sa.Date, nullable=False),
    sa.Column("rule", sa.String(40), nullable=False),
    *_values(),
    sa.Column("run_id", sa.Uuid, nullable=False),
    _now("seen_at"),
    sa.Column("message", sa.String(500), comment="what the database said when it refused"),
)

revision = sa.Table(
    "revision",
    metadata,
    sa.Column("revision_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("source", _SHORT, nullable=False),
    sa.Column("ticker", Ticker, nullable=False),
    sa.Column("timeframe", sa.String(4), nullable=False),
    sa.Column("session", sa.Date, nullable=False),
    sa.Column("ts", _INSTANT, nullable=False),
    *_values("old_"),
    *_values("new_"),
    sa.Column("run_id", sa.Uuid, nullable=False, comment="the run that saw the new values"),
    _now("seen_at"),
    sa.Column("old_run_id", sa.Uuid, comment="the run that had written the old values"),
    sa.Index("revision_of_bar", "ticker", "timeframe", "ts"),
)

split = sa.Table(
    "split",
    metadata,
    sa.Column("source", _SHORT, primary_key=True),
    sa.Column("ticker", Ticker, primary_key=True),
    sa.Column("execution_date", sa.Date, primary_key=True),
    sa.Column("split_from", sa.Double, nullable=False),
    sa.Column("split_to", sa.Double, nullable=False),
    sa.Column("vendor_id", sa.String(100)),
    sa.Column("run_id", sa.Uuid, nullable=False),
    _now("seen_at"),
    sa.Column("known_from", _INSTANT, nullable=False, comment="since when this version could be known"),
    sa.Index("split_of_ticker", "ticker"),
)

split_revision = sa.Table(
    "split_revision",
    metadata,
    sa.Column("revision_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("source", _SHORT, nullable=False),
    sa.Column("ticker", Ticker, nullable=False),
    sa.Column("execution_date", sa.Date, nullable=False),
    sa.Column("old_split_from", sa.Double, nullable=False),
    sa.Column("old_split_to", sa.Double, nullable=False),
    sa.Column("new_split_from", sa.Double, comment="NULL: the vendor lists it no longer"),
    sa.Column("new_split_to", sa.Double),
    sa.Column("old_known_from", _INSTANT, nullable=False, comment="the old version counts from here until seen_at"),
    sa.Column("seen_at", _INSTANT, nullable=False),
    sa.Column("run_id", sa.Uuid, nullable=False, comment="the run that saw the change"),
    sa.Column("old_run_id", sa.Uuid, nullable=False, comment="the run that had written the old version"),
    sa.Index("revision_of_split", "ticker", "execution_date"),
)

dividend = sa.Table(
    "dividend",
    metadata,
    sa.Column("source", _SHORT, primary_key=True),
    sa.Column("ticker", Ticker, primary_key=True),
    sa.Column("ex_date", sa.Date, primary_key=True),
    sa.Column("seq", sa.SmallInteger, primary_key=True, comment="counts the dividends of one ex-date, from 1"),
    sa.Column(
        "kind",
        _SHORT,
        nullable=False,
        info=MAY_BE_EMPTY,
        comment="the vendor's word: CD regular, SC special, ...",
    ),
    sa.Column("cash_amount", sa.Double, nullable=False, comment="for one share of the ex-date's scale"),
    sa.Column("currency", sa.String(8), nullable=False, info=MAY_BE_EMPTY),
    sa.Column("pay_date", sa.Date),
    sa.Column("vendor_id", sa.String(100)),
    sa.Column("run_id", sa.Uuid, nullable=False),
    sa.Column("seen_at", _INSTANT, nullable=False),
    sa.Index("dividend_of_ticker", "ticker", "ex_date"),
)

#: Who held a ticker. At any time nobody or one instrument does: the tenures of a ticker never overlap.
ticker_history = sa.Table(
    "ticker_history",
    metadata,
    sa.Column("source", _SHORT, primary_key=True),
    sa.Column("ticker", Ticker, primary_key=True),
    sa.Column("first_day", sa.Date, primary_key=True),
    sa.Column("end_day", sa.Date, comment="the first day without the ticker; NULL while it lasts"),
    sa.Column("instrument_id", sa.String(40), nullable=False),
    sa.Column("name", sa.String(200), nullable=False, info=MAY_BE_EMPTY),
    sa.Column("origin", _SHORT, nullable=False),
    sa.Column("run_id", sa.Uuid, nullable=False),
    sa.Column("seen_at", _INSTANT, nullable=False),
    sa.CheckConstraint("origin IN ('vendor', 'shipped')", name="ticker_history_origin"),
    sa.CheckConstraint("end_day > first_day", name="ticker_history_days"),
    sa.Index("history_of_ticker", "ticker"),
    sa.Index("history_of_instrument", "instrument_id"),
)

#: How far the facts that are not bars have been looked at: those of a ``kind`` (``split``, ``dividend``) of the whole
#: market, from ``first_day`` to ``last_day``.
facts_watermark = sa.Table(
    "facts_watermark",
    metadata,
    sa.Column("source", _SHORT, primary_key=True),
    sa.Column("kind", _SHORT, primary_key=True),
    sa.Column("first_day", sa.Date, nullable=False),
    sa.Column("last_day", sa.Date, nullable=False),
    sa.Column("run_id", sa.Uuid, nullable=False),
    sa.Column("known", sa.Integer, comment="rows in the span after the last look; NULL where nobody counted"),
)

run = sa.Table(
    "run",
    metadata,
    sa.Column("run_id", sa.Uuid, primary_key=True),
    sa.Column("flow", sa.String(40), nullable=False),
    sa.Column("source", _SHORT, nullable=False),
    sa.Column("timeframe", sa.String(4), nullable=False),
    sa.Column("state", sa.String(32), nullable=False, comment="Running until the run has ended"),
    sa.Column("asked", Json, nullable=False),
    sa.Column("plan", Json, nullable=False, comment="the calls by kind, as announced before the first"),
    sa.Column("planned_calls", sa.Integer, nullable=False, server_default="0"),
    sa.Column("actual_calls", sa.Integer, nullable=False, server_default="0"),
    sa.Column("planned_cells", sa.Integer, nullable=False, server_default="0"),
    sa.Column("done_cells", sa.Integer, nullable=False, server_default="0"),
    sa.Column("accepted_bars", sa.Integer, nullable=False, server_default="0"),
    sa.Column("inserted", sa.Integer, nullable=False, server_default="0"),
    sa.Column("rewritten", sa.Integer, nullable=False, server_default="0"),
    _now("started_at"),
    sa.Column("ended_at", _INSTANT),
    sa.Column("report", Json),
    _now("as_of", "what the run took for the present: all that it wrote is known since then"),
    sa.Column("recheck_sessions", sa.Integer, comment="as asked: how many sessions it looked at once more"),
    sa.Column("unchecked_calls", sa.Integer, comment="as reported: calls for rechecks that it did not make"),
)

#: The cells of a call that a run has in flight, or had: no other run fetches them meanwhile, nor once more after it.
claim = sa.Table(
    "claim",
    metadata,
    sa.Column("claim_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("run_id", sa.Uuid, nullable=False, comment="the run that makes the call"),
    sa.Column("source", _SHORT, nullable=False),
    sa.Column("timeframe", sa.String(4), nullable=False),
    sa.Column("first_session", sa.Date, nullable=False),
    sa.Column("last_session", sa.Date, nullable=False),
    sa.Column("ticker", Ticker, comment="the one that a call for a range asks for; NULL: a call for a market day"),
    sa.Column("tickers", Json, nullable=False, comment="the cells: these, first_session to last_session"),
    _now("claimed_at"),
    sa.Column("done_at", _INSTANT, comment="when it was answered; NULL: in flight"),
    sa.Index("claim_of_run", "run_id"),
    sa.Index("claim_of_sessions", "source", "timeframe", "last_session"),
)

#: Cells that got another bar after they had some: a minute that came late. What a gap's end or a ``revision`` tells is
#: not told again here.
late_cell = sa.Table(
    "late_cell",
    metadata,
    sa.Column("late_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("source", _SHORT, nullable=False),
    sa.Column("ticker", Ticker, nullable=False),
    sa.Column("timeframe", sa.String(4), nullable=False),
    sa.Column("session", sa.Date, nullable=False),
    sa.Column("run_id", sa.Uuid, nullable=False, comment="the run that brought the bar"),
    _now("seen_at"),
    sa.Index("late_cell_of_ticker", "ticker", "timeframe", "late_id"),
)

#: What detectors found in stored bars. Nothing in an event was computed from a bar after ``ts``.
event = sa.Table(
    "event",
    metadata,
    sa.Column("ticker", Ticker, primary_key=True),
    sa.Column("timeframe", sa.String(4), primary_key=True),
    sa.Column("detector", sa.String(32), primary_key=True),
    sa.Column("version", sa.String(40), primary_key=True, comment="the detector's revision and parameters"),
    sa.Column("source", _SHORT, primary_key=True, comment="of the bars"),
    sa.Column(
        "from_timeframe",
        sa.String(4),
        primary_key=True,
        comment="of the stored bars; where it is another, they were resampled on the way",
    ),
    sa.Column("ts", _INSTANT, primary_key=True, comment="UTC instant at which the bar that confirms it opens"),
    sa.Column("kind", sa.String(32), primary_key=True),
    sa.Column("session", sa.Date, nullable=False, comment="of the bar that confirms it"),
    sa.Column("first_ts", _INSTANT, nullable=False, comment="the first bar that it was computed from; ts is the last"),
    sa.Column("bars", sa.Integer, nullable=False, comment="how many these are"),
    sa.Column("upper", sa.Double, comment="price of the upper line at ts"),
    sa.Column("upper_slope", sa.Double, comment="price a bar"),
    sa.Column("lower", sa.Double, comment="price of the lower line at ts"),
    sa.Column("lower_slope", sa.Double, comment="price a bar"),
    sa.Column("apex_bars", sa.Double, comment="in how many bars the lines meet"),
    sa.Column("run_id", sa.Uuid, nullable=False),
)

#: How far events have been derived of which bars.
event_mark = sa.Table(
    "event_mark",
    metadata,
    sa.Column("ticker", Ticker, primary_key=True),
    sa.Column("timeframe", sa.String(4), primary_key=True),
    sa.Column("detector", sa.String(32), primary_key=True),
    sa.Column("version", sa.String(40), primary_key=True),
    sa.Column("source", _SHORT, primary_key=True),
    sa.Column("from_timeframe", sa.String(4), primary_key=True),
    sa.Column("first_session", sa.Date, nullable=False),
    sa.Column("last_session", sa.Date, nullable=False, comment="first..last is derived, but for what is to do"),
    sa.Column("todo", Json, comment="spans of sessions in it that are yet to be derived, or again"),
    sa.Column("reach_session", sa.Date, nullable=False, comment="the first one whose bars were looked at"),
    sa.Column("bars_from", sa.Date, nullable=False, comment="the bars' watermark began here"),
    sa.Column("gaps", Json, comment="sessions that had no bar, or not all, when it was looked"),
    sa.Column("revision_id", sa.BigInteger, nullable=False, comment="revisions of the bars up to here are seen to"),
    sa.Column("late_id", sa.BigInteger, nullable=False, comment="late cells up to here are seen to"),
    sa.Column("turn", sa.Integer, nullable=False, comment="counts the changes of this row"),
    sa.Column("run_id", sa.Uuid, nullable=False),
    _now("updated_at"),
)

#: Which contract a continuous future stood for. Two rows one after the other that name the same one are the seam of two
#: ranges, not a roll; see :func:`closingbell.store.rolls.changes`.
roll = sa.Table(
    "roll",
    metadata,
    sa.Column("source", _SHORT, primary_key=True),
    sa.Column("ticker", Ticker, primary_key=True),
    sa.Column("timeframe", sa.String(4), primary_key=True),
    sa.Column(
        "ts",
        _INSTANT,
        primary_key=True,
        comment="from the bar that opens here on, or where a range began, the symbol stood for the instrument",
    ),
    sa.Column("session", sa.Date, nullable=False),
    sa.Column(
        "instrument_id", sa.BigInteger, nullable=False, comment="the vendor's number of the contract at that time"
    ),
    sa.Column("run_id", sa.Uuid, nullable=False),
    _now("seen_at"),
)
