"""Bars and the ledger."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

TICKER = sa.String(32).with_variant(sa.String(32, collation="C"), "postgresql")
SHORT = sa.String(16)
INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
NAMES = ("open", "high", "low", "close", "volume", "vwap", "trades")


def values(prefix: str = "", *, required: bool = False) -> list[sa.Column[Any]]:
    return [
        sa.Column(
            prefix + name,
            sa.BigInteger() if name == "trades" else sa.Double(),
            nullable=not required or name in ("vwap", "trades"),
        )
        for name in NAMES
    ]


def key() -> list[sa.Column[Any]]:
    return [
        sa.Column("source", SHORT, primary_key=True),
        sa.Column("ticker", TICKER, primary_key=True),
        sa.Column("timeframe", sa.String(4), primary_key=True),
    ]


def upgrade() -> None:
    if op.get_bind().dialect.name == "oracle":
        return  # its tables begin with 0004
    op.create_table(
        "bar",
        sa.Column("ticker", TICKER, primary_key=True),
        sa.Column("timeframe", sa.String(4), primary_key=True),
        sa.Column("session", sa.Date, nullable=False),
        sa.Column("ts", INSTANT, primary_key=True, comment="UTC instant at which the bar opens"),
        *values(required=True),
        sa.Column("source", SHORT, nullable=False),
        sa.Column("run_id", sa.Uuid, nullable=False, comment="the run that last wrote the row"),
    )
    op.create_table(
        "watermark",
        *key(),
        sa.Column("first_session", sa.Date, nullable=False),
        sa.Column("last_session", sa.Date, nullable=False, comment="first..last is all accounted for, inclusive"),
        sa.Column("run_id", sa.Uuid, nullable=False),
    )
    op.create_table(
        "gap",
        *key(),
        sa.Column("session", sa.Date, primary_key=True),
        sa.Column("reason", SHORT, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("last_error", sa.String(500)),
        sa.Column("run_id", sa.Uuid, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False, server_default=sa.func.now()),
        sa.CheckConstraint(
            "reason IN ('empty', 'unpublished', 'unentitled', 'failed', 'quarantined', 'pending')", name="gap_reason"
        ),
    )
    op.create_table(
        "quarantine",
        *key(),
        sa.Column("ts", INSTANT, primary_key=True),
        sa.Column("copy", sa.SmallInteger, primary_key=True, comment="counts bars of one instant in one answer"),
        sa.Column("session", sa.Date, nullable=False),
        sa.Column("rule", sa.String(40), nullable=False),
        *values(),
        sa.Column("run_id", sa.Uuid, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False, server_default=sa.func.now()),
    )
    op.create_table(
        "revision",
        sa.Column("revision_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("source", SHORT, nullable=False),
        sa.Column("ticker", TICKER, nullable=False),
        sa.Column("timeframe", sa.String(4), nullable=False),
        sa.Column("session", sa.Date, nullable=False),
        sa.Column("ts", INSTANT, nullable=False),
        *values("old_"),
        *values("new_"),
        sa.Column("run_id", sa.Uuid, nullable=False, comment="the run that saw the new values"),
        sa.Column("seen_at", INSTANT, nullable=False, server_default=sa.func.now()),
    )
    op.create_index("revision_of_bar", "revision", ["ticker", "timeframe", "ts"])
    op.create_table(
        "split",
        sa.Column("source", SHORT, primary_key=True),
        sa.Column("ticker", TICKER, primary_key=True),
        sa.Column("execution_date", sa.Date, primary_key=True),
        sa.Column("split_from", sa.Double, nullable=False),
        sa.Column("split_to", sa.Double, nullable=False),
        sa.Column("vendor_id", sa.String(100)),
        sa.Column("run_id", sa.Uuid, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False, server_default=sa.func.now()),
    )
    op.create_table(
        "facts_watermark",
        sa.Column("source", SHORT, primary_key=True),
        sa.Column("kind", SHORT, primary_key=True),
        sa.Column("first_day", sa.Date, nullable=False),
        sa.Column("last_day", sa.Date, nullable=False),
        sa.Column("run_id", sa.Uuid, nullable=False),
    )
    op.create_table(
        "run",
        sa.Column("run_id", sa.Uuid, primary_key=True),
        sa.Column("flow", sa.String(40), nullable=False),
        sa.Column("source", SHORT, nullable=False),
        sa.Column("timeframe", sa.String(4), nullable=False),
        sa.Column("state", sa.String(32), nullable=False, comment="Running until the run has ended"),
        sa.Column("asked", JSON, nullable=False),
        sa.Column("plan", JSON, nullable=False, comment="the calls by kind, as announced before the first"),
        *[
            sa.Column(name, sa.Integer, nullable=False, server_default="0")
            for name in (
                "planned_calls",
                "actual_calls",
                "planned_cells",
                "done_cells",
                "accepted_bars",
                "inserted",
                "rewritten",
            )
        ],
        sa.Column("started_at", INSTANT, nullable=False, server_default=sa.func.now()),
        sa.Column("ended_at", INSTANT),
        sa.Column("report", JSON),
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "oracle":
        return
    for table in ("run", "facts_watermark", "split", "revision", "quarantine", "gap", "watermark", "bar"):
        op.drop_table(table)
