"""The tables, in SQLAlchemy Core: one definition for every statement that is not on the hot path.

The database gets them through the migrations in ``infra/migrations``; a test holds the two together.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from closingbell.store import views

metadata = sa.MetaData()

#: Tickers are case-sensitive and compared byte by byte, whatever the database's own collation.
TICKER: Final = sa.String(32).with_variant(sa.String(32, collation="C"), "postgresql")
_SHORT: Final = sa.String(16)
_INSTANT: Final = sa.DateTime(timezone=True)
_JSON: Final = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_TICKERS: Final = sa.JSON().with_variant(postgresql.ARRAY(sa.String(32, collation="C")), "postgresql")


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
    sa.Column("ticker", TICKER, primary_key=True),
    sa.Column("timeframe", sa.String(4), primary_key=True),
    sa.Column("session", sa.Date, nullable=False),
    sa.Column("ts", _INSTANT, primary_key=True, comment="UTC instant at which the bar opens"),
    *_required(_values()),
    sa.Column("source", _SHORT, nullable=False),
    sa.Column("run_id", sa.Uuid, nullable=False, comment="the run that last wrote the row"),
)

watermark = sa.Table(
    "watermark",
    metadata,
    sa.Column("source", _SHORT, primary_key=True),
    sa.Column("ticker", TICKER, primary_key=True),
    sa.Column("timeframe", sa.String(4), primary_key=True),
    sa.Column("first_session", sa.Date, nullable=False),
    sa.Column("last_session", sa.Date, nullable=False, comment="first..last is all accounted for, inclusive"),
    sa.Column("run_id", sa.Uuid, nullable=False),
)

gap = sa.Table(
    "gap",
    metadata,
    sa.Column("source", _SHORT, primary_key=True),
    sa.Column("ticker", TICKER, primary_key=True),
    sa.Column("timeframe", sa.String(4), primary_key=True),
    sa.Column("session", sa.Date, primary_key=True),
    sa.Column("reason", _SHORT, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("last_error", sa.String(500)),
    sa.Column("run_id", sa.Uuid, nullable=False),
    sa.Column("updated_at", _INSTANT, nullable=False, server_default=sa.func.now()),
    sa.CheckConstraint(
        "reason IN ('empty', 'unpublished', 'unentitled', 'failed', 'quarantined', 'pending')", name="gap_reason"
    ),
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("source", _SHORT, primary_key=True),
    sa.Column("ticker", TICKER, primary_key=True),
    sa.Column("timeframe", sa.String(4), primary_key=True),
    sa.Column("ts", _INSTANT, primary_key=True),
    sa.Column("copy", sa.SmallInteger, primary_key=True, comment="counts bars of one instant in one answer"),
    sa.Column("session", sa.Date, nullable=False),
    sa.Column("rule", sa.String(40), nullable=False),
    *_values(),
    sa.Column("run_id", sa.Uuid, nullable=False),
    sa.Column("seen_at", _INSTANT, nullable=False, server_default=sa.func.now()),
    sa.Column("message", sa.String(500), comment="what the database said when it refused"),
)

revision = sa.Table(
    "revision",
    metadata,
    sa.Column("revision_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("source", _SHORT, nullable=False),
    sa.Column("ticker", TICKER, nullable=False),
    sa.Column("timeframe", sa.String(4), nullable=False),
    sa.Column("session", sa.Date, nullable=False),
    sa.Column("ts", _INSTANT, nullable=False),
    *_values("old_"),
    *_values("new_"),
    sa.Column("run_id", sa.Uuid, nullable=False, comment="the run that saw the new values"),
    sa.Column("seen_at", _INSTANT, nullable=False, server_default=sa.func.now()),
    sa.Column("old_run_id", sa.Uuid, comment="the run that had written the old values"),
    sa.Index("revision_of_bar", "ticker", "timeframe", "ts"),
)

split = sa.Table(
    "split",
    metadata,
    sa.Column("source", _SHORT, primary_key=True),
    sa.Column("ticker", TICKER, primary_key=True),
    sa.Column("execution_date", sa.Date, primary_key=True),
    sa.Column("split_from", sa.Double, nullable=False),
    sa.Column("split_to", sa.Double, nullable=False),
    sa.Column("vendor_id", sa.String(100)),
    sa.Column("run_id", sa.Uuid, nullable=False),
    sa.Column("seen_at", _INSTANT, nullable=False, server_default=sa.func.now()),
    sa.Column("known_from", _INSTANT, nullable=False, comment="since when this version could be known"),
    sa.Index("split_of_ticker", "ticker"),
)

split_revision = sa.Table(
    "split_revision",
    metadata,
    sa.Column("revision_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("source", _SHORT, nullable=False),
    sa.Column("ticker", TICKER, nullable=False),
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
    sa.Column("ticker", TICKER, primary_key=True),
    sa.Column("ex_date", sa.Date, primary_key=True),
    sa.Column("seq", sa.SmallInteger, primary_key=True, comment="counts the dividends of one ex-date, from 1"),
    sa.Column("kind", _SHORT, nullable=False, comment="the vendor's word: CD regular, SC special, ..."),
    sa.Column("cash_amount", sa.Double, nullable=False, comment="for one share of the ex-date's scale"),
    sa.Column("currency", sa.String(8), nullable=False),
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
    sa.Column("ticker", TICKER, primary_key=True),
    sa.Column("first_day", sa.Date, primary_key=True),
    sa.Column("end_day", sa.Date, comment="the first day without the ticker; NULL while it lasts"),
    sa.Column("instrument_id", sa.String(40), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
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
    sa.Column("asked", _JSON, nullable=False),
    sa.Column("plan", _JSON, nullable=False, comment="the calls by kind, as announced before the first"),
    sa.Column("planned_calls", sa.Integer, nullable=False, server_default="0"),
    sa.Column("actual_calls", sa.Integer, nullable=False, server_default="0"),
    sa.Column("planned_cells", sa.Integer, nullable=False, server_default="0"),
    sa.Column("done_cells", sa.Integer, nullable=False, server_default="0"),
    sa.Column("accepted_bars", sa.Integer, nullable=False, server_default="0"),
    sa.Column("inserted", sa.Integer, nullable=False, server_default="0"),
    sa.Column("rewritten", sa.Integer, nullable=False, server_default="0"),
    sa.Column("started_at", _INSTANT, nullable=False, server_default=sa.func.now()),
    sa.Column("ended_at", _INSTANT),
    sa.Column("report", _JSON),
    sa.Column(
        "as_of",
        _INSTANT,
        nullable=False,
        server_default=sa.func.now(),
        comment="what the run took for the present: all that it wrote is known since then",
    ),
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
    sa.Column("tickers", _TICKERS, nullable=False, comment="the cells: these, first_session to last_session"),
    sa.Column("claimed_at", _INSTANT, nullable=False, server_default=sa.func.now()),
    sa.Column("done_at", _INSTANT, comment="when it was answered; NULL: in flight"),
    sa.Column("done_in", sa.BigInteger, comment="the transaction that wrote the answer"),
    sa.Index("claim_of_run", "run_id"),
    sa.Index("claim_of_sessions", "source", "timeframe", "last_session"),
)


@sa.event.listens_for(metadata, "after_create")
def _create_views(_: sa.MetaData, connection: sa.Connection, **options: Any) -> None:
    if connection.dialect.name == "postgresql":
        for statement in views.CREATE:
            connection.exec_driver_sql(statement)


@sa.event.listens_for(metadata, "before_drop")
def _drop_views(_: sa.MetaData, connection: sa.Connection, **options: Any) -> None:
    if connection.dialect.name == "postgresql":
        for statement in views.DROP:
            connection.exec_driver_sql(statement)
