"""What the database knows of one ticker, for a person to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from closingbell.bars import VALUES
from closingbell.store.rolls import changes
from closingbell.store.schema import (
    bar,
    dividend,
    event,
    event_mark,
    gap,
    quarantine,
    revision,
    split,
    split_revision,
    ticker_history,
    watermark,
)


def of_ticker(connection: sa.Connection, ticker: str, limit: int) -> Mapping[str, Any]:
    """Watermarks, bars, who held it when, how far events are derived; of the rest the newest ``limit`` of each kind.

    ``counts`` has how many gaps, quarantined bars, revisions, splits, corrected splits and dividends there are.
    """

    def rows(query: sa.Select[Any]) -> list[dict[str, Any]]:
        return [dict(row) for row in connection.execute(query).mappings()]

    def newest(table: sa.Table, order: sa.ColumnElement[Any], *names: str) -> list[dict[str, Any]]:
        query = sa.select(*(table.c[name] for name in names)).where(table.c.ticker == ticker)
        return rows(query.order_by(order.desc()).limit(limit))

    values = [side + name for name in VALUES for side in ("old_", "new_")]
    tables = {
        "gaps": gap,
        "quarantine": quarantine,
        "revisions": revision,
        "splits": split,
        "split_revisions": split_revision,
        "dividends": dividend,
    }
    counted = [
        sa.select(sa.func.count()).where(table.c.ticker == ticker).scalar_subquery() for table in tables.values()
    ]
    return {
        "ticker": ticker,
        "watermarks": rows(
            sa.select(
                watermark.c.source, watermark.c.timeframe, watermark.c.first_session, watermark.c.last_session
            ).where(watermark.c.ticker == ticker)
        ),
        "bars": rows(
            sa.select(bar.c.timeframe, sa.func.count().label("bars"))
            .where(bar.c.ticker == ticker)
            .group_by(bar.c.timeframe)
        ),
        "counts": dict(zip(tables, connection.execute(sa.select(*counted)).one(), strict=True)),
        "held_by": rows(
            sa.select(
                ticker_history.c.first_day,
                ticker_history.c.end_day,
                ticker_history.c.instrument_id,
                ticker_history.c.name,
                ticker_history.c.origin,
            )
            .where(ticker_history.c.ticker == ticker)
            .order_by(ticker_history.c.first_day)
        ),
        "gaps": newest(gap, gap.c.session, "session", "reason", "attempts", "last_error", "updated_at"),
        "quarantine": newest(quarantine, quarantine.c.ts, "session", "rule", "message", "close", "seen_at"),
        "revisions": newest(
            revision, revision.c.revision_id, "ticker", "session", *values, "run_id", "old_run_id", "seen_at"
        ),
        "splits": newest(
            split, split.c.execution_date, "execution_date", "split_from", "split_to", "known_from", "source"
        ),
        "split_revisions": newest(
            split_revision,
            split_revision.c.revision_id,
            "execution_date",
            "old_split_from",
            "old_split_to",
            "new_split_from",
            "new_split_to",
            "seen_at",
        ),
        "rolls": changes(connection, ticker)[:limit],
        "dividends": newest(dividend, dividend.c.ex_date, "ex_date", "cash_amount", "currency", "kind"),
        "events": rows(_events(ticker)),
    }


def _events(ticker: str) -> sa.Select[Any]:
    """How far events are derived, and how many there are, of each detector and the bars it looked at."""
    key = ("timeframe", "detector", "version", "source", "from_timeframe")
    same = (event.c[name] == event_mark.c[name] for name in ("ticker", *key))
    found = sa.select(sa.func.count()).select_from(event).where(*same).scalar_subquery()
    names = (*key, "first_session", "last_session")
    columns = (event_mark.c[name] for name in names)
    return (
        sa.select(*columns, found.label("events"))
        .where(event_mark.c.ticker == ticker)
        .order_by(*(event_mark.c[name] for name in key))
    )
