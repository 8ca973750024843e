"""The tables, in SQLAlchemy Core: one definition for every statement that is not on the hot path.

The database gets them through the migrations in ``infra/migrations``; a test holds the two together.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

metadata = sa.MetaData()

#: Tickers are case-sensitive and compared byte by byte, whatever the database's own collation.
TICKER: Final = sa.String(32).with_variant(sa.String(32, collation="C"), "postgresql")
_SHORT: Final = sa.String(16)
_INSTANT: Final = sa.DateTime(timezone=True)
_JSON: Final = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


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
)

#: How far the facts that are not bars have been looked at: splits from ``first_day`` to ``last_day``.
facts_watermark = sa.Table(
    "facts_watermark",
    metadata,
    sa.Column("source", _SHORT, primary_key=True),
    sa.Column("kind", _SHORT, primary_key=True),
    sa.Column("first_day", sa.Date, nullable=False),
    sa.Column("last_day", sa.Date, nullable=False),
    sa.Column("run_id", sa.Uuid, nullable=False),
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
