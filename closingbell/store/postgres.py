"""PostgreSQL 15 or newer, through psycopg2.

``bar`` is divided into partitions (:mod:`.partitions`); statements bound the instants of the bars they are about, so
that the planner opens no more of them than there are bars in.

Bars of cells that the ledger knows to be empty go by binary COPY straight into ``bar``, in the order of its key. For
the others the stored bars are read by COPY and compared here: those that are the same cost nothing more, those that
are not stored go straight into ``bar`` too. Those that differ go by COPY into a temporary table and from there by one
MERGE, which compares once more; each one it rewrites leaves a revision.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import date, datetime
from types import NoneType
from typing import Any, ClassVar, Final
from uuid import UUID

import numpy as np
import psycopg2.errors
import sqlalchemy as sa
from numpy.typing import NDArray
from psycopg2 import sql
from psycopg2.extensions import encodings
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles

from closingbell.bars import BAR, NO_TRADES, VALUES, Bars
from closingbell.cells import Watermark
from closingbell.errors import ClosingbellError, ConfigurationError, FatalError
from closingbell.hosts import is_here
from closingbell.store import copied, partitions
from closingbell.store.columns import around, ascends, bounds, in_key_order, joined, latest, ordered
from closingbell.store.copy import Field, Rows, parse
from closingbell.store.database import Database, Series, Values, in_words, ping_idle
from closingbell.store.faults import (
    FORBIDDEN,
    FULL,
    LOCKED,
    LOGIN_REFUSED,
    MESSAGE_LENGTH,
    NO_COLUMN,
    NO_DATABASE,
    NO_TABLE,
    RACE,
    READ_ONLY,
    REFUSED,
    SILENT,
    UNREACHABLE,
    AwayError,
    Known,
    RaceError,
    RefusedError,
    chain,
    driver_errors,
    explain,
    unreadable,
    was_invalidated,
    without_secrets,
)
from closingbell.store.merge import Merge
from closingbell.store.origin import origins
from closingbell.store.refusals import find_poison
from closingbell.store.schema import VERSION, Json, Ticker, metadata
from closingbell.store.selected import Block
from closingbell.store.views import VIEWS, Views
from closingbell.text import visible

#: A network that falls silent in the middle of a statement is noticed in a minute, not in hours.
_KEEPALIVE: Final = {
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}

# -- TLS -----------------------------------------------------------------------------------------------------------


def tls_of(url: sa.URL) -> dict[str, str] | None:
    """What to add to the client library's options: ``sslmode=require`` where the way leads over a network.

    It does not where every host is this machine, by a loopback address, by ``localhost`` or by the path of a socket;
    nor where the URL has an ``sslmode`` of its own, or names a service, whose file may have one. The certificate is
    then only looked at by ``verify-ca`` and ``verify-full``, or where ``~/.postgresql/root.crt`` is there.

    Args:
        url: for psycopg2.

    Returns:
        The options to add; None where the URL's hosts and ports cannot be told apart.
    """
    try:
        options = url.get_dialect()().create_connect_args(url)[1]
    except (sa.exc.ArgumentError, ValueError):
        return None
    if "sslmode" in options or "service" in options:
        return {}
    hosts = str(options.get("hostaddr") or options.get("host") or "").split(",")
    return {} if all(map(is_here, hosts)) else {"sslmode": "require"}


# -- errors --------------------------------------------------------------------------------------------------------

_CROWDED: Final[Known] = (
    AwayError,
    "the database has no free connection",
    "Lower FETCH_THREADS, or raise its max_connections.",
)
_NO_TLS: Final[Known] = (
    ConfigurationError,
    "the database does not speak TLS",
    "Switch TLS on there, or, if the network in between is trusted, add ?sslmode=disable to DATABASE_URL.",
)
_BAD_TLS: Final[Known] = (
    ConfigurationError,
    "the database's TLS certificate cannot be verified",
    "Set sslrootcert in DATABASE_URL to the authority's certificate, and use the host name that it was issued for.",
)
_BAD_OPTION: Final[Known] = (ConfigurationError, "DATABASE_URL has an option that cannot be used", "Remove it.")

#: SQLSTATE -> what kind of error, what is wrong and what to do (PostgreSQL documentation, appendix A). Longest prefix
#: wins.
_STATES: Final[dict[str, Known]] = {
    "08": UNREACHABLE,
    "25006": READ_ONLY,
    "25P03": UNREACHABLE,
    "25P04": (
        UNREACHABLE[0],
        "the database ended a transaction that took too long",
        "Raise transaction_timeout for this user: ALTER ROLE NAME SET transaction_timeout = '10min'.",
    ),
    "28": LOGIN_REFUSED,
    "3D000": NO_DATABASE,
    "40": RACE,
    "42501": FORBIDDEN,
    "42P01": NO_TABLE,
    "42703": NO_COLUMN,
    "53100": FULL,
    "53200": (AwayError, "the database server is out of memory", "Give it more, or lower FETCH_THREADS."),
    "53300": _CROWDED,
    "55P03": LOCKED,
    "57014": (
        RaceError,
        "the database cancelled a statement",
        "Raise statement_timeout for this user if it is set: ALTER ROLE NAME SET statement_timeout = '10min'.",
    ),
    "57P01": UNREACHABLE,
    "57P02": UNREACHABLE,
    "57P03": UNREACHABLE,
    "57P05": UNREACHABLE,
}

#: Classes of SQLSTATE by which a server refuses values: data, integrity, views' and triggers' own.
_OF_VALUES: Final = ("22", "23", "27", "38", "39", "44", "P0", "09", "2F")

#: Classes that PostgreSQL has taken of those that the standard leaves to implementations; others are somebody's own,
#: from a trigger.
_OF_POSTGRES: Final = ("53", "54", "55", "57", "58", "72", "F0", "HV", "XX")

#: What the client library says of a login that failed: it hands on the words, not the SQLSTATE.
_LOGIN: Final = (
    ("No space left on device", "53100"),
    ("too many c", "53300"),  # clients; connections for a role or a database
    ("connection slots are reserved", "53300"),
    ("no more connections allowed", "53300"),  # pgbouncer
    ("database system is ", "57P03"),  # starting up, shutting down, in recovery mode
    ("session is read-only", "25006"),  # target_session_attrs
    ("server is in hot standby mode", "25006"),
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("SASL authentication failed", "28P01"),  # pgbouncer
    ("permission denied for database", "42501"),
    ('role "', "28000"),
    ("does not exist", "3D000"),
    ("no such database", "3D000"),  # pgbouncer
)

#: The same for what is wrong before a login.
_WORDS: Final = (
    ("does not support SSL", _NO_TLS),
    ("certificate verify failed", _BAD_TLS),
    ("does not match host name", _BAD_TLS),
    ("root certificate file", _BAD_TLS),
    ("invalid dsn", _BAD_OPTION),
    ("invalid connection option", _BAD_OPTION),
    ("unsupported startup parameter", _BAD_OPTION),  # pgbouncer
)


def _known(error: Exception, state: str | None, text: str) -> tuple[Known | None, str]:
    """What an error is, if anybody knows, and its SQLSTATE, or the one that its words stand for."""
    known: Known | None = None
    if state is None:
        known = next((what for words, what in _WORDS if words in text), None)
        state = next((code for words, code in _LOGIN if words in text), "")
    prefix = max((prefix for prefix in _STATES if state.startswith(prefix)), key=len, default=None)
    if known is None and prefix:
        known = _STATES[prefix]
    if isinstance(error, sa.exc.TimeoutError):
        known = _CROWDED
    elif known is None and any(map(_lost_connection, chain(error))):
        known = UNREACHABLE
    return (SILENT if known is UNREACHABLE and "FATAL" not in text else known), state


def _is_of_values(state: str) -> bool:
    """Whether such an error is about what should be stored, not about who, where or how."""
    own = state[0] in "56789IJKLMNOPQRSTUVWXYZ" and not state.startswith(_OF_POSTGRES)
    return own or state.startswith(_OF_VALUES)


def _message(error: Exception, url: sa.URL) -> str:
    """What the server says was wrong, and of what, as far as it says so without repeating the row."""
    diag: Any = next((found for each in chain(error) if (found := getattr(each, "diag", None))), None)
    if diag is None or not diag.message_primary:
        return ""
    detail = diag.message_detail or ""
    more = f" ({detail})" if detail and not detail.startswith("Failing row") else ""
    return without_secrets(" ".join(f"{diag.message_primary}{more}".split()), url)[:MESSAGE_LENGTH]


def _lost_connection(error: BaseException) -> bool:
    """Whether there is no connection, or no longer: such an error has no SQLSTATE, and often the plainest class."""
    if isinstance(error, sa.exc.DBAPIError):
        return was_invalidated(error)
    of_connections = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    return (of_connections or type(error) is psycopg2.DatabaseError) and not _sqlstate(error)


def _sqlstate(error: BaseException) -> str | None:
    code = getattr(error, "pgcode", None)
    return code if isinstance(code, str) else None


def _telling_line(error: Exception, url: sa.URL) -> str:
    """The server's own words where there are any (a name with several addresses brings a line for each)."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
    return without_secrets(next((line for line in lines if "FATAL" in line), lines[0]), url)


def _read_in_full(engine: sa.Engine) -> None:
    """Have numbers come as they are stored from a server that rounds them in text (``extra_float_digits`` below 1).

    Else a bar that is read would not be the one that is stored. A database, a role or a server may be set so.

    Args:
        engine: before it connects.
    """

    def met(driver: Any, _: object) -> None:
        driver.autocommit = True  # and so no transaction is left open
        with driver.cursor() as cursor:
            cursor.execute("SELECT CAST(current_setting('extra_float_digits') AS int) < 1")
            (rounds,) = cursor.fetchone()
        driver.autocommit = False
        if rounds:
            sa.event.listen(engine, "begin", in_full)

    def in_full(connection: sa.Connection) -> None:
        connection.execute(_IN_FULL)

    sa.event.listen(engine, "first_connect", met)


# -- transactions --------------------------------------------------------------------------------------------------

#: For one transaction only, so that a pooler cannot hand it on; as all that is set here.
_IN_FULL: Final = sa.text("SELECT set_config('extra_float_digits', '1', true)")

_LOCK_TIMEOUT: Final = sa.text("SELECT pg_backend_pid(), set_config('lock_timeout', :lock_timeout, true)")

#: Not the driver's own way, which waits for a server that has gone silent without letting other threads go on.
_CANCEL: Final = sa.text("SELECT pg_cancel_backend(:pid)")

#: First in each transaction that writes: how long it waits for a lock, and how long its client may be silent before
#: it loses its own (its machine died; both for itself only, so that a pooler cannot hand it on), its number and its
#: session.
_BEGIN: Final = sa.text("""
    SELECT set_config('lock_timeout', :lock_timeout, true) AS lock_timeout,
        set_config('idle_in_transaction_session_timeout', '60s', true) AS silence,
        CAST(pg_current_xact_id() AS text) AS xid, pg_backend_pid() AS pid
""")

#: Of which history of which cluster such a number is: a standby that takes over begins a new timeline. Not every
#: hosted database tells.
_HISTORY: Final = sa.text("""
    SELECT (SELECT CAST(system_identifier AS text) FROM pg_control_system())
        || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
""")

#: What became of a transaction; NULL where it is too long ago.
_FATE: Final = sa.text("""
    SELECT CASE WHEN pg_is_in_recovery() THEN 'recovering' ELSE pg_xact_status(CAST(:xid AS xid8)) END
""")

#: Ends the session of a transaction that has lost its client: it would keep its locks until the server notices. One
#: that is in the middle of its commit is left to it.
_END_ORPHAN: Final = sa.text("""
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE pid = :pid AND backend_xid = CAST(CAST(:xid AS xid8) AS xid) AND (state LIKE 'idle%' OR NOT :committing)
""")

_HOLDERS: Final = sa.text("""
    SELECT blocking.pid, usename, application_name, state, xact_start
    FROM unnest(pg_blocking_pids(:pid)) AS blocking (pid) LEFT JOIN pg_stat_activity USING (pid)
    ORDER BY xact_start LIMIT 3
""")


@dataclass(frozen=True, slots=True)
class _Begun:
    """A transaction that has begun: its number, its session, and the history that the number belongs to, if known."""

    xid: str
    pid: int
    history: str


def _history_now(connection: sa.Connection) -> str:
    """Of which history the server's transaction numbers are; "": it does not tell."""
    try:
        with connection.begin_nested():
            return str(connection.execute(_HISTORY).scalar_one())
    except driver_errors(connection) as error:
        failure = explain(error, connection)
    if isinstance(failure, ConfigurationError | FatalError):
        return ""
    raise failure


def _holder(pid: int, user: str | None, application: str | None, state: str | None, since: datetime | None) -> str:
    return in_words(f"pid {pid}", user, application, state, since) if pid else "a prepared transaction"


def _array(kind: sa.types.TypeEngine[Any]) -> postgresql.ARRAY[Any]:
    """Values of a type. Texts without its length: a cast would cut them to it without a word, and store another's."""
    return postgresql.ARRAY(sa.Text() if isinstance(kind, sa.String) else kind)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


#: How an array's literal has its elements.
_ELEMENTS: Final[Mapping[type, Callable[[Any], str]]] = {
    NoneType: lambda _: "NULL",
    str: _quoted,
    int: str,
    bool: str,
    float: repr,
    date: date.isoformat,
    datetime: datetime.isoformat,
    UUID: str,
}


def _listed(kind: sa.types.TypeEngine[Any], values: Sequence[Any]) -> sa.ColumnElement[Any]:
    """Values as an array: one literal, which the server reads many times faster than an expression of single ones."""
    array = _array(kind)
    if not isinstance(kind, sa.JSON):
        with suppress(KeyError):
            text = _array_text(values, few=isinstance(kind, sa.String | sa.Date | sa.DateTime))
            return sa.cast(sa.literal(text, sa.Text), array)
    return sa.cast(sa.literal(list(values), array), array)


def _array_text(values: Sequence[Any], *, few: bool = False) -> str:
    """An array as PostgreSQL writes it.

    Args:
        values: what it holds.
        few: mostly the same few values, time and again.

    Raises:
        KeyError: a value is of no type that is known here.
    """
    if values and type(values[0]) is str:
        with suppress(TypeError):  # not all of them are texts
            inside = '","'.join(values)
            if "\\" not in inside and inside.count('"') == 2 * (len(values) - 1):
                return f'{{"{inside}"}}'
    if few:
        known = {value: _ELEMENTS[type(value)](value) for value in set(values)}
        return f"{{{','.join([known[value] for value in values])}}}"
    return f"{{{','.join([_ELEMENTS[type(value)](value) for value in values])}}}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


# -- SQL -----------------------------------------------------------------------------------------------------------


@compiles(Ticker, "postgresql")
def _compile_ticker(type_: Ticker, compiler: Any, **options: Any) -> str:
    return f'VARCHAR({type_.length}) COLLATE "C"'


@compiles(Json, "postgresql")
def _compile_json(type_: Json, compiler: Any, **options: Any) -> str:
    return "JSONB"


@compiles(Merge, "postgresql")
def _compile_merge(merge: Merge, compiler: Any, **options: Any) -> str:
    table, source, on, sets, where, inserts = merge.parts(compiler, **options)
    text = f"MERGE INTO {table} USING {source} ON {on}"
    if sets:
        text += f" WHEN MATCHED{f' AND {where}' if where else ''} THEN UPDATE SET {sets}"
    return text + (f" WHEN NOT MATCHED THEN INSERT {inserts}" if inserts else "")


_COLUMNS: Final = "ticker, timeframe, session, ts, open, high, low, close, volume, vwap, trades, source, run_id"

_LOCK: Final = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
_TRY_LOCK: Final = sa.text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")

_RELAXED: Final = sa.text("SELECT set_config('synchronous_commit', 'off', true)")

#: The transaction that holds a run's lock is idle from beat to beat, and lasts as long as the run, which PostgreSQL 17
#: and newer may be set to limit. A machine that dies without a word is found out in a minute.
_KEEP_IDLE: Final = sa.text("""
    SELECT set_config('idle_in_transaction_session_timeout', '60s', true),
        (SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout'),
        set_config('tcp_keepalives_idle', '20', true), set_config('tcp_keepalives_interval', '10', true),
        set_config('tcp_keepalives_count', '3', true)
""")

#: Into ``bar``, of :func:`whole_rows`.
COPY: Final = f"COPY bar ({_COLUMNS}) FROM STDIN (FORMAT binary)"

#: In one question with the COPY: it is not released, which would be one more, but ends with the transaction.
_SAVEPOINT: Final = "SAVEPOINT bars; "
_BACK: Final = sa.text("ROLLBACK TO SAVEPOINT bars")

#: What has to differ from what is stored, or is compared in the database for some other reason. Made once a session
#: and emptied at each commit. A pooler gives the session, and the table with it, to other clients of the same user,
#: older versions of this program among them: whoever changes the columns changes the name.
_STAGE: Final = """
    CREATE TEMPORARY TABLE IF NOT EXISTS staged_bar_2 (
        ticker varchar(32) COLLATE "C" NOT NULL, session date NOT NULL, ts timestamptz NOT NULL,
        open float8 NOT NULL, high float8 NOT NULL, low float8 NOT NULL, close float8 NOT NULL,
        volume float8 NOT NULL, vwap float8, trades bigint
    ) ON COMMIT DELETE ROWS;
"""

_EMPTY_STAGE: Final = sa.text("TRUNCATE staged_bar_2")

_COPY_TO_STAGE: Final = (
    "COPY staged_bar_2 (ticker, session, ts, open, high, low, close, volume, vwap, trades) FROM STDIN (FORMAT binary)"
)

#: Each staged row looks its bar up by the key, whatever the planner believes. It knows nothing of a table that has
#: just been filled, and where it takes it for empty, it compares every staged row with every bar.
_BY_KEY: Final = """
    SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_material = off;
    SET LOCAL jit = off;
"""
_AS_BEFORE: Final = sa.text("""
    SET LOCAL enable_hashjoin = DEFAULT; SET LOCAL enable_mergejoin = DEFAULT; SET LOCAL enable_material = DEFAULT;
    SET LOCAL jit = DEFAULT
""")

_SAME = """
    bar.ticker = staged.ticker AND bar.timeframe = :timeframe AND bar.ts = staged.ts AND bar.ts BETWEEN :lo AND :hi
"""

_DIFFERS = """
    (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.vwap, bar.trades) IS DISTINCT FROM
    (staged.open, staged.high, staged.low, staged.close, staged.volume, staged.vwap, staged.trades)
"""

# Locked, in the order of the key: another vendor's flush, which holds other watermarks, may be at the same bars.
_REVISE: Final = sa.text(f"""
    INSERT INTO revision (source, ticker, timeframe, session, ts,
        old_open, old_high, old_low, old_close, old_volume, old_vwap, old_trades,
        new_open, new_high, new_low, new_close, new_volume, new_vwap, new_trades, run_id, old_run_id, seen_at)
    SELECT :source, old.ticker, old.timeframe, old.session, old.ts,
        old.open, old.high, old.low, old.close, old.volume, old.vwap, old.trades,
        staged.open, staged.high, staged.low, staged.close, staged.volume, staged.vwap, staged.trades, :run_id,
        old.run_id, COALESCE((SELECT as_of FROM run WHERE run_id = :run_id), now())
    FROM staged_bar_2 AS staged
    CROSS JOIN LATERAL (SELECT * FROM bar WHERE {_SAME} AND {_DIFFERS} FOR UPDATE) AS old
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))  # noqa: S608  (fixed text, no value in it)

_MERGE: Final = sa.text(f"""
    MERGE INTO bar USING staged_bar_2 AS staged ON {_SAME}
    WHEN MATCHED AND {_DIFFERS} THEN UPDATE SET
        open = staged.open, high = staged.high, low = staged.low, close = staged.close,
        volume = staged.volume, vwap = staged.vwap, trades = staged.trades, source = :written, run_id = :run_id
    WHEN NOT MATCHED THEN INSERT
        (ticker, timeframe, session, ts, open, high, low, close, volume, vwap, trades, source, run_id)
        VALUES (staged.ticker, :timeframe, staged.session, staged.ts, staged.open, staged.high, staged.low,
                staged.close, staged.volume, staged.vwap, staged.trades, :written, :run_id)
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))  # noqa: S608  (fixed text, no value in it)

#: A bar of none of these tickers, taken out and put back as it was.
_PUT_BACK: Final = sa.text("""
    WITH one AS (
        SELECT ticker, timeframe, ts FROM bar WHERE timeframe = :timeframe AND ticker <> ALL(CAST(:tickers AS text[]))
        LIMIT 1 FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM bar USING one
        WHERE bar.ticker = one.ticker AND bar.timeframe = one.timeframe AND bar.ts = one.ts
        RETURNING bar.*
    )
    INSERT INTO bar SELECT * FROM gone
""")

#: Constraints that are to be checked at the commit are so now.
_AT_ONCE: Final = sa.text("SET CONSTRAINTS ALL IMMEDIATE")

# Bound by the driver (COPY takes no parameters on the wire). OFFSET 0: each ticker, or span, is looked up by itself.
# The bars of a ticker come as they lie in the table, mostly by time: sorting a year of minutes there takes longer than
# reading it, and here nothing.
_SERIES: Final = """
    COPY (
        SELECT CAST(named.n - 1 AS integer), bar.session, bar.ts, bar.open, bar.high, bar.low, bar.close, bar.volume,
            coalesce(bar.vwap, 'NaN'), coalesce(bar.trades, -1)
        FROM unnest(CAST(%(tickers)s AS text[])) WITH ORDINALITY AS named (ticker, n)
        CROSS JOIN LATERAL (
            SELECT * FROM bar WHERE bar.ticker = named.ticker AND bar.timeframe = %(timeframe)s
                AND bar.source = ANY(%(sources)s) AND bar.ts BETWEEN %(lo)s AND %(hi)s
                AND bar.session BETWEEN %(first)s AND %(last)s
            OFFSET 0
        ) AS bar
    ) TO STDOUT (FORMAT binary)
"""

_STORED: Final = """
    COPY (
        SELECT CAST(span.n - 1 AS integer), bar.ts, bar.open, bar.high, bar.low, bar.close, bar.volume,
            coalesce(bar.vwap, 'NaN'), coalesce(bar.trades, -1)
        FROM unnest(CAST(%(tickers)s AS text[]), CAST(%(first)s AS timestamptz[]), CAST(%(last)s AS timestamptz[]))
            WITH ORDINALITY AS span (ticker, first, last, n)
        CROSS JOIN LATERAL (
            SELECT * FROM bar WHERE bar.ticker = span.ticker AND bar.timeframe = %(timeframe)s
                AND bar.ts BETWEEN span.first AND span.last AND bar.ts BETWEEN %(lo)s AND %(hi)s
            ORDER BY bar.ticker, bar.timeframe, bar.ts OFFSET 0
        ) AS bar
    ) TO STDOUT (FORMAT binary)
"""

#: Where one bar opens later than this after the one before, what is stored between them is not read.
_APART: Final = np.timedelta64(7, "D")

#: Bars that are compared at once.
_COMPARED: Final = 65_536

_FIELDS: Final = (
    ("ticker", "int4"),
    ("session", "date"),
    ("ts", "timestamptz"),
    *((name, "float8") for name in ("open", "high", "low", "close", "volume", "vwap")),
    ("trades", "int8"),
)
_STORED_FIELDS: Final = (("span", "int4"), *_FIELDS[2:])


# -- views ---------------------------------------------------------------------------------------------------------


class _Views(Views):
    """The views as their migration has them: the same words, or the server takes them for others."""

    one = ""

    def over(self, window: str) -> str:
        return "OVER latest_first"

    def named(self, window: str) -> str:
        return f"\n    WINDOW latest_first AS ({window})"

    def by(self, column: str) -> str:
        """Sorted against the window's order.

        What is sorted is kept, and read again for free, where new tables without statistics make the planner expect
        one bar and there are thousands.
        """
        return f"\n    ORDER BY {column}"

    def product(self, factor: str, over: str) -> str:
        return f"product({factor}) {over}".rstrip()

    def product_of_ratios(self, over: str) -> str:
        return self.product("split_from / split_to", over)

    def close_before(self) -> str:
        return """
        CROSS JOIN LATERAL (
            SELECT b.session, b.close FROM bar b
            WHERE b.ticker = d.ticker AND b.timeframe = '1d' AND b.source = d.source
              AND b.session < d.ex_date
              AND b.ts < d.ex_date + 7 -- the key has no session, but every bar opens within days of its own
            ORDER BY b.ts DESC LIMIT 1
        ) c
        WHERE d.ex_date <= (
            SELECT b.session FROM bar b
            WHERE b.ticker = d.ticker AND b.timeframe = '1d' AND b.source = d.source
            ORDER BY b.ts DESC LIMIT 1)"""


_PRODUCT: Final = (
    "CREATE OR REPLACE AGGREGATE product(double precision) (SFUNC = float8mul, STYPE = double precision, "
    "COMBINEFUNC = float8mul, INITCOND = '1', PARALLEL = SAFE)"
)


def _as_of(name: str, rows: str, body: str) -> tuple[str, str]:
    """A function of an instant, and the same of a day: its end, the last microsecond of it in UTC.

    They return rows of a table or view instead of columns of their own: columns would lose the collation of
    ``ticker``, and with it the use of every index.
    """
    head = "CREATE OR REPLACE FUNCTION {name}({argument})\nRETURNS SETOF {rows} LANGUAGE sql STABLE PARALLEL SAFE"
    end = "((day + 1)::timestamp - interval '1 microsecond') AT TIME ZONE 'UTC'"
    return (
        f"{head.format(name=name, argument='instant timestamptz', rows=rows)} BEGIN ATOMIC {body};\nEND",
        f"{head.format(name=name, argument='day date', rows=rows)} BEGIN ATOMIC\n    SELECT * FROM {name}({end});\nEND",  # noqa: S608
    )


#: The functions, with the types of their arguments; and what they and the views need.
FUNCTIONS: Final = tuple(
    f"{name}({argument})"
    for name in ("bar_as_of", "bar_adjusted_as_of", "split_factor_as_of")
    for argument in ("date", "timestamptz")
)
AGGREGATES: Final = ("product(double precision)",)


# -- grants --------------------------------------------------------------------------------------------------------

#: As long as a name can be, in bytes.
_LONGEST: Final = 63

_WRITE: Final = "SELECT, INSERT, UPDATE, DELETE"
_READ: Final = "SELECT"

_KNOWN_ROLE: Final = sa.text("SELECT rolname FROM pg_roles WHERE rolname = :name AND rolname NOT LIKE 'pg\\_%'")

#: What a role lacks of what it was granted: whoever may not grant a right gets a warning, not an error.
_LACKING: Final = sa.text("""
    SELECT format('%s on %s', wanted.privilege, named.name)
    FROM unnest(CAST(:names AS text[])) AS named (name)
    CROSS JOIN unnest(CAST(:privileges AS text[])) AS wanted (privilege)
    WHERE NOT has_table_privilege(:role, format('%I.%I', current_schema(), named.name), wanted.privilege)
    UNION ALL
    SELECT format('%s on the database', wanted.privilege)
    FROM unnest(CAST(:on_database AS text[])) AS wanted (privilege)
    WHERE NOT has_database_privilege(:role, current_database(), wanted.privilege)
    UNION ALL
    SELECT 'USAGE on the schema' WHERE NOT has_schema_privilege(:role, current_schema(), 'USAGE')
""")


def _grants(
    database: str, schema: str, role: str, version: int, parts: Sequence[str], *, writes: bool
) -> Iterator[sql.Composed]:
    """The statements; names are quoted by the driver, as a name cannot be bound."""
    grantee, inside = sql.Identifier(role), sql.Identifier(schema)

    def on(what: str, privileges: str, *names: sql.Composable) -> sql.Composed:
        listed = sql.SQL(", ").join(names)
        return sql.SQL("GRANT {} ON {} {} TO {}").format(sql.SQL(privileges), sql.SQL(what), listed, grantee)

    def of(names: Sequence[str]) -> list[sql.Composable]:
        return [sql.Identifier(schema, name) for name in names]

    # The staging table is a temporary one.
    yield on("DATABASE", "CONNECT, TEMPORARY" if writes else "CONNECT", sql.Identifier(database))
    yield on("SCHEMA", "USAGE", inside)
    yield on("TABLE", _WRITE if writes else _READ, *of([*metadata.tables, *parts]))
    yield on("TABLE", _READ, *of([*VIEWS, VERSION]))
    callable_ = (*FUNCTIONS, *AGGREGATES)
    yield on("FUNCTION", "EXECUTE", *(sql.SQL("{}.{}").format(inside, sql.SQL(name)) for name in callable_))
    if writes and version >= 170_000:
        yield on("TABLE", "MAINTAIN", *of(["ticker_history"]))  # it is analyzed when it was filled
    yield sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT {} ON TABLES TO {}").format(
        inside, sql.SQL(_WRITE if writes else _READ), grantee
    )


#: Locks first, in order, and returns what it locked as it was; no tickers where it is the same for all that were asked.
#: No join is by source and timeframe alone: by these a table that has no statistics yet passes for one of a few rows,
#: for each of which the server would go through all that is on the other side.
_STRETCH: Final = sa.text("""
    WITH locked AS MATERIALIZED (
        SELECT source, timeframe, ticker, first_session, last_session FROM watermark
        WHERE source = :source AND timeframe = :timeframe
          AND ticker = ANY (CAST(:tickers AS text[]))
        ORDER BY ticker FOR UPDATE
    ), stretched AS (
        UPDATE watermark AS mark SET run_id = :run_id,
            first_session = LEAST(locked.first_session, :first), last_session = GREATEST(locked.last_session, :last)
        FROM locked
        WHERE mark.source = locked.source AND mark.timeframe = locked.timeframe AND mark.ticker = locked.ticker
          AND (locked.first_session > :first OR locked.last_session < :last)
    )
    SELECT first_session, last_session, CASE WHEN count(*) < :count THEN array_agg(ticker) END
    FROM locked GROUP BY first_session, last_session
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))

#: The same for one ticker: to plan the other takes longer than to execute it.
_STRETCH_ONE: Final = sa.text("""
    WITH locked AS MATERIALIZED (
        SELECT first_session, last_session FROM watermark
        WHERE source = :source AND timeframe = :timeframe AND ticker = :ticker FOR UPDATE
    ), stretched AS (
        UPDATE watermark AS mark SET run_id = :run_id,
            first_session = LEAST(locked.first_session, :first), last_session = GREATEST(locked.last_session, :last)
        FROM locked
        WHERE mark.source = :source AND mark.timeframe = :timeframe AND mark.ticker = :ticker
          AND (locked.first_session > :first OR locked.last_session < :last)
    )
    SELECT first_session, last_session, NULL FROM locked
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))

_MAKE_MARKS: Final = sa.text("""
    INSERT INTO watermark (source, timeframe, ticker, first_session, last_session, run_id)
    SELECT :source, :timeframe, made.*, :run_id
    FROM unnest(CAST(:tickers AS text[]), CAST(:first AS date[]), CAST(:last AS date[])) AS made
    ON CONFLICT DO NOTHING
""").bindparams(sa.bindparam("run_id", type_=sa.Uuid))


class Postgres(Database):
    """PostgreSQL."""

    name: ClassVar[str] = "postgresql"
    port: ClassVar[int] = 5432
    snapshot: ClassVar[Mapping[str, Any]] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    def __init__(self) -> None:
        self._history: str | None = None  # of the server as it was met last; "": it does not tell

    # -- connecting ----------------------------------------------------------------------------------------------

    def engine(self, url: sa.URL, connections: int) -> sa.Engine:
        url = url.set(drivername="postgresql+psycopg2")
        tls = tls_of(url)
        if tls is None:
            raise unreadable()
        engine = sa.create_engine(
            url,
            pool_size=connections,
            max_overflow=2,
            pool_use_lifo=True,
            # Whatever the role's default: who has waited for a lock has to see what it guarded.
            isolation_level="READ COMMITTED",
            hide_parameters=True,
            connect_args={"connect_timeout": 10, "application_name": "closingbell", **_KEEPALIVE, **tls},
        )
        ping_idle(engine)
        _read_in_full(engine)
        return engine

    def explain(self, error: Exception, url: sa.URL) -> ClosingbellError:
        text = _telling_line(error, url)
        where = f"{url.host or url.query.get('host') or 'local socket'}:{url.port or self.port}/{url.database}"
        value = f"{where} says {text!r}"
        known, state = _known(error, next((code for code in map(_sqlstate, chain(error)) if code), None), text)
        if known:
            kind, what, fix = known
            return kind(what, value=value, fix=fix)
        if state and _is_of_values(state):
            return RefusedError(REFUSED, value=value, message=_message(error, url) or text)
        return FatalError(REFUSED, value=value)

    # -- transactions --------------------------------------------------------------------------------------------

    def bound(self, connection: sa.Connection, lock_timeout: float) -> int | None:
        if not lock_timeout:
            return None
        pid: int = connection.execute(_LOCK_TIMEOUT, {"lock_timeout": _milliseconds(lock_timeout)}).scalar_one()
        return pid

    def begin(self, connection: sa.Connection, lock_timeout: float, tries: int) -> _Begun:
        history = self._history
        if history is None:
            history = self._history = _history_now(connection)
        row = connection.execute(_BEGIN, {"lock_timeout": _milliseconds(lock_timeout)}).one()
        return _Begun(row.xid, row.pid, history)

    def cancel(self, connection: sa.Connection, driver: Any, session: int | _Begun) -> None:
        connection.execute(_CANCEL, {"pid": session.pid if isinstance(session, _Begun) else session})

    def fate(self, connection: sa.Connection, begun: _Begun, *, committing: bool) -> bool:
        history = self._history = _history_now(connection)
        if history and begun.history and history != begun.history:
            return False
        fate: str | None = connection.execute(_FATE, {"xid": begun.xid}).scalar_one()
        if fate == "in progress":
            connection.execute(_END_ORPHAN, {"xid": begun.xid, "pid": begun.pid, "committing": committing})
        if fate not in ("in progress", "recovering"):
            return fate == "committed" and committing and bool(history and begun.history)
        what = "nobody knows yet whether the commit was made" if committing else "a lost session has not ended"
        raise AwayError(what, value=f"transaction {begun.xid}, {fate}")

    def lost(self) -> None:
        self._history = None

    def holders(self, connection: sa.Connection, begun: _Begun) -> list[str]:
        return [_holder(*row) for row in connection.execute(_HOLDERS, {"pid": begun.pid})]

    # -- locks ---------------------------------------------------------------------------------------------------

    def lock(self, connection: sa.Connection, name: str) -> None:
        connection.execute(_LOCK, {"name": f"closingbell {name}"})

    def try_lock(self, connection: sa.Connection, name: str) -> bool:
        return bool(connection.execute(_TRY_LOCK, {"name": f"closingbell {name}"}).scalar_one())

    def keep_idle(self, connection: sa.Connection) -> None:
        connection.execute(_KEEP_IDLE)

    def relaxed(self, connection: sa.Connection) -> None:
        connection.execute(_RELAXED)

    # -- values --------------------------------------------------------------------------------------------------

    def rows(self, connection: sa.Connection, name: str, columns: Mapping[str, Values]) -> sa.FromClause:
        arrays = [_listed(sa.types.to_instance(kind), values) for kind, values in columns.values()]
        typed = [sa.column(column, kind) for column, (kind, _) in columns.items()]
        return sa.func.unnest(*arrays).table_valued(*typed).render_derived(name=name)

    def among(
        self, connection: sa.Connection, column: sa.ColumnElement[Any], values: Iterable[Any]
    ) -> sa.ColumnElement[bool]:
        # Not IN over unnest: a table that has just been filled passes for an empty one, and for each of its rows the
        # server would go through the whole list.
        return column == sa.any_(_listed(column.type, list(values)))

    @classmethod
    def one_of(cls, column: sa.ColumnElement[str], name: str) -> sa.ColumnElement[bool]:
        return column == sa.any_(sa.cast(sa.bindparam(name, type_=sa.Text), _array(sa.Text())))

    def listing(self, connection: sa.Connection, values: Iterable[str]) -> str:
        return _array_text(list(values))

    def lists(self, column: sa.ColumnElement[Any], text: str) -> sa.ColumnElement[bool]:
        return column.bool_op("?")(sa.literal(text, sa.String))

    def insert_missing(
        self,
        connection: sa.Connection,
        table: sa.Table,
        values: Mapping[str, sa.ColumnElement[Any]],
        rows: sa.Select[Any],
    ) -> int:
        # SQLAlchemy's own clause for it keeps a statement out of its cache.
        insert = sa.insert(table).from_select(list(values), rows.suffix_with("ON CONFLICT DO NOTHING"))
        return connection.execute(insert, execution_options={"preserve_rowcount": True}).rowcount

    # -- watermarks ----------------------------------------------------------------------------------------------

    def stretch(
        self, connection: sa.Connection, series: Series, tickers: Sequence[str], first: date, last: date
    ) -> dict[str, Watermark]:
        values = {"source": series.source, "timeframe": series.timeframe, "run_id": series.run_id}
        values |= {"first": first, "last": last}
        if len(tickers) == 1:
            found = connection.execute(_STRETCH_ONE, {**values, "ticker": tickers[0]})
        else:
            found = connection.execute(_STRETCH, {**values, "tickers": _array_text(tickers), "count": len(tickers)})
        before: dict[str, Watermark] = {}
        for first, last, these in found:
            before |= dict.fromkeys(these or tickers, Watermark(first, last))  # of most of them it is the same
        return before

    def make_marks(self, connection: sa.Connection, series: Series, marks: Mapping[str, Watermark]) -> int:
        values = {
            "source": series.source,
            "timeframe": series.timeframe,
            "run_id": series.run_id,
            "tickers": _array_text(list(marks)),
            "first": _array_text([mark.first for mark in marks.values()], few=True),
            "last": _array_text([mark.last for mark in marks.values()], few=True),
        }
        return connection.execute(_MAKE_MARKS, values).rowcount

    # -- bars ----------------------------------------------------------------------------------------------------

    def load(self, connection: sa.Connection, series: Series, fresh: Sequence[Bars], others: Bars) -> tuple[int, int]:
        inserted = rewritten = 0
        if fresh:
            if _insert(connection, series, in_key_order(fresh)):
                inserted += sum(map(len, fresh))
            else:
                # Somebody removed ledger rows but left the bars, or another source's bars are there: they are
                # compared, not trusted to be absent.
                others = joined([*fresh, others])
        if len(others):
            others = ordered(latest(others))
            absent, changed = _compared(connection, series, others)
            if absent.any():
                if _insert(connection, series, [others.where(absent)]):
                    inserted += int(np.count_nonzero(absent))
                else:  # another source was quicker just now
                    changed |= absent
            if changed.any():
                rewritten, more = _merge(connection, series, others.where(changed))
                inserted += more
        return inserted, rewritten

    def refused(self, connection: sa.Connection, series: Series, bars: Bars) -> dict[int, str]:
        def load(connection: sa.Connection, bars: Bars) -> None:
            _merge(connection, series, bars)
            connection.execute(_EMPTY_STAGE)
            connection.execute(_AT_ONCE)

        def put_back(connection: sa.Connection, bars: Bars) -> int:
            values = {"timeframe": bars.timeframe, "tickers": list(bars.tickers)}
            count = connection.execute(_PUT_BACK, values).rowcount
            connection.execute(_AT_ONCE)
            return count

        return find_poison(connection, bars, load, put_back)

    def series(
        self, connection: sa.Connection, source: str, timeframe: str, tickers: Sequence[str], first: date, last: date
    ) -> Bars:
        lo, hi = around(first, last)
        values: dict[str, Any] = {"tickers": list(tickers), "sources": [*origins(source)], "timeframe": timeframe}
        values |= {"first": first, "last": last, "lo": lo, "hi": hi}
        rows = _read(connection, _SERIES, values, _FIELDS)
        if not ascends(rows["ticker"], rows["ts"]):
            rows = rows[np.lexsort((rows["ts"], rows["ticker"]))]
        block = np.empty(len(rows), BAR)
        for name, _ in _FIELDS:
            block[name] = rows[name]
        return Bars(tuple(tickers), block, timeframe)

    # -- reading -------------------------------------------------------------------------------------------------

    def known(
        self, connection: sa.Connection, relation: str, columns: Sequence[sa.ColumnClause[Any]], instant: datetime
    ) -> sa.FromClause:
        function: Any = getattr(sa.func, relation)
        at = sa.cast(sa.literal(instant, sa.DateTime(timezone=True)), sa.DateTime(timezone=True))
        made: sa.FromClause = function(at).table_valued(*columns).alias(relation)
        return made

    def each(
        self,
        connection: sa.Connection,
        tickers: Sequence[str],
        query: Callable[[Callable[[sa.ColumnElement[str]], sa.ColumnElement[bool]]], sa.Select[Any]],
    ) -> sa.Select[Any]:
        if len(tickers) == 1:  # once is sorted enough
            return query(lambda column: column == sa.literal(tickers[0], sa.Text)).order_by("ts")
        # As one lookup each, whatever the tables' sizes: joined to a list of them, the functions of an instant and the
        # splits of the whole market would be worked out first. The offset keeps each ticker's rows sorted by a key.
        named = self.rows(connection, "named", {"ticker": (sa.Text, tickers)})
        ticker = sa.collate(named.c.ticker, "C")
        sorted_names = sa.select(ticker.label("ticker")).order_by(ticker).subquery("named")
        made = query(lambda column: column == sorted_names.c.ticker)
        part = made.order_by(made.selected_columns["ts"]).offset(0).lateral("of_ticker")
        return (
            sa.select(*part.c)
            .select_from(sorted_names.join(part, sa.true()))
            .order_by(sa.collate(sorted_names.c.ticker, "C"), part.c.ts)
        )

    def selected(self, connection: sa.Connection, query: sa.Select[Any], rows: int) -> Iterator[Block]:
        kinds = {column.name: column.type for column in query.selected_columns}
        if any(isinstance(kind, sa.JSON) for kind in kinds.values()):
            yield from super().selected(connection, query, rows)
            return
        wanted = query.with_only_columns(*map(copied.for_copy, query.selected_columns), maintain_column_froms=True)
        compiled = wanted.compile(dialect=connection.dialect, compile_kwargs={"render_postcompile": True})
        driver: Any = connection.connection.dbapi_connection
        with driver.cursor() as cursor:
            text = cursor.mogrify(str(compiled), compiled.params)
            with closing(copied.Stream(cursor, b"COPY (" + text + b") TO STDOUT (FORMAT binary)")) as stream:
                yield from copied.blocks(stream.read, kinds, rows, encodings[driver.encoding])

    # -- schema --------------------------------------------------------------------------------------------------

    def views(self) -> Sequence[str]:
        made = _Views()
        return (
            _PRODUCT,
            *made.create(),
            *_as_of("split_factor_as_of", "split_factor", made.split_factor_as_of()),
            *_as_of("bar_adjusted_as_of", "bar_adjusted", made.bar_adjusted_as_of("split_factor_as_of(instant)")),
            *_as_of("bar_as_of", "bar", made.bar_as_of()),
        )

    def drop_views(self) -> Sequence[str]:
        return (
            *(f"DROP FUNCTION IF EXISTS {signature}" for signature in FUNCTIONS),
            *(f"DROP VIEW IF EXISTS {name}" for name in VIEWS),
            *(f"DROP AGGREGATE IF EXISTS {signature}" for signature in AGGREGATES),
        )

    def analyze(self, connection: sa.Connection, table: sa.Table) -> None:
        connection.exec_driver_sql(f"ANALYZE {connection.dialect.identifier_preparer.format_table(table)}")

    def prepared_until(self, connection: sa.Connection) -> date | None:
        return partitions.prepared_until(connection)

    def prepare_until(self, connection: sa.Connection, day: date) -> bool:
        return partitions.prepare(connection, day)

    # -- grants --------------------------------------------------------------------------------------------------

    def role(self, connection: sa.Connection, name: str) -> str:
        fits = name and "\0" not in name and len(name.encode(errors="replace")) <= _LONGEST
        if fits and connection.execute(_KNOWN_ROLE, {"name": name}).first():
            return name
        raise ConfigurationError(
            "there is no such role in the database",
            value=repr(visible(name[:_LONGEST])),
            fix="Write it as \\du lists it, or make it first: CREATE ROLE name LOGIN PASSWORD '...'.",
        )

    def grant(self, connection: sa.Connection, role: str, *, writes: bool) -> None:
        driver: Any = connection.connection
        with driver.cursor() as cursor:
            cursor.execute("SELECT current_database(), current_schema(), current_setting('server_version_num')::int")
            database, schema, version = cursor.fetchone()
            parts = partitions.partitions(connection)
            for statement in _grants(database, schema, role, version, parts, writes=writes):
                cursor.execute(statement)
        lacking = connection.execute(
            _LACKING,
            {
                "role": role,
                "names": list(metadata.tables),
                "privileges": (_WRITE if writes else _READ).split(", "),
                "on_database": ["CONNECT", "TEMPORARY"] if writes else ["CONNECT"],
            },
        ).scalars()
        if missing := list(lacking):
            raise ConfigurationError(
                f"{connection.engine.url.username} may not grant what {role} needs",
                value=", ".join(missing[:3]),
                fix="Run this as the owner of the database and of its tables.",
            )


def whole_rows(blocks: Sequence[Bars], series: Series) -> Callable[[slice], list[Field]]:
    """What gives the columns of a part of the blocks' bars, one block after the other, as :data:`COPY` has them.

    Only that part is joined: of all of them it would be a second copy.
    """
    ends = np.cumsum([len(block) for block in blocks])

    def fields(part: slice) -> list[Field]:
        first, last = np.searchsorted(ends, (part.start, part.stop - 1), side="right").tolist()
        some = []
        for block, end in zip(blocks[first : last + 1], ends[first : last + 1].tolist(), strict=True):
            begin = end - len(block)
            rows = block.rows[max(part.start - begin, 0) : part.stop - begin]
            some.append(Bars(block.tickers, rows, block.timeframe))
        bars = joined(some)
        rows = bars.rows
        return [
            Field.texts(bars.tickers, rows["ticker"]),
            Field.constant(series.timeframe.encode(), len(rows)),
            Field.dates(rows["session"]),
            Field.instants(rows["ts"]),
            *_measured(rows),
            Field.constant(series.written.encode(), len(rows)),
            Field.constant(series.run_id.bytes, len(rows)),
        ]

    return fields


def _insert(connection: sa.Connection, series: Series, blocks: Sequence[Bars]) -> bool:
    """Write bars that are taken to be absent; False, and nothing is written, where one is there."""
    try:
        _copy(connection, _SAVEPOINT + COPY, Rows(sum(map(len, blocks)), whole_rows(blocks, series)))
    except psycopg2.errors.UniqueViolation:
        connection.execute(_BACK)
        return False
    return True


def _compared(connection: sa.Connection, series: Series, bars: Bars) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which bars are not stored, and which are with other values.

    What another vendor's flush does at the same time is seen or not: in doubt the database is asked again, by the
    unique key or by the MERGE.

    Args:
        connection: in a transaction.
        series: whose bars they are.
        bars: each key once, in its order.

    Returns:
        Two masks, shape (n,).
    """
    absent, changed = np.empty(len(bars), np.bool_), np.empty(len(bars), np.bool_)
    for first in range(0, len(bars), _COMPARED):
        part = slice(first, first + _COMPARED)
        rows = bars.rows[part]
        span = _spans(rows)
        stored = _stored(connection, series, bars.tickers, rows, span)
        here, there = _places(span, rows["ts"], stored["span"], stored["ts"])
        found = np.minimum(np.searchsorted(there, here), max(len(there) - 1, 0))
        absent[part] = there[found] != here if len(there) else True
        differs = ~absent[part]
        if len(there):
            same = np.ones(len(rows), np.bool_)
            for name in VALUES:
                mine, its = rows[name], stored[name][found]
                equal = mine == its
                same &= equal if name == "trades" else equal | (np.isnan(mine) & np.isnan(its))
            differs &= ~same
        changed[part] = differs
    return absent, changed


def _spans(rows: NDArray[np.void]) -> NDArray[np.int64]:
    """Which span each bar is in, counted from 0: bars of one ticker that lie close together; shape (n,)."""
    apart = np.zeros(len(rows), np.int64)
    apart[1:] = (rows["ticker"][1:] != rows["ticker"][:-1]) | (rows["ts"][1:] - rows["ts"][:-1] > _APART)
    return apart.cumsum()


def _stored(
    connection: sa.Connection, series: Series, tickers: Sequence[str], rows: NDArray[np.void], span: NDArray[np.int64]
) -> NDArray[np.void]:
    """The bars that are stored in the spans, in the order of spans and instants."""
    first = np.flatnonzero(np.diff(span, prepend=-1))
    last = np.append(first[1:], len(rows)) - 1
    values: dict[str, Any] = {
        "tickers": [tickers[i] for i in rows["ticker"][first]],
        "timeframe": series.timeframe,
        "first": _instants(rows["ts"][first]),
        "last": _instants(rows["ts"][last]),
    }
    values["lo"], values["hi"] = bounds(rows["ts"])
    return _read(connection, _STORED, values, _STORED_FIELDS)


def _instants(values: NDArray[np.datetime64]) -> str:
    """UTC instants as one literal of the database's: thousands of single ones take longer than reading the bars."""
    return f"{{{','.join(f'{text}Z' for text in np.datetime_as_string(values).tolist())}}}"


def _places(
    span: NDArray[np.int64], ts: NDArray[np.datetime64], its_span: NDArray[np.int32], its_ts: NDArray[np.datetime64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Span and instant as one number, for both sides; each is ascending."""
    if len(span) == len(its_span) and (span == its_span).all() and (ts == its_ts).all():
        return (place := np.arange(len(span))), place
    instants, rank = np.unique(np.concatenate([ts, its_ts]), return_inverse=True)
    here = span * len(instants) + rank[: len(ts)]
    there = its_span.astype(np.int64) * len(instants) + rank[len(ts) :]
    return here, there


def _read(
    connection: sa.Connection, statement: str, values: Mapping[str, Any], fields: Sequence[tuple[str, str]]
) -> NDArray[np.void]:
    """The rows of a COPY TO."""
    stream = io.BytesIO()
    driver: Any = connection.connection
    with driver.cursor() as cursor:
        cursor.copy_expert(cursor.mogrify(statement, values), stream)
    return parse(stream.getvalue(), fields)


def _merge(connection: sa.Connection, series: Series, bars: Bars) -> tuple[int, int]:
    """Stage and merge: how many bars were rewritten, and how many were not there at all."""

    def fields(part: slice) -> list[Field]:
        rows = bars.rows[part]
        names = Field.texts(bars.tickers, rows["ticker"])
        return [names, Field.dates(rows["session"]), Field.instants(rows["ts"]), *_measured(rows)]

    bars = ordered(bars)
    _copy(connection, _BY_KEY + _STAGE + _COPY_TO_STAGE, Rows(len(bars), fields))
    lo, hi = bounds(bars.rows["ts"])
    values = {"timeframe": series.timeframe, "run_id": series.run_id, "lo": lo, "hi": hi}
    rewritten = connection.execute(_REVISE, {**values, "source": series.source}).rowcount
    touched = connection.execute(_MERGE, {**values, "written": series.written}).rowcount
    connection.execute(_AS_BEFORE)
    return rewritten, touched - rewritten


def _copy(connection: sa.Connection, statement: str, rows: Rows) -> None:
    driver: Any = connection.connection
    with driver.cursor() as cursor:
        cursor.copy_expert(statement, rows)


def _measured(rows: NDArray[np.void]) -> list[Field]:
    prices = [Field.numbers(rows[name], ">f8") for name in ("open", "high", "low", "close", "volume")]
    vwap = Field.numbers(rows["vwap"], ">f8", np.isnan(rows["vwap"]))
    return [*prices, vwap, Field.numbers(rows["trades"], ">i8", rows["trades"] == NO_TRADES)]
