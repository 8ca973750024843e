"""What a kind of database has to be able to do beside the SQL that SQLAlchemy writes for all of them.

Each kind is one class in one file: ``postgres.py``, ``oracle.py``; a third database is a third file. Whatever else
is in this package knows none of them by name: it reaches the one it works with through :func:`database_of`.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, ClassVar, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

from closingbell.bars import Bars
from closingbell.cells import Watermark
from closingbell.errors import ClosingbellError
from closingbell.store.selected import Block, block_of

#: A column of values, for :meth:`Database.rows`: its type, and as many values as there are rows.
Values = tuple[TypeEngine[Any] | type[TypeEngine[Any]], Sequence[Any]]

_OPTION: Final = "closingbell_database"

#: Seconds that a pooled connection may have been idle and still be taken to stand. Asked before each transaction, a
#: server on another machine would answer thousands of questions a run whose answer the transaction itself gives.
_IDLE: Final = 1.0

#: Where a pooled connection has the time when it was used last.
_LEFT: Final = "closingbell_left"


@dataclass(frozen=True, slots=True)
class Series:
    """Whose bars: what all bars of a flush have in common.

    Attributes:
        source: the vendor.
        timeframe: of the bars.
        run_id: the run that writes them.
        origin: what ``bar.source`` is to say, where that is not the vendor's name alone (:mod:`.origin`).
    """

    source: str
    timeframe: str
    run_id: UUID
    origin: str = ""

    @property
    def written(self) -> str:
        """What ``bar.source`` says of these bars."""
        return self.origin or self.source


class Database(ABC):
    """A kind of database; one object for each engine, safe to use from several threads.

    Attributes:
        name: what SQLAlchemy calls it.
        port: where it listens unless the URL says otherwise.
        bounds_statements: what bounds the wait for a lock bounds all that a statement does.
        snapshot: the execution options of a transaction that only reads, all of it as of the same moment.
    """

    name: ClassVar[str]
    port: ClassVar[int]
    bounds_statements: ClassVar[bool] = False
    snapshot: ClassVar[Mapping[str, Any]]

    # -- connecting --------------------------------------------------------------------------------------------

    @abstractmethod
    def engine(self, url: sa.URL, connections: int) -> sa.Engine:
        """An engine that connects only when first used, and to another machine over TLS.

        Args:
            url: as the user wrote it, in its parts.
            connections: how many threads may write at once.

        Raises:
            ConfigurationError: the URL's options cannot be used.
        """

    @abstractmethod
    def explain(self, error: Exception, url: sa.URL) -> ClosingbellError:
        """The project's error for one of the driver's or SQLAlchemy's, without any secret."""

    # -- transactions ------------------------------------------------------------------------------------------

    @abstractmethod
    def bound(self, connection: sa.Connection, lock_timeout: float) -> Any:
        """First in a transaction: bound how long it waits for a lock.

        Args:
            connection: in a transaction.
            lock_timeout: seconds; 0: no limit.

        Returns:
            What :meth:`cancel` knows it by; None: without a limit nobody asks.
        """

    @abstractmethod
    def begin(self, connection: sa.Connection, lock_timeout: float, tries: int) -> Any:
        """First in a transaction that writes: bound its waiting, and make it possible to find out what became of it.

        Args:
            connection: in a transaction.
            lock_timeout: seconds that it waits for a lock; 0: no limit.
            tries: how often the same work has waited so long in vain.

        Returns:
            What :meth:`fate` looks it up by.
        """

    @abstractmethod
    def cancel(self, connection: sa.Connection, driver: Any, session: Any) -> None:
        """Break off the statement that a transaction waits for, if it waits for one.

        Args:
            connection: another one.
            driver: the transaction's connection, as the driver has it.
            session: what :meth:`bound` or :meth:`begin` returned.
        """

    @abstractmethod
    def fate(self, connection: sa.Connection, begun: Any, *, committing: bool) -> bool:
        """Whether a transaction whose connection was lost was committed; its locks are gone when this returns.

        Args:
            connection: in a transaction of its own.
            begun: of the one that was lost.
            committing: all of it was done but the commit.

        Returns:
            True: it is known to be committed. False: it was not, or nobody knows any more.

        Raises:
            AwayError: it is not over yet.
        """

    def committed(self, begun: Any) -> None:  # noqa: B027  (not all need it)
        """A transaction is known to be committed: nobody will ask for its fate."""

    def lost(self) -> None:  # noqa: B027  (not all need it)
        """The database was away, or took no writes: whoever answers next may be another server."""

    def forget(self, connection: sa.Connection) -> None:  # noqa: B027  (not all need it)
        """Delete what transactions and locks of the past have left behind, if anything."""

    @abstractmethod
    def holders(self, connection: sa.Connection, begun: Any) -> list[str]:
        """Who keeps a transaction waiting for a lock, in words, as far as this connection's user may know it."""

    # -- locks -------------------------------------------------------------------------------------------------

    @abstractmethod
    def lock(self, connection: sa.Connection, name: str) -> None:
        """Wait for a lock of a name, at most 64 characters, and hold it until the transaction ends."""

    @abstractmethod
    def try_lock(self, connection: sa.Connection, name: str) -> bool:
        """The same without waiting: False while another transaction holds it."""

    def prepare(self, connection: sa.Connection) -> None:  # noqa: B027  (not all need it)
        """Make what locks need, where it is not there: before the first migration; commits."""

    @abstractmethod
    def keep_idle(self, connection: sa.Connection) -> None:
        """Let a transaction be idle from second to second, but end it soon when its client's machine is gone."""

    def relaxed(self, connection: sa.Connection) -> None:  # noqa: B027  (not all need it)
        """Let a transaction's commit not wait for the disk: what it writes may be lost with the server."""

    # -- values ------------------------------------------------------------------------------------------------

    @abstractmethod
    def rows(self, connection: sa.Connection, name: str, columns: Mapping[str, Values]) -> sa.FromClause:
        """Values as a table, for statements of this transaction to join, select from or merge.

        Args:
            connection: in a transaction.
            name: what the table is called in the statements.
            columns: the table's columns; all have the same number of values.

        Returns:
            Something to select from, its columns typed, with as many rows as there are values.
        """

    def among(
        self, connection: sa.Connection, column: sa.ColumnElement[Any], values: Iterable[Any]
    ) -> sa.ColumnElement[bool]:
        """That a column has one of some values, however many there are."""
        listed = self.rows(connection, "listed", {"wanted": (column.type, list(values))})
        return column.in_(sa.select(listed.c.wanted))

    @classmethod
    @abstractmethod
    def one_of(cls, column: sa.ColumnElement[str], name: str) -> sa.ColumnElement[bool]:
        """The same of texts, for statements that are built once: ``name`` is bound to what :meth:`listing` gives."""

    @abstractmethod
    def listing(self, connection: sa.Connection, values: Iterable[str]) -> Any:
        """Texts as :meth:`one_of` takes them, for one statement of this transaction."""

    def lists(self, column: sa.ColumnElement[Any], text: str) -> sa.ColumnElement[bool]:
        """That a list of texts, kept as JSON, has a text."""
        return sa.func.instr(column, sa.literal(json.dumps(text), sa.String)) > 0

    @abstractmethod
    def insert_missing(
        self,
        connection: sa.Connection,
        table: sa.Table,
        values: Mapping[str, sa.ColumnElement[Any]],
        rows: sa.Select[Any],
    ) -> int:
        """Insert rows whose key is not in the table, and leave those alone that are there; how many were inserted.

        Args:
            connection: in a transaction.
            table: the table.
            values: the columns of ``rows`` by the table's columns, in their order.
            rows: the rows.

        Raises:
            OvertakenError: another transaction has inserted one of them meanwhile, where it cannot be passed over.
        """

    # -- watermarks --------------------------------------------------------------------------------------------

    def stretch(
        self, connection: sa.Connection, series: Series, tickers: Sequence[str], first: date, last: date
    ) -> Mapping[str, Watermark] | None:
        """Lock the watermarks of some tickers in their order and stretch them over a span, in one statement.

        Args:
            connection: in a transaction.
            series: whose they are.
            tickers: in order, byte by byte.
            first: the first session that they are to take in.
            last: the last one.

        Returns:
            What those that there are were before; None: it takes more than one statement here, and nothing is done.
        """
        return None

    def make_marks(self, connection: sa.Connection, series: Series, marks: Mapping[str, Watermark]) -> int | None:
        """Make watermarks in the order of their tickers, except those that there are.

        Args:
            connection: in a transaction.
            series: whose they are.
            marks: by ticker, in order, byte by byte.

        Returns:
            How many were made; None: there is no shorter way here than that of any table, and nothing is done.
        """
        return None

    # -- bars --------------------------------------------------------------------------------------------------

    @abstractmethod
    def load(self, connection: sa.Connection, series: Series, fresh: Sequence[Bars], others: Bars) -> tuple[int, int]:
        """Write bars: insert what is not there, rewrite what differs and keep its old values as a revision.

        Args:
            connection: in a transaction that has locked the watermarks of the bars' tickers.
            series: whose bars they are.
            fresh: blocks of bars, none empty, of cells that have none by the ledger; where one is there all the same,
                they are compared.
            others: bars to be compared with those that are stored; of several of one key the last one counts.

        Returns:
            How many were inserted, and how many rewritten.
        """

    @abstractmethod
    def refused(self, connection: sa.Connection, series: Series, bars: Bars) -> dict[int, str]:
        """The bars that the database refuses, by their positions, and its words.

        Args:
            connection: in a transaction that holds the locks of a flush, and is to be undone.
            series: whose bars they are.
            bars: each key once.

        Raises:
            FatalError: the database takes no bar at all, or refuses very many.
        """

    @abstractmethod
    def series(
        self, connection: sa.Connection, source: str, timeframe: str, tickers: Sequence[str], first: date, last: date
    ) -> Bars:
        """A vendor's stored bars of some tickers from session ``first`` to session ``last``, by ticker and ``ts``."""

    # -- reading -----------------------------------------------------------------------------------------------

    @abstractmethod
    def known(
        self, connection: sa.Connection, relation: str, columns: Sequence[sa.ColumnClause[Any]], instant: datetime
    ) -> sa.FromClause:
        """``bar_as_of`` or another relation of an instant, to select from in this transaction.

        Args:
            connection: in a transaction, in which no other instant is asked for.
            relation: its name.
            columns: those of its columns that are used.
            instant: aware.
        """

    def each(
        self,
        connection: sa.Connection,
        tickers: Sequence[str],
        query: Callable[[Callable[[sa.ColumnElement[str]], sa.ColumnElement[bool]]], sa.Select[Any]],
    ) -> sa.Select[Any]:
        """A query for the rows of some tickers, by ticker and ``ts``.

        Args:
            connection: in a transaction.
            tickers: in order, byte by byte; each once.
            query: makes it, given what turns the column of tickers into the condition that it is one of them; its
                rows have ``ticker`` and ``ts``.
        """
        made = query(lambda column: self.among(connection, column, tickers))
        return made.order_by(made.selected_columns["ticker"], made.selected_columns["ts"])

    def selected(self, connection: sa.Connection, query: sa.Select[Any], rows: int) -> Iterator[Block]:
        """The rows of a query as columns, block by block.

        Whoever does not take all blocks closes the generator, and then uses the connection for nothing more.

        Args:
            connection: in a transaction that only reads.
            query: its columns are named and typed.
            rows: how many there are in a block; in the last one there may be fewer.
        """
        kinds = {column.name: column.type for column in query.selected_columns}
        with connection.execution_options(yield_per=rows).execute(query) as result:
            for part in result.partitions():
                yield block_of(kinds, part)

    # -- schema ------------------------------------------------------------------------------------------------

    @abstractmethod
    def views(self) -> Sequence[str]:
        """The statements that create what is derived and never stored, in order."""

    @abstractmethod
    def drop_views(self) -> Sequence[str]:
        """The statements that drop it."""

    @abstractmethod
    def analyze(self, connection: sa.Connection, table: sa.Table) -> None:
        """Tell the planner of a table that has just been filled, where it would take it for an empty one."""

    def prepared_until(self, connection: sa.Connection) -> date | None:
        """The day from which on bars share one last partition of their table; None: it has none, or needs none."""
        return None

    def prepare_until(self, connection: sa.Connection, day: date) -> bool:
        """Make partitions of the bars' table up to a day, the first of a quarter, as its owner; whether any were."""
        return False

    # -- grants ------------------------------------------------------------------------------------------------

    @abstractmethod
    def role(self, connection: sa.Connection, name: str) -> str:
        """A role, or a user, as the database spells it.

        Raises:
            ConfigurationError: there is none, as far as the database tells before something is granted to it.
        """

    @abstractmethod
    def grant(self, connection: sa.Connection, role: str, *, writes: bool) -> None:
        """Let a role read, or read and write, the tables and views of this project, and no more.

        Args:
            connection: of the tables' owner.
            role: as :meth:`role` spells it.
            writes: whether it may do all that a run does.

        Raises:
            ConfigurationError: there is no such role, or the connection's user may not grant what it needs.
        """

    # -- the present -------------------------------------------------------------------------------------------

    def option(self) -> dict[str, Database]:
        """What binds it to an engine, as its execution options."""
        return {_OPTION: self}


def database_of(bind: sa.Engine | sa.Connection) -> Database:
    """The kind of database that an engine or a connection leads to."""
    found = bind.get_execution_options()[_OPTION]
    assert isinstance(found, Database)  # noqa: S101  (bound by open_store)
    return found


def moment(value: datetime) -> sa.ColumnElement[datetime]:
    """An aware instant as a bound value."""
    return sa.literal(value, sa.DateTime(timezone=True))


def in_words(session: str, user: str | None, program: str | None, state: str | None, since: datetime | None) -> str:
    """A session of the database in words, as far as we may know it."""
    known = [f"user {user}" if user else "", program or "", state or ""]
    told = ", ".join([*filter(None, known), *([f"since {since:%Y-%m-%d %H:%M:%S %Z}".rstrip()] if since else [])])
    return f"{session} ({told})" if told else session


def ping_idle(engine: sa.Engine) -> None:
    """Have connections that were idle for a while asked whether they still stand, before they are used again.

    One that was lost is replaced, and with it all that are as old: a server was restarted, or a firewall forgot them.

    Args:
        engine: before it connects.
    """

    def left(_: object, record: sa.pool.ConnectionPoolEntry) -> None:
        record.info[_LEFT] = time.monotonic()

    def taken(driver: Any, record: sa.pool.ConnectionPoolEntry, _: object) -> None:
        since = record.info.get(_LEFT)  # forgotten when the record gets a new connection
        if since is None or time.monotonic() - since < _IDLE:
            return
        with suppress(engine.dialect.loaded_dbapi.Error):
            if engine.dialect.do_ping(driver):
                return
        raise sa.exc.InvalidatePoolError

    sa.event.listen(engine, "checkin", left)
    sa.event.listen(engine, "checkout", taken)
