"""Facts that are not bars: splits, dividends, who held a ticker; and how far they have been looked at.

Each write is one transaction under a lock of its own, so that looks that overlap take place one after the other,
and changes only the rows that differ. It counts as known since the run's ``as_of``, the instant that the run took
for the present. Knowledge never runs backwards: a night that is replayed with an earlier present does not unsay
what was known in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from closingbell.sources.base import Split
from closingbell.store import dividends as dividend_rows
from closingbell.store import splits as split_rows
from closingbell.store import tenures as tenure_rows
from closingbell.store.database import database_of
from closingbell.store.dividends import CashDividend
from closingbell.store.faults import transaction
from closingbell.store.redo import persistent
from closingbell.store.schema import facts_watermark, run, split
from closingbell.store.splits import Look
from closingbell.store.tenures import HeldTicker, Origin, StoredTenure


class Facts:
    """Reads and writes what is known of tickers besides their bars; safe to use from several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @persistent
    def splits_seen(self, source: str) -> tuple[date, date] | None:
        """First and last day for which this vendor's splits are known; None if it was never asked."""
        return self._seen(source, "split")

    @persistent
    def dividends_seen(self, source: str) -> tuple[date, date] | None:
        """First and last day for which the whole market's dividends are known; None if it was never asked."""
        return self._seen(source, "dividend")

    @persistent
    def splits_lost(self, source: str) -> int:
        """How many splits fewer there are than after the last look: somebody removed them (below 0: added some)."""
        with transaction(self._engine) as connection:
            return split_rows.lost(connection, source)

    @persistent
    def splits_back(self, source: str, count: int) -> date | None:
        """The day since which fewer than ``count`` splits are known; None if there are no more in all."""
        days = sa.select(split.c.execution_date).where(split.c.source == source)
        query = days.order_by(split.c.execution_date.desc()).offset(count).limit(1)
        with transaction(self._engine) as connection:
            last: date | None = connection.execute(query).scalar_one_or_none()
        return last and last + timedelta(days=1)

    @persistent
    def splits(self, source: str, tickers: Iterable[str] | None = None) -> list[Split]:
        """The splits of these tickers, or of all, as they are known now; by ticker and execution date."""
        columns = (split.c.ticker, split.c.execution_date, split.c.split_from, split.c.split_to, split.c.vendor_id)
        query = sa.select(*columns).where(split.c.source == source)
        with transaction(self._engine) as connection:
            if tickers is not None:
                query = query.where(database_of(connection).among(connection, split.c.ticker, tickers))
            return [Split(*row) for row in connection.execute(query.order_by(split.c.ticker, split.c.execution_date))]

    @persistent
    def store_splits(self, run_id: UUID, source: str, splits: Sequence[Split], first: date, last: date) -> int:
        """Make the vendor's list the splits that are known from ``first`` to ``last``.

        A new one counts as known from its execution date (00:00 UTC), or from the run's ``as_of`` where that is
        earlier; from ``as_of`` if an earlier look at its day did not find it, or if the same look retracts another
        one of its ticker. A changed ratio counts from ``as_of`` too. What a change or a retraction replaces goes to
        ``split_revision``. A corrected execution date is a retraction and a new split. Cells of its ticker whose
        bar was refused near a new or changed split become ``pending``: it may explain what was wrong with them.

        Args:
            run_id: the run that looked.
            source: the vendor.
            splits: all that it lists; of two entries for one ticker and day the later one counts.
            first: the first day looked at.
            last: the last one, included.

        Returns:
            How many are new, changed or retracted.

        Raises:
            MalformedResponseError: the list lacks more than half of the splits that are known in the span, of at
                least three; nothing is changed.
        """
        splits = list({(entry.ticker, entry.execution_date): entry for entry in splits}.values())
        with transaction(self._engine) as connection:
            as_of = _begin(connection, run_id, source, "split")
            look = Look(source, run_id, as_of, first, last, _seen(connection, source, "split"))
            changed = look.write(connection, splits)
            _looked(connection, source, "split", run_id, first, last)
            split_rows.count(connection, source)
            split_rows.reopen(connection, source, run_id)
        return changed

    @persistent
    def store_dividends(
        self,
        run_id: UUID,
        source: str,
        dividends: Sequence[CashDividend],
        first: date,
        last: date,
        ticker: str | None = None,
    ) -> int:
        """Make the vendor's list the dividends that are known from ``first`` to ``last``.

        Args:
            run_id: the run that looked.
            source: the vendor.
            dividends: all that it lists. Of two entries with one id the later counts; entries that differ in
                nothing but their id are one dividend.
            first: the first ex-date looked at.
            last: the last one, included.
            ticker: the one that was asked for; None: the whole market, which moves the watermark.

        Returns:
            How many rows were written or removed.
        """
        with transaction(self._engine) as connection:
            as_of = _begin(connection, run_id, source, "dividend")
            changed = dividend_rows.write(connection, source, run_id, as_of, dividends, (first, last), ticker)
            if ticker is None:
                _looked(connection, source, "dividend", run_id, first, last)
        return changed

    @persistent
    def tenures(self, source: str, tickers: Iterable[str] | None = None) -> list[StoredTenure]:
        """Every tenure of every instrument that ever held one of these tickers, or of all; by instrument and day."""
        with transaction(self._engine) as connection:
            return tenure_rows.read(connection, source, tickers)

    @persistent
    def store_tenures(self, run_id: UUID, source: str, tenures: Iterable[HeldTicker], origin: Origin) -> int:
        """Make these the tenures of the instruments that they name; nobody else's but for the tickers they hold.

        The vendor's word takes the place of shipped rows on days that both claim; a shipped row that would claim a
        day of the vendor's, or an instrument that the vendor has told of, is passed over. Of two holders that one
        origin names for one day, the one who came later has the ticker from then on.

        Args:
            run_id: the run that learned of them.
            source: the vendor whose tickers they are.
            tenures: all of each instrument's; those of no day are passed over.
            origin: who says so.

        Returns:
            How many rows were written or removed.
        """
        told = [
            StoredTenure(held.ticker, held.instrument_id, held.name[:200], held.first, held.end, origin)
            for held in tenures
            if held.end is None or held.end > held.first
        ]
        with transaction(self._engine) as connection:
            as_of = _begin(connection, run_id, source, "tenure")
            return tenure_rows.write(connection, source, run_id, as_of, told)

    def _seen(self, source: str, kind: str) -> tuple[date, date] | None:
        with transaction(self._engine) as connection:
            return _seen(connection, source, kind)


def _begin(connection: sa.Connection, run_id: UUID, source: str, kind: str) -> datetime:
    """Wait for whoever else writes such facts; returns what the run takes for the present, aware."""
    database_of(connection).lock(connection, f"{kind} {source}")
    as_of: datetime | None = connection.execute(
        sa.select(run.c.as_of).where(run.c.run_id == run_id)
    ).scalar_one_or_none()
    if as_of is None:
        as_of = connection.execute(sa.select(sa.func.now())).scalar_one()
    return as_of


def _seen(connection: sa.Connection, source: str, kind: str) -> tuple[date, date] | None:
    row = connection.execute(
        sa.select(facts_watermark.c.first_day, facts_watermark.c.last_day).where(
            facts_watermark.c.source == source, facts_watermark.c.kind == kind
        )
    ).first()
    return (row.first_day, row.last_day) if row else None


def _looked(connection: sa.Connection, source: str, kind: str, run_id: UUID, first: date, last: date) -> None:
    """Move the watermark of facts whose lock this transaction holds: a look never shrinks the span."""
    key = {"source": source, "kind": kind}
    seen = _seen(connection, source, kind)
    if seen is None:
        moved = {"first_day": first, "last_day": last, "run_id": run_id}
        connection.execute(sa.insert(facts_watermark).values(**key, **moved))
        return
    moved = {"first_day": min(first, seen[0]), "last_day": max(last, seen[1]), "run_id": run_id}
    mine = [facts_watermark.c[name] == value for name, value in key.items()]
    connection.execute(sa.update(facts_watermark).where(*mine).values(**moved))
