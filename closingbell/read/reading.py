"""The reads, each in one snapshot of the database: what is committed meanwhile is not seen.

Every one takes ``database``: None for what the settings name, a URL, or what :func:`.connect` opened for many reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa

from closingbell.errors import ConfigurationError
from closingbell.read import asked, queries
from closingbell.read.asked import Day, Instant, Tickers
from closingbell.read.connection import Database, connect
from closingbell.read.queries import Adjusted, Wanted
from closingbell.read.rows import Rows
from closingbell.store import schema
from closingbell.store.database import database_of
from closingbell.store.faults import transaction
from closingbell.store.origin import origins
from closingbell.store.redo import again
from closingbell.store.schema import bar, watermark
from closingbell.store.selected import joined

#: Rows that come from the database at a time.
_AT_ONCE: Final = 65_536


def bars(
    tickers: Tickers = None,
    start: Day = None,
    end: Day = None,
    *,
    timeframe: str = "1d",
    source: str | None = None,
    adjusted: Adjusted = False,
    as_of: Instant | None = None,
    columns: Sequence[str] | None = None,
    database: Database = None,
) -> Rows:
    """Stored bars, one a row, by ticker (byte by byte) and ``ts``.

    Columns: ``ticker``, ``session``, ``ts`` (UTC, when the bar opens), ``open``, ``high``, ``low``, ``close``,
    ``volume``, ``vwap``, ``trades``, ``source``; adjusted also ``factor``, by dividends ``dividend_factor`` too. A
    session without a bar has no row: :func:`gaps` says why. The types: :mod:`closingbell.read.rows`.

    Args:
        tickers: one, several, or None for all; as the vendor writes them.
        start: the first session; None: the first there is.
        end: the last session, included; None: the last there is.
        timeframe: ``1d``, ``1h``, ``30m``, ``15m``, ``5m`` or ``1m``.
        source: the vendor, ``polygon``, with what came by its flat files; ``polygon:1m``: bars made here of its
            minutes. None: whosever; a bar is only ever stored from one of them.
        adjusted: False: prices as traded. True or ``"splits"``: prices times ``factor``, volume divided by it, so that
            all are in the last bar's scale. ``"dividends"``: prices times ``dividend_factor`` as well, daily bars only.
        as_of: the bars as they were known then: revisions undone, later bars absent; adjusted by the splits known then.
            A date means its end in UTC.
        columns: which columns beside ``ticker``, ``session`` and ``ts``; also ``run_id``, the run that wrote the bar.
            None: all of the above.
        database: see :func:`connect`.

    Raises:
        ConfigurationError: what is asked for cannot be: a timeframe that there is not, dates in reverse, a ticker of
            which nothing was ever stored; or there is no such database, or it lacks a table.
        RetryableError: the database cannot be reached.
    """
    wanted = _wanted(tickers, start, end, timeframe, source, adjusted, as_of, columns)
    return _read(database, lambda connection: queries.bars(connection, wanted), wanted.tickers)


def batches(
    tickers: Tickers = None,
    start: Day = None,
    end: Day = None,
    *,
    rows: int = 100_000,
    timeframe: str = "1d",
    source: str | None = None,
    adjusted: Adjusted = False,
    as_of: Instant | None = None,
    columns: Sequence[str] | None = None,
    database: Database = None,
) -> Iterator[Rows]:
    """The same bars as :func:`bars`, part by part, for spans that do not fit into memory.

    Memory is bounded by a part. All parts are of one snapshot: a transaction that only reads stays open until the last
    one is taken or the iterator is closed. Do not let one stand for hours: the database keeps what others delete.

    Args:
        tickers: and all others: see :func:`bars`.
        start: the first session.
        end: the last session.
        rows: how many there are in a part; in the last one there may be fewer.
        timeframe: of the bars.
        source: the vendor.
        adjusted: by what.
        as_of: as known when.
        columns: which.
        database: which.

    Raises:
        ConfigurationError: see :func:`bars`.
        RetryableError: the database cannot be reached, or no longer.
    """
    if rows < 1:
        raise ConfigurationError("a part has at least one row", value=rows, fix="Leave rows out: 100,000.")
    return _parts(_wanted(tickers, start, end, timeframe, source, adjusted, as_of, columns), rows, database)


def _parts(wanted: Wanted, rows: int, database: Database) -> Iterator[Rows]:
    with connect(database) as opened, transaction(opened.engine, snapshot=True) as connection:
        _check_known(connection, wanted.tickers)
        query = queries.bars(connection, wanted)
        kinds = _kinds(query)
        for block in database_of(connection).selected(connection, query, rows):
            yield Rows(kinds, block)


def cells(
    tickers: Tickers = None,
    start: Day = None,
    end: Day = None,
    *,
    timeframe: str | None = None,
    source: str | None = None,
    database: Database = None,
) -> Rows:
    """Every cell that is accounted for: a ticker's session with its ``state``, ``stored`` or the reason of its gap.

    Columns: ``source``, ``ticker``, ``timeframe``, ``session``, ``state``, ``bars`` (how many it has), ``attempts``,
    ``last_error``. A stored cell's source says how its bars came: ``polygon`` or ``polygon-flat``.

    Args:
        tickers: one, several, or None for all.
        start: the first session.
        end: the last session, included.
        timeframe: None: all.
        source: the vendor; None: all.
        database: see :func:`connect`.
    """
    names, span = asked.tickers(tickers), asked.span(start, end)
    wanted = asked.timeframe(timeframe)

    def query(connection: sa.Connection) -> sa.Select[Any]:
        def where(table: sa.FromClause) -> list[sa.ColumnElement[bool]]:
            conditions = _conditions(connection, table, names, "session", span)
            if wanted is not None:
                conditions.append(table.c.timeframe == wanted)
            if source is not None:
                conditions.append(table.c.source.in_(origins(source)))
            if table is bar:
                conditions += queries.within(bar, span)
            return conditions

        return queries.cells(where)

    return _read(database, query, names)


def gaps(
    tickers: Tickers = None,
    start: Day = None,
    end: Day = None,
    *,
    timeframe: str | None = None,
    source: str | None = None,
    database: Database = None,
) -> Rows:
    """Cells without a bar, each with its reason, attempts and last error: the table ``gap``, by ticker and session.

    Args:
        tickers: one, several, or None for all.
        start: the first session.
        end: the last session, included.
        timeframe: None: all.
        source: the vendor; None: all.
        database: see :func:`connect`.
    """
    return _table(schema.gap, "session", tickers, start, end, timeframe, source, database)


def watermarks(
    tickers: Tickers = None, *, timeframe: str | None = None, source: str | None = None, database: Database = None
) -> Rows:
    """From which session to which each ticker is accounted for: the table ``watermark``, by ticker.

    Args:
        tickers: one, several, or None for all.
        timeframe: None: all.
        source: the vendor; None: all.
        database: see :func:`connect`.
    """
    return _table(watermark, "first_session", tickers, None, None, timeframe, source, database)


def revisions(
    tickers: Tickers = None,
    start: Day = None,
    end: Day = None,
    *,
    timeframe: str | None = None,
    source: str | None = None,
    database: Database = None,
) -> Rows:
    """Old and new values of bars that the vendor changed: the table ``revision``, by ticker and session.

    Args:
        tickers: one, several, or None for all.
        start: the first session.
        end: the last session, included.
        timeframe: None: all.
        source: the vendor; None: all.
        database: see :func:`connect`.
    """
    return _table(schema.revision, "session", tickers, start, end, timeframe, source, database)


def quarantine(
    tickers: Tickers = None,
    start: Day = None,
    end: Day = None,
    *,
    timeframe: str | None = None,
    source: str | None = None,
    database: Database = None,
) -> Rows:
    """Bars that broke a rule, with the rule's name: the table ``quarantine``, by ticker and session.

    Args:
        tickers: one, several, or None for all.
        start: the first session.
        end: the last session, included.
        timeframe: None: all.
        source: the vendor; None: all.
        database: see :func:`connect`.
    """
    return _table(schema.quarantine, "session", tickers, start, end, timeframe, source, database)


def events(
    tickers: Tickers = None,
    start: Day = None,
    end: Day = None,
    *,
    timeframe: str | None = None,
    source: str | None = None,
    database: Database = None,
) -> Rows:
    """What detectors found in stored bars: the table ``event``, by ticker and session.

    Args:
        tickers: one, several, or None for all.
        start: the first session on which one was confirmed.
        end: the last one, included.
        timeframe: None: all.
        source: of the bars; None: all.
        database: see :func:`connect`.
    """
    return _table(schema.event, "session", tickers, start, end, timeframe, source, database)


def splits(
    tickers: Tickers = None,
    start: Day = None,
    end: Day = None,
    *,
    source: str | None = None,
    database: Database = None,
) -> Rows:
    """Splits as the vendor lists them now, and since when each was known: the table ``split``.

    Args:
        tickers: one, several, or None for all.
        start: the first execution date.
        end: the last one, included.
        source: the vendor; None: all.
        database: see :func:`connect`.
    """
    return _table(schema.split, "execution_date", tickers, start, end, None, source, database)


def dividends(
    tickers: Tickers = None,
    start: Day = None,
    end: Day = None,
    *,
    source: str | None = None,
    database: Database = None,
) -> Rows:
    """Dividends as the vendor lists them: the table ``dividend``.

    Args:
        tickers: one, several, or None for all.
        start: the first ex-date.
        end: the last one, included.
        source: the vendor; None: all.
        database: see :func:`connect`.
    """
    return _table(schema.dividend, "ex_date", tickers, start, end, None, source, database)


def runs(*, last: int | None = None, database: Database = None) -> Rows:
    """What runs were asked, planned, called and stored, the last one first: the table ``run`` but for its reports.

    Args:
        last: so many of them; None: all.
        database: see :func:`connect`.
    """
    if last is not None and last < 0:
        raise ConfigurationError("there are no runs of a negative number", value=last, fix="Leave last out for all.")
    run = schema.run
    columns = [column for column in run.c if column.name != "report"]
    return _read(database, lambda _: sa.select(*columns).order_by(run.c.started_at.desc(), run.c.run_id).limit(last))


def _wanted(
    tickers: Tickers,
    start: Day,
    end: Day,
    timeframe: str,
    source: str | None,
    adjusted: Adjusted,
    as_of: Instant | None,
    columns: Sequence[str] | None,
) -> Wanted:
    span, of = asked.span(start, end), asked.timeframe(timeframe)
    assert of is not None  # noqa: S101  (there is a default)
    return Wanted.checked(asked.tickers(tickers), span, of, source, adjusted, asked.instant(as_of), columns)


def _kinds(query: sa.Select[Any]) -> dict[str, sa.types.TypeEngine[Any]]:
    return {column.name: column.type for column in query.selected_columns}


def _read(
    database: Database, query: Callable[[sa.Connection], sa.Select[Any]], names: tuple[str, ...] | None = None
) -> Rows:
    """All rows of a query; of ``names``, those that have none are held against what is known at all."""
    with connect(database) as opened:
        engine = opened.engine

        def read() -> Rows:
            with transaction(engine, snapshot=True) as connection:
                wanted = query(connection)
                kinds = _kinds(wanted)
                block = joined(kinds, [*database_of(engine).selected(connection, wanted, _AT_ONCE)])
                if names:
                    found = set(block["ticker"].texts or ())
                    _check_known(connection, tuple(name for name in names if name not in found))
                return Rows(kinds, block)

        return again(engine, read)


def _table(
    table: sa.Table,
    day: str,
    tickers: Tickers,
    start: Day,
    end: Day,
    timeframe: str | None,
    source: str | None,
    database: Database,
) -> Rows:
    names, span = asked.tickers(tickers), asked.span(start, end)
    wanted = asked.timeframe(timeframe)

    def query(connection: sa.Connection) -> sa.Select[Any]:
        conditions = _conditions(connection, table, names, day, span)
        conditions += [] if wanted is None else [table.c.timeframe == wanted]
        conditions += [] if source is None else [table.c.source == source]
        return sa.select(table).where(*conditions).order_by(table.c.ticker, table.c[day], *table.primary_key)

    return _read(database, query, names)


def _conditions(
    connection: sa.Connection, table: sa.FromClause, names: tuple[str, ...] | None, day: str, span: asked.Span
) -> list[sa.ColumnElement[bool]]:
    conditions = []
    if names is not None:
        conditions.append(database_of(connection).among(connection, table.c.ticker, names))
    if span.first is not None:
        conditions.append(table.c[day] >= span.first)
    if span.last is not None:
        conditions.append(table.c[day] <= span.last)
    return conditions


def _check_known(connection: sa.Connection, names: tuple[str, ...] | None) -> None:
    """That each ticker was asked for before, by whatever run.

    Raises:
        ConfigurationError: one was not; most likely it is misspelt.
    """
    if not names:
        return
    listed = database_of(connection).rows(connection, "listed", {"ticker": (bar.c.ticker.type, names)})
    tables = (watermark, bar, schema.split, schema.ticker_history)
    met = [sa.exists().where(table.c.ticker == listed.c.ticker) for table in tables]
    query = sa.select(listed.c.ticker).where(*(sa.not_(there) for there in met))
    if missing := sorted(connection.execute(query).scalars()):
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} others" if len(missing) > 10 else "")
        raise ConfigurationError(
            "nothing is stored of these tickers",
            value=shown,
            fix="Write them as the vendor does, capitals and dots included, or fetch them: closingbell ingest.",
        )
