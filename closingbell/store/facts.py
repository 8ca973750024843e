"""Facts that are not bars: splits, and how far they have been looked at."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from closingbell.sources.base import Split
from closingbell.store.faults import transaction
from closingbell.store.schema import facts_watermark

_SET_SPLITS: Final = sa.text("""
    INSERT INTO split AS known (source, ticker, execution_date, split_from, split_to, vendor_id, run_id)
    SELECT :source, ticker, execution_date, split_from, split_to, vendor_id, :run_id
    FROM unnest(CAST(:tickers AS text[]), CAST(:days AS date[]), CAST(:froms AS float8[]), CAST(:tos AS float8[]),
                CAST(:ids AS text[])) AS new (ticker, execution_date, split_from, split_to, vendor_id)
    ON CONFLICT (source, ticker, execution_date) DO UPDATE SET
        split_from = excluded.split_from, split_to = excluded.split_to, vendor_id = excluded.vendor_id,
        run_id = excluded.run_id, seen_at = now()
    WHERE (known.split_from, known.split_to, known.vendor_id)
        IS DISTINCT FROM (excluded.split_from, excluded.split_to, excluded.vendor_id)
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))

_LOOKED: Final = sa.text("""
    INSERT INTO facts_watermark AS known (source, kind, first_day, last_day, run_id)
    VALUES (:source, 'split', :first, :last, :run_id)
    ON CONFLICT (source, kind) DO UPDATE SET
        first_day = LEAST(known.first_day, excluded.first_day),
        last_day = GREATEST(known.last_day, excluded.last_day), run_id = excluded.run_id
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))


class Facts:
    """Reads and writes splits, together with the span in which they have been looked for."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def splits_seen(self, source: str) -> tuple[date, date] | None:
        """First and last day for which this vendor's splits are known; None if it was never asked."""
        with transaction(self._engine) as connection:
            row = connection.execute(
                sa.select(facts_watermark.c.first_day, facts_watermark.c.last_day).where(
                    facts_watermark.c.source == source, facts_watermark.c.kind == "split"
                )
            ).first()
        return (row.first_day, row.last_day) if row else None

    def store_splits(self, run_id: UUID, source: str, splits: Sequence[Split], first: date, last: date) -> int:
        """Write splits and the span they are complete for, in one transaction.

        Returns:
            How many were new or changed.
        """
        # The vendor lists some splits twice; one statement takes a row only once, and the later entry counts.
        splits = list({(split.ticker, split.execution_date): split for split in splits}.values())
        with transaction(self._engine) as connection:
            changed = connection.execute(
                _SET_SPLITS,
                {
                    "source": source,
                    "run_id": run_id,
                    "tickers": [split.ticker for split in splits],
                    "days": [split.execution_date for split in splits],
                    "froms": [split.split_from for split in splits],
                    "tos": [split.split_to for split in splits],
                    "ids": [split.id for split in splits],
                },
            ).rowcount
            connection.execute(_LOOKED, {"source": source, "first": first, "last": last, "run_id": run_id})
        return changed
