"""Facts that are not bars: splits, dividends, who held a ticker; and how far they have been looked at.

Each write is one transaction under a lock of its own, so that looks that overlap take place one after the other,
and changes only the rows that differ. It counts as known since the run's ``as_of``, the instant that the run took
for the present. Knowledge never runs backwards: a night that is replayed with an earlier present does not unsay
what was known in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal, Protocol
from uuid import UUID

import sqlalchemy as sa

from closingbell.errors import MalformedResponseError
from closingbell.sources.base import Split
from closingbell.store.faults import transaction
from closingbell.store.redo import persistent
from closingbell.store.schema import facts_watermark, split, ticker_history

Origin = Literal["vendor", "shipped"]

#: From so many new rows on the planner is told of them at once: it would take the table for an empty one until
#: autovacuum comes by, and a join of every bar with it for a small matter.
_MANY: Final = 100

#: From this many known splits on, an answer that lacks more than half of them is taken for a broken one.
GUARDED: Final = 3


#: A split explains the scale of bars up to so many days from its own.
REOPENED: Final = 14


class CashDividend(Protocol):
    """A cash dividend, as :class:`closingbell.sources.base.Dividend` has it."""

    @property
    def ticker(self) -> str: ...
    @property
    def ex_date(self) -> date: ...
    @property
    def cash_amount(self) -> float: ...
    @property
    def currency(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def pay_date(self) -> date | None: ...
    @property
    def id(self) -> str | None: ...


class HeldTicker(Protocol):
    """An instrument traded under ``ticker`` from ``first`` on, until the day before ``end``; None: it still does."""

    @property
    def ticker(self) -> str: ...
    @property
    def instrument_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def first(self) -> date: ...
    @property
    def end(self) -> date | None: ...


@dataclass(frozen=True, slots=True)
class StoredTenure:
    """A row of ``ticker_history``.

    Attributes:
        ticker: as the vendor writes it.
        instrument_id: stable over renames.
        name: the company's or fund's.
        first: the first day under this ticker.
        end: the first day without it; None while it lasts.
        origin: ``vendor``, or ``shipped`` with the project.
    """

    ticker: str
    instrument_id: str
    name: str
    first: date
    end: date | None
    origin: str

    def overlaps(self, other: StoredTenure) -> bool:
        """Whether both hold the same ticker on some day."""
        return (
            self.ticker == other.ticker
            and (self.end is None or other.first < self.end)
            and (other.end is None or self.first < other.end)
        )


def _statement(text: str) -> sa.TextClause:
    clause = sa.text(text)
    return clause.bindparams(sa.bindparam("run_id", type_=sa.Uuid)) if ":run_id" in text else clause


_LOCK: Final = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
_PRESENT: Final = _statement("SELECT COALESCE((SELECT as_of FROM run WHERE run_id = :run_id), now())")

_LISTED: Final = """
    unnest(CAST(:tickers AS text[]), CAST(:days AS date[]), CAST(:froms AS float8[]), CAST(:tos AS float8[]),
           CAST(:ids AS text[])) AS listed (ticker, execution_date, split_from, split_to, vendor_id)
"""
_SAME: Final = "known.ticker = listed.ticker AND known.execution_date = listed.execution_date"
_CHANGED: Final = "(known.split_from, known.split_to) <> (listed.split_from, listed.split_to)"

_LACKING: Final = _statement(f"""
    SELECT count(*) AS known, count(*) FILTER (WHERE listed.ticker IS NULL) AS lacking
    FROM split AS known LEFT JOIN {_LISTED} ON {_SAME}
    WHERE known.source = :source AND known.execution_date BETWEEN :first AND :last
""")  # noqa: S608  (fixed text, no value in it)

_REVISE_SPLITS: Final = _statement(f"""
    INSERT INTO split_revision (source, ticker, execution_date, old_split_from, old_split_to,
        new_split_from, new_split_to, old_known_from, seen_at, run_id, old_run_id)
    SELECT known.source, known.ticker, known.execution_date, known.split_from, known.split_to,
        listed.split_from, listed.split_to, known.known_from, GREATEST(:as_of, known.known_from), :run_id, known.run_id
    FROM split AS known LEFT JOIN {_LISTED} ON {_SAME}
    WHERE known.source = :source
      AND ({_CHANGED} OR listed.ticker IS NULL AND known.execution_date BETWEEN :first AND :last)
""")  # noqa: S608  (fixed text, no value in it)

_RETRACT_SPLITS: Final = _statement(f"""
    DELETE FROM split AS known
    WHERE known.source = :source AND known.execution_date BETWEEN :first AND :last
      AND NOT EXISTS (SELECT FROM {_LISTED} WHERE {_SAME})
""")  # noqa: S608  (fixed text, no value in it)

_CHANGE_SPLITS: Final = _statement(f"""
    UPDATE split AS known SET split_from = listed.split_from, split_to = listed.split_to, vendor_id = listed.vendor_id,
        run_id = :run_id, seen_at = :as_of, known_from = GREATEST(:as_of, known.known_from)
    FROM {_LISTED} WHERE known.source = :source AND {_SAME} AND {_CHANGED}
""")  # noqa: S608  (fixed text, no value in it)

_RENUMBER_SPLITS: Final = _statement(f"""
    UPDATE split AS known SET vendor_id = listed.vendor_id
    FROM {_LISTED} WHERE known.source = :source AND {_SAME} AND known.vendor_id IS DISTINCT FROM listed.vendor_id
""")  # noqa: S608  (fixed text, no value in it)

# What a first look at its day finds was public on that day. What an earlier look did not find, or found on another
# day, is late or corrected. A split that returns is known again no sooner than it was gone.
_ADD_SPLITS: Final = _statement(f"""
    INSERT INTO split (source, ticker, execution_date, split_from, split_to, vendor_id, run_id, seen_at, known_from)
    SELECT :source, listed.ticker, listed.execution_date, listed.split_from, listed.split_to, listed.vendor_id,
        :run_id, :as_of,
        GREATEST(
            CASE
                WHEN listed.execution_date BETWEEN CAST(:seen_first AS date) AND CAST(:seen_last AS date) THEN :as_of
                WHEN EXISTS (SELECT FROM split_revision AS gone
                             WHERE gone.source = :source AND gone.ticker = listed.ticker AND gone.run_id = :run_id
                               AND gone.new_split_to IS NULL) THEN :as_of
                ELSE LEAST(:as_of, CAST(listed.execution_date AS timestamp) AT TIME ZONE 'UTC')
            END,
            (SELECT max(seen_at) FROM split_revision AS known WHERE known.source = :source AND {_SAME}))
    FROM {_LISTED}
    ON CONFLICT DO NOTHING
""")  # noqa: S608  (fixed text, no value in it)

_PAID: Final = """
    unnest(CAST(:tickers AS text[]), CAST(:days AS date[]), CAST(:numbers AS smallint[]), CAST(:kinds AS text[]),
           CAST(:amounts AS float8[]), CAST(:currencies AS text[]), CAST(:pay_dates AS date[]), CAST(:ids AS text[]))
        AS paid (ticker, ex_date, seq, kind, cash_amount, currency, pay_date, vendor_id)
"""

_REMOVE_DIVIDENDS: Final = _statement(f"""
    DELETE FROM dividend AS known
    WHERE known.source = :source AND known.ex_date BETWEEN :first AND :last
      AND (CAST(:ticker AS text) IS NULL OR known.ticker = :ticker)
      AND NOT EXISTS (SELECT FROM {_PAID}
                      WHERE paid.ticker = known.ticker AND paid.ex_date = known.ex_date AND paid.seq = known.seq)
""")  # noqa: S608  (fixed text, no value in it)

_SET_DIVIDENDS: Final = _statement(f"""
    INSERT INTO dividend AS known
        (source, ticker, ex_date, seq, kind, cash_amount, currency, pay_date, vendor_id, run_id, seen_at)
    SELECT :source, paid.*, :run_id, :as_of FROM {_PAID}
    ON CONFLICT (source, ticker, ex_date, seq) DO UPDATE SET
        kind = excluded.kind, cash_amount = excluded.cash_amount, currency = excluded.currency,
        pay_date = excluded.pay_date, vendor_id = excluded.vendor_id, run_id = excluded.run_id,
        seen_at = excluded.seen_at
    WHERE (known.kind, known.cash_amount, known.currency, known.pay_date, known.vendor_id) IS DISTINCT FROM
          (excluded.kind, excluded.cash_amount, excluded.currency, excluded.pay_date, excluded.vendor_id)
""")  # noqa: S608  (fixed text, no value in it)

_LOOKED: Final = _statement("""
    INSERT INTO facts_watermark AS known (source, kind, first_day, last_day, run_id)
    VALUES (:source, :kind, :first, :last, :run_id)
    ON CONFLICT (source, kind) DO UPDATE SET
        first_day = LEAST(known.first_day, excluded.first_day),
        last_day = GREATEST(known.last_day, excluded.last_day), run_id = excluded.run_id
""")

_COUNT_SPLITS: Final = _statement("""
    UPDATE facts_watermark AS seen SET known = (
        SELECT count(*) FROM split
        WHERE split.source = seen.source AND split.execution_date BETWEEN seen.first_day AND seen.last_day)
    WHERE seen.source = :source AND seen.kind = 'split'
""")

# Their bars were refused by a scale that nothing explained yet. The next run asks for them, once.
_REOPEN_REFUSED: Final = _statement("""
    UPDATE gap SET reason = 'pending', run_id = :run_id
    FROM split AS learned
    WHERE learned.source = :source AND learned.run_id = :run_id AND gap.source = learned.source
      AND gap.ticker = learned.ticker AND gap.reason = 'quarantined'
      AND gap.session BETWEEN learned.execution_date - :days AND learned.execution_date + :days
""")

_LOST_SPLITS: Final = _statement("""
    SELECT seen.known - count(split.ticker) FROM facts_watermark AS seen
    LEFT JOIN split ON split.source = seen.source AND split.execution_date BETWEEN seen.first_day AND seen.last_day
    WHERE seen.source = :source AND seen.kind = 'split' AND seen.known IS NOT NULL
    GROUP BY seen.known
""")

_REMOVE_TENURES: Final = _statement("""
    DELETE FROM ticker_history AS known
    USING unnest(CAST(:tickers AS text[]), CAST(:firsts AS date[])) AS gone (ticker, first_day)
    WHERE known.source = :source AND known.ticker = gone.ticker AND known.first_day = gone.first_day
""")

_ADD_TENURES: Final = _statement("""
    INSERT INTO ticker_history (source, ticker, first_day, end_day, instrument_id, name, origin, run_id, seen_at)
    SELECT :source, held.*, :run_id, :as_of
    FROM unnest(CAST(:tickers AS text[]), CAST(:firsts AS date[]), CAST(:ends AS date[]), CAST(:instruments AS text[]),
                CAST(:names AS text[]), CAST(:origins AS text[])) AS held
""")

_ANALYZE_TENURES: Final = sa.text("ANALYZE ticker_history")


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
            return int(connection.execute(_LOST_SPLITS, {"source": source}).scalar_one_or_none() or 0)

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
        if tickers is not None:
            query = query.where(split.c.ticker.in_(list(tickers)))
        with transaction(self._engine) as connection:
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
        values = {
            "source": source,
            "run_id": run_id,
            "first": first,
            "last": last,
            "tickers": [entry.ticker for entry in splits],
            "days": [entry.execution_date for entry in splits],
            "froms": [entry.split_from for entry in splits],
            "tos": [entry.split_to for entry in splits],
            "ids": [entry.id for entry in splits],
        }
        with transaction(self._engine) as connection:
            values["as_of"] = _begin(connection, run_id, source, "split")
            seen = _seen(connection, source, "split")
            values["seen_first"], values["seen_last"] = seen or (None, None)
            known, lacking = connection.execute(_LACKING, values).one()
            if known >= GUARDED and lacking * 2 > known:
                raise _unbelievable(known, lacking, first, last)
            revised = connection.execute(_REVISE_SPLITS, values).rowcount
            connection.execute(_RETRACT_SPLITS, values)
            connection.execute(_CHANGE_SPLITS, values)
            connection.execute(_RENUMBER_SPLITS, values)
            added = connection.execute(_ADD_SPLITS, values).rowcount
            connection.execute(_LOOKED, {**values, "kind": "split"})
            connection.execute(_COUNT_SPLITS, {"source": source})
            connection.execute(_REOPEN_REFUSED, {"source": source, "run_id": run_id, "days": REOPENED})
        return revised + added

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
        numbered = _numbered(dividends)
        paid = [entry for _, entry in numbered]
        values = {
            "source": source,
            "run_id": run_id,
            "first": first,
            "last": last,
            "ticker": ticker,
            "tickers": [entry.ticker for entry in paid],
            "days": [entry.ex_date for entry in paid],
            "numbers": [number for number, _ in numbered],
            "kinds": [entry.kind for entry in paid],
            "amounts": [entry.cash_amount for entry in paid],
            "currencies": [entry.currency for entry in paid],
            "pay_dates": [entry.pay_date for entry in paid],
            "ids": [entry.id for entry in paid],
        }
        with transaction(self._engine) as connection:
            values["as_of"] = _begin(connection, run_id, source, "dividend")
            removed = connection.execute(_REMOVE_DIVIDENDS, values).rowcount
            written = connection.execute(_SET_DIVIDENDS, values).rowcount
            if ticker is None:
                connection.execute(_LOOKED, {**values, "kind": "dividend"})
        return removed + written

    @persistent
    def tenures(self, source: str, tickers: Iterable[str] | None = None) -> list[StoredTenure]:
        """Every tenure of every instrument that ever held one of these tickers, or of all; by instrument and day."""
        with transaction(self._engine) as connection:
            return _tenures(connection, source, None if tickers is None else list(tickers), ())

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
        instruments = {held.instrument_id for held in told}
        with transaction(self._engine) as connection:
            as_of = _begin(connection, run_id, source, "tenure")
            stored = _tenures(connection, source, [held.ticker for held in told], instruments)
            wanted = set(_reconciled(stored, told))
            before = set(stored)
            gone, new = list(before - wanted), list(wanted - before)
            connection.execute(
                _REMOVE_TENURES,
                {"source": source, "tickers": [row.ticker for row in gone], "firsts": [row.first for row in gone]},
            )
            connection.execute(
                _ADD_TENURES,
                {
                    "source": source,
                    "run_id": run_id,
                    "as_of": as_of,
                    "tickers": [row.ticker for row in new],
                    "firsts": [row.first for row in new],
                    "ends": [row.end for row in new],
                    "instruments": [row.instrument_id for row in new],
                    "names": [row.name for row in new],
                    "origins": [row.origin for row in new],
                },
            )
            if len(new) >= _MANY:
                connection.execute(_ANALYZE_TENURES)
        return len({(row.ticker, row.first) for row in (*gone, *new)})

    def _seen(self, source: str, kind: str) -> tuple[date, date] | None:
        with transaction(self._engine) as connection:
            return _seen(connection, source, kind)


def _begin(connection: sa.Connection, run_id: UUID, source: str, kind: str) -> datetime:
    """Wait for whoever else writes such facts; returns what the run takes for the present, aware."""
    connection.execute(_LOCK, {"name": f"closingbell {kind} {source}"})
    present: datetime = connection.execute(_PRESENT, {"run_id": run_id}).scalar_one()
    return present


def _seen(connection: sa.Connection, source: str, kind: str) -> tuple[date, date] | None:
    row = connection.execute(
        sa.select(facts_watermark.c.first_day, facts_watermark.c.last_day).where(
            facts_watermark.c.source == source, facts_watermark.c.kind == kind
        )
    ).first()
    return (row.first_day, row.last_day) if row else None


def _unbelievable(known: int, lacking: int, first: date, last: date) -> MalformedResponseError:
    return MalformedResponseError(
        "the list of splits lacks more than half of those known",
        value=f"{lacking} of {known} from {first} to {last}",
        fix="Ask again; nothing is changed. If the vendor did retract them, delete their rows in split.",
        status=200,  # there was an answer: it costs the run its splits, not its bars
    )


def _numbered(dividends: Iterable[CashDividend]) -> list[tuple[int, CashDividend]]:
    """Each dividend once, with its number among those of its ticker and ex-date, whatever order they came in."""
    by_id = {(entry.ticker, entry.id or position): entry for position, entry in enumerate(dividends)}
    unique: dict[tuple[Any, ...], CashDividend] = {}
    for entry in by_id.values():
        unique[entry.ticker, entry.ex_date, entry.kind, entry.cash_amount, entry.currency, entry.pay_date] = entry
    counts: dict[tuple[str, date], int] = {}
    numbered = []
    for key in sorted(unique, key=lambda key: (*key[:5], str(key[5]))):
        entry = unique[key]
        counts[entry.ticker, entry.ex_date] = number = counts.get((entry.ticker, entry.ex_date), 0) + 1
        numbered.append((number, entry))
    return numbered


def _tenures(
    connection: sa.Connection, source: str, tickers: Sequence[str] | None, instruments: Iterable[str]
) -> list[StoredTenure]:
    """Rows of every instrument that is named, or that ever held one of the tickers; None: all rows."""
    table = ticker_history.c
    query = sa.select(table.ticker, table.instrument_id, table.name, table.first_day, table.end_day, table.origin)
    query = query.where(table.source == source)
    if tickers is not None:
        holders = sa.select(table.instrument_id).where(table.source == source, table.ticker.in_(tickers))
        query = query.where(table.instrument_id.in_(holders) | table.instrument_id.in_(list(instruments)))
    rows = connection.execute(query.order_by(table.instrument_id, table.first_day))
    return [StoredTenure(*row) for row in rows]


def _reconciled(stored: Sequence[StoredTenure], told: Sequence[StoredTenure]) -> list[StoredTenure]:
    """What ``stored`` becomes once ``told``, all of one origin, is taken in."""
    if told and told[0].origin == "shipped":
        vendors = [row for row in stored if row.origin == "vendor"]
        known = {row.instrument_id for row in vendors}
        told = _apart([row for row in told if row.instrument_id not in known], vendors)
    instruments = {row.instrument_id for row in told}
    others = [row for row in stored if row.instrument_id not in instruments]
    by_vendor = [row for row in told if row.origin == "vendor"]
    others = [row for row in others if row.origin == "vendor"] + _apart(
        [row for row in others if row.origin == "shipped"], by_vendor
    )
    rows = {(row.ticker, row.first): row for row in (*others, *told)}
    whole: list[StoredTenure] = []
    for row in sorted(rows.values(), key=lambda row: (row.ticker, row.first), reverse=True):
        ends = bool(whole) and row.overlaps(whole[-1])
        whole.append(replace(row, end=whole[-1].first) if ends else row)
    return whole


def _apart(rows: Iterable[StoredTenure], others: Iterable[StoredTenure]) -> list[StoredTenure]:
    """Those rows that share no day of a ticker with any of the others."""
    holders: dict[str, list[StoredTenure]] = {}
    for other in others:
        holders.setdefault(other.ticker, []).append(other)
    return [row for row in rows if not any(map(row.overlaps, holders.get(row.ticker, ())))]
