"""Oracle 19c or newer, through python-oracledb in thin mode.

Values that a statement joins, and bars that are to be merged, go by array binds into global temporary tables, which
each session sees for itself and which are empty again after each commit; from there set-based statements take them.
Instants are UTC in ``TIMESTAMP`` without a time zone, which a key may have; measured values are ``BINARY_DOUBLE``.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar, Final
from uuid import uuid4

import numpy as np
import oracledb
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects import oracle, registry
from sqlalchemy.dialects.oracle.base import OracleIdentifierPreparer, OracleTypeCompiler
from sqlalchemy.dialects.oracle.cx_oracle import OracleCompiler_cx_oracle
from sqlalchemy.dialects.oracle.oracledb import OracleDialect_oracledb
from sqlalchemy.ext.compiler import compiles

from closingbell.bars import BAR, NO_TRADES, VALUES, Bars
from closingbell.clock import Clock
from closingbell.errors import ClosingbellError, ConfigurationError, FatalError
from closingbell.hosts import is_here
from closingbell.store.columns import around, joined, latest, nullable
from closingbell.store.database import Database, Series, Values, database_of, in_words, ping_idle
from closingbell.store.faults import (
    FORBIDDEN,
    FULL,
    LOCKED,
    LOGIN_REFUSED,
    MESSAGE_LENGTH,
    NO_COLUMN,
    NO_TABLE,
    RACE,
    READ_ONLY,
    REFUSED,
    SILENT,
    UNREACHABLE,
    AwayError,
    Known,
    LockedError,
    OvertakenError,
    RaceError,
    RefusedError,
    SilentError,
    chain,
    driver_errors,
    explain,
    was_invalidated,
    without_secrets,
)
from closingbell.store.merge import Merge
from closingbell.store.origin import origins
from closingbell.store.poison import MANY, everything, too_many
from closingbell.store.refusals import takes_any
from closingbell.store.schema import VERSION, bar, metadata, run
from closingbell.store.selected import Block
from closingbell.store.views import VIEWS, Views
from closingbell.text import visible
from closingbell.zones import in_utc

# -- types and SQL -------------------------------------------------------------------------------------------------


class _Instant(sa.DateTime):
    """An aware instant, kept as UTC in a TIMESTAMP without a zone. The driver would drop the offset without a word."""

    def get_dbapi_type(self, dbapi: Any) -> Any:
        return dbapi.DB_TYPE_TIMESTAMP

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[datetime | None], datetime | None]:
        def process(value: datetime | None) -> datetime | None:
            if value is not None and value.tzinfo is None:
                raise ValueError(f"a naive datetime: {value}")
            return value and in_utc(value)

        return process

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[datetime | None], datetime | None]:
        def process(value: datetime | None) -> datetime | None:
            return value and value.replace(tzinfo=UTC)

        return process


class _Json(sa.JSON):
    """JSON as text in a CLOB: versions before 21 have no type of its own."""

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], str | None]:
        def process(value: Any) -> str | None:
            return None if value is None else json.dumps(value)

        return process

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[str | None], Any]:
        def process(value: str | None) -> Any:
            return None if value is None else json.loads(value)

        return process

    def column_expression(self, column: Any) -> Any:
        """The whole text, not a locator that has to be read in round trips of its own."""
        return sa.func.substr(column, sa.literal_column("1"), type_=self)


class _Types(OracleTypeCompiler):
    def visit_datetime(self, type_: Any, **options: Any) -> str:
        return "TIMESTAMP(6)"

    def visit_double(self, type_: Any, **options: Any) -> str:
        return "BINARY_DOUBLE"

    def visit_JSON(self, type_: Any, **options: Any) -> str:  # noqa: N802  (SQLAlchemy's name)
        return "CLOB"


class _Sql(OracleCompiler_cx_oracle):
    def visit_now_func(self, fn: Any, **options: Any) -> str:
        """The present in the session's time zone, which is UTC; without the zone, as all that is stored is."""
        return "LOCALTIMESTAMP"

    def bindparam_string(self, name: str, **options: Any) -> str:  # type: ignore[override]
        """A reserved word is no name for a bind either."""
        if name in _RESERVED and not options.get("escaped_from"):
            options["escaped_from"], name = name, f"{name}_"
        return str(super().bindparam_string(name, **options))  # type: ignore[no-untyped-call]


class _Names(OracleIdentifierPreparer):
    """Quotes the reserved words of ours as they would be without quotes, so that both spellings mean the same."""

    def quote(self, ident: str, force: Any = None) -> str:
        return f'"{ident.upper()}"' if ident in _RESERVED else super().quote(ident, force)


_RESERVED: Final = frozenset({"session"})


#: Characters of the longest text of ours that is no JSON.
_TEXT: Final = 500


class Dialect(OracleDialect_oracledb):
    """SQLAlchemy's, with the types that are right there for the tables of this project."""

    supports_statement_cache = True
    insert_returning = False  # no statement of ours asks for the key of what it inserts
    type_compiler_cls = _Types
    statement_compiler = _Sql
    preparer = _Names
    colspecs = {  # noqa: RUF012  (as SQLAlchemy declares it)
        **OracleDialect_oracledb.colspecs,
        sa.DateTime: _Instant,
        sa.Double: OracleDialect_oracledb.colspecs[oracle.BINARY_DOUBLE],  # bound as one too, not as NUMBER
        sa.JSON: _Json,
    }

    def create_connect_args(self, url: sa.URL) -> tuple[Sequence[Any], dict[str, Any]]:
        return (), arguments(url)

    def do_set_input_sizes(self, cursor: Any, list_of_tuples: Any, context: Any) -> None:
        """Texts are bound with one size: each larger one would be another cursor, parsed anew on the server."""
        sizes = ((key, size or (_TEXT if isinstance(kind, sa.String) else None)) for key, size, kind in list_of_tuples)
        super().do_set_input_sizes(cursor, [(key, size, None) for key, size in sizes], context)  # type: ignore[no-untyped-call]

    def connect(self, *arguments: Any, **options: Any) -> Any:
        try:
            return self.loaded_dbapi.connect(*arguments, **options)
        except OSError as error:  # a host that nobody knows: the driver lets the library's own error through
            raise oracledb.OperationalError(str(error)) from error

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        return bool(set(_codes(e)) & _GONE)


registry.register("oracle.closingbell", __name__, Dialect.__name__)


@compiles(Merge, "oracle")
def _compile_merge(merge: Merge, compiler: Any, **options: Any) -> str:
    table, source, on, sets, where, inserts = merge.parts(compiler, **options)
    text = f"MERGE INTO {table} USING {source} ON ({on})"
    if sets:
        text += f" WHEN MATCHED THEN UPDATE SET {sets}{f' WHERE {where}' if where else ''}"
    return text + (f" WHEN NOT MATCHED THEN INSERT {inserts}" if inserts else "")


#: Rows of one round trip when many are read: about half a megabyte of bars.
_FETCHED: Final = 5_000

#: What only this database has: tables of values, for the time of a transaction; and names that can be locked.
technical = sa.MetaData()

_KINDS: Final[Mapping[str, tuple[type[sa.types.TypeEngine[Any]], int]]] = {
    "text": (sa.String, 8),
    "day": (sa.Date, 3),
    "instant": (sa.DateTime, 2),
    "whole": (sa.BigInteger, 3),
    "real": (sa.Double, 6),
}

#: As what the driver binds the values of each kind; it would guess by the first row.
_BOUND: Final = {
    "batch": oracledb.DB_TYPE_NUMBER,
    "text": oracledb.DB_TYPE_VARCHAR,
    "day": oracledb.DB_TYPE_DATE,
    "instant": oracledb.DB_TYPE_TIMESTAMP,
    "whole": oracledb.DB_TYPE_NUMBER,
    "real": oracledb.DB_TYPE_BINARY_DOUBLE,
}

#: Values of any statement; ``batch`` tells those of one statement from those of another.
given = sa.Table(
    "given",
    technical,
    sa.Column("batch", sa.BigInteger, nullable=False),
    *(
        sa.Column(f"{kind}{number}", sa.String(_TEXT) if kind == "text" else type_)
        for kind, (type_, count) in _KINDS.items()
        for number in range(1, count + 1)
    ),
    prefixes=["GLOBAL TEMPORARY"],
    oracle_on_commit="DELETE ROWS",
)

#: Bars on their way into ``bar``, as the vendor sent them.
staged_bar = sa.Table(
    "staged_bar",
    technical,
    sa.Column("ticker", sa.String(32), nullable=False),
    sa.Column("session", sa.Date, nullable=False),
    sa.Column("ts", sa.DateTime(timezone=True), nullable=False),
    *(sa.Column(name, sa.Double) for name in VALUES[:-1]),
    sa.Column("trades", sa.BigInteger),
    prefixes=["GLOBAL TEMPORARY"],
    oracle_on_commit="DELETE ROWS",
)

#: Where direct path load puts bars, which commits them: not into ``bar``, but for one MERGE to take them from.
loaded_bar = sa.Table("loaded_bar", technical, *(sa.Column(c.name, c.type, nullable=c.nullable) for c in staged_bar.c))

#: Names to be locked by their rows, for Oracle has no advisory locks that every user may take.
latch = sa.Table("latch", technical, sa.Column("name", sa.String(64), primary_key=True))


# -- connecting ----------------------------------------------------------------------------------------------------

_SWITCHES: Final = {
    "on": True,
    "yes": True,
    "true": True,
    "1": True,
    "off": False,
    "no": False,
    "false": False,
    "0": False,
}

#: What the URL's query may say, by the driver's names for it, and how it is read.
_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("service_name", "sid", "instance_name", "server_type", "edition", "protocol"), str),
    **dict.fromkeys(("config_dir", "wallet_location", "wallet_password", "ssl_server_cert_dn", "https_proxy"), str),
    **dict.fromkeys(("retry_count", "retry_delay", "expire_time", "https_proxy_port", "sdu", "stmtcachesize"), int),
    "tcp_connect_timeout": float,
    **dict.fromkeys(
        ("ssl_server_dn_match", "use_sni", "use_eztls", "disable_oob", "direct_path"),
        lambda text: _SWITCHES[text.lower()],
    ),
}

#: Those that are not the driver's.
_OURS: Final = frozenset({"schema", "direct_path"})

#: What a name of an owner may be made of.
_OWNER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_$#]{0,127}")

#: A network that falls silent is noticed in a minute or two, not in hours.
_KEEPALIVE: Final = {"expire_time": 1, "tcp_connect_timeout": 10.0}

#: Tickers compare and sort by their bytes, and LOCALTIMESTAMP is that of UTC.
_SESSION: Final = "ALTER SESSION SET TIME_ZONE = '+00:00' NLS_SORT = BINARY NLS_COMP = BINARY"


def arguments(url: sa.URL) -> dict[str, Any]:
    """What the driver is to connect with.

    ``host:port/service`` leads over TCPS to another machine than this one, and everywhere with a wallet, unless the
    URL has a ``protocol`` of its own. A name alone is one of ``tnsnames.ora``, in ``config_dir`` or in TNS_ADMIN, which
    says the protocol.

    Args:
        url: as the user wrote it.

    Raises:
        ConfigurationError: an option in it cannot be used.
    """
    options = {name: _read(name, value) for name, value in url.query.items() if name not in _OURS}
    options |= {name: value for name, value in (("user", url.username), ("password", url.password)) if value}
    service = url.database or options.pop("service_name", None)
    if service or "sid" in options:
        options |= {"host": url.host or "localhost", "port": url.port or Oracle.port}
        if service:
            options["service_name"] = service
        over_tls = "wallet_location" in options or not is_here(options["host"])
        options.setdefault("protocol", "tcps" if over_tls else "tcp")
    elif url.host:
        options["dsn"] = url.host
    return {**_KEEPALIVE, "program": "closingbell", **options}


def _read(name: str, value: str | Sequence[str]) -> Any:
    with suppress(KeyError, ValueError):
        if isinstance(value, str):  # and not given twice
            return _OPTIONS[name](value)
    raise ConfigurationError("DATABASE_URL has an option that cannot be used", value=name, fix="Remove it.")


def _owner(url: sa.URL) -> str | None:
    """The schema whose tables are meant, from the URL's option ``schema``; None: the user's own."""
    owner = url.query.get("schema")
    if owner is None:
        return None
    if not isinstance(owner, str) or not _OWNER.fullmatch(owner):
        raise ConfigurationError(
            "DATABASE_URL has an option that cannot be used", value="schema", fix="Name one owner."
        )
    return owner.upper()


# -- errors --------------------------------------------------------------------------------------------------------

_CROWDED: Final[Known] = (
    AwayError,
    "the database has no free connection",
    "Lower FETCH_THREADS, or raise its PROCESSES and SESSIONS, or the profile's SESSIONS_PER_USER.",
)
_NO_SERVICE: Final[Known] = (
    SilentError,
    "there is no such database",
    "Check host, port and service in DATABASE_URL. A database that has just been started is known to its listener "
    "within a minute.",
)
_NO_ADDRESS: Final[Known] = (
    ConfigurationError,
    "there is no such database",
    "Write host:port/service in DATABASE_URL, or add ?config_dir= with the directory of the tnsnames.ora that has "
    "the name.",
)
_NO_TLS: Final[Known] = (
    ConfigurationError,
    "the database does not speak TLS",
    "Switch TCPS on there, and name its port in DATABASE_URL; or, if the network in between is trusted, add "
    "?protocol=tcp.",
)
_NO_HANDSHAKE: Final[Known] = (
    SilentError,
    "the database cannot be reached",
    "Start it, or check host and port in DATABASE_URL: a port without TLS wants ?protocol=tcp, if the network in "
    "between is trusted.",
)
_BAD_TLS: Final[Known] = (
    ConfigurationError,
    "the database's TLS certificate cannot be verified",
    "Set wallet_location in DATABASE_URL to the directory of an ewallet.pem with the authority's certificate, and use "
    "the host name that it was issued for.",
)
_NO_WALLET: Final[Known] = (
    ConfigurationError,
    "the wallet cannot be read",
    "Check wallet_location and wallet_password in DATABASE_URL: the driver reads an ewallet.pem.",
)
_BAD_OPTION: Final[Known] = (ConfigurationError, "DATABASE_URL has an option that cannot be used", "Mend or remove it.")
_NO_MEMORY: Final[Known] = (AwayError, "the database server is out of memory", "Give it more, or lower FETCH_THREADS.")
_NO_QUOTA: Final[Known] = (
    ConfigurationError,
    "the database user has no room left in a tablespace",
    "Give the owner of the tables a quota: ALTER USER NAME QUOTA UNLIMITED ON TABLESPACE.",
)
_CANCELLED: Final[Known] = (
    RaceError,
    "the database cancelled a statement",
    "Look whether a resource plan of this user limits its statements.",
)


def _each(what: Known, *codes: str) -> dict[str, Known]:
    return dict.fromkeys(codes, what)


#: By code: what kind of error, what is wrong and what to do. Of several codes the first that is known counts.
_KNOWN: Final[dict[str, Known]] = {
    # Sessions that were ended, and servers that go or come. The driver puts DPY-4011 in front of many of them.
    **_each(UNREACHABLE, "DPY-1001", "DPY-4011", "DPY-4035", "DPY-5005", "DPY-5006", "ORA-00022", "ORA-00028"),
    **_each(UNREACHABLE, "ORA-00031", "ORA-01012", "ORA-01033", "ORA-01034", "ORA-01041", "ORA-01089", "ORA-01090"),
    **_each(UNREACHABLE, "ORA-01092", "ORA-01109", "ORA-02396", "ORA-02399", "ORA-03111", "ORA-03113", "ORA-03114"),
    **_each(UNREACHABLE, "ORA-03135", "ORA-12153", "ORA-12526", "ORA-12527", "ORA-12528", "ORA-12537", "ORA-12547"),
    **_each(UNREACHABLE, "ORA-12570", "ORA-12571", "ORA-12583", "ORA-12757", "ORA-24761", "ORA-25401", "ORA-25402"),
    **_each(UNREACHABLE, "ORA-25405", "ORA-25408", "ORA-25409", "ORA-56600"),
    **_each(SILENT, "ORA-12170", "ORA-12541", "ORA-12543", "ORA-12545"),
    **_each(_NO_SERVICE, "DPY-6001", "DPY-6003", "ORA-12505", "ORA-12514"),
    **_each(_NO_ADDRESS, "DPY-2049", "DPY-4000", "DPY-4017", "DPY-4026", "DPY-4027", "ORA-12154"),
    **_each(_CROWDED, "ORA-00018", "ORA-00020", "ORA-02391", "ORA-12516", "ORA-12518", "ORA-12519", "ORA-12520"),
    **_each(_NO_MEMORY, "ORA-04030", "ORA-04031"),
    **_each(RACE, "ORA-00060", "ORA-01555", "ORA-04020", "ORA-04068", "ORA-08176", "ORA-08177"),
    **_each(LOCKED, "DPY-4024", "ORA-00054", "ORA-02049", "ORA-04021", "ORA-30006"),
    **_each(_CANCELLED, "ORA-01013", "ORA-00040", "ORA-10388"),
    **_each(READ_ONLY, "ORA-00372", "ORA-16000", "ORA-16003"),
    **_each(LOGIN_REFUSED, "DPY-3015", "DPY-4001", "ORA-01004", "ORA-01005", "ORA-01017", "ORA-28000", "ORA-28001"),
    **_each(LOGIN_REFUSED, "ORA-28040"),
    **_each(FORBIDDEN, "ORA-01031", "ORA-01045", "ORA-41900"),
    **_each(NO_TABLE, "ORA-00942", "ORA-04043"),
    **_each(NO_COLUMN, "ORA-00904"),
    **_each(FULL, "ORA-00257", "ORA-01652", "ORA-01653", "ORA-01654", "ORA-01658", "ORA-01659", "ORA-01688"),
    **_each(FULL, "ORA-01691", "ORA-12953", "ORA-12954", "ORA-30036"),
    **_each(_NO_QUOTA, "ORA-01536", "ORA-01950"),
    **_each(_BAD_TLS, "DPY-6002", "DPY-6006"),
    **_each(_NO_TLS, "DPY-6009"),
    **_each(_NO_WALLET, "DPY-2018"),
    **_each(_BAD_OPTION, "DPY-2025", "DPY-4021", "DPY-4032"),
}

#: After these there is no connection any more.
_GONE: Final = frozenset(code for code, what in _KNOWN.items() if what is UNREACHABLE)

#: What is said of a connection that was never made, by the words of the library under the driver.
_WORDS: Final = (
    ("certificate verify failed", _BAD_TLS),
    ("doesn't match", _BAD_TLS),
    ("WRONG_VERSION_NUMBER", _NO_TLS),
    ("[SSL", _NO_HANDSHAKE),
)

#: What should be stored is refused: constraints, types, views. Those of triggers are from 20000 to 20999.
_OF_VALUES: Final = frozenset(
    f"ORA-{number:05}"
    for number in (1, 1400, 1401, 1402, 1407, 1426, 1438, 1476, 1722, 2290, 2291, 2292, 2359, 6502, 12899, 14400, 28115)
)
_OF_TRIGGERS: Final = re.compile(r"ORA-20\d{3}")

#: That another error is inside of this one.
_OUTER: Final = frozenset({"DPY-6005", "DPY-6000", "ORA-00604", "ORA-02091", "ORA-04088", "ORA-06512"})

#: Lines that are no news: the driver's references to pages, and where in somebody's trigger it happened.
_ASIDE: Final = ("Help: ", "ORA-06512", "ORA-04088")

_CODE: Final = re.compile(r"\b(?:ORA-\d{5}|DPY-\d{4})\b")


def _said(error: BaseException) -> str:
    """What the driver says, in one line."""
    # To be not connected is only what follows from the error before.
    told = next((each for each in chain(error) if _codes(each) and "DPY-1001" not in _codes(each)), None)
    lines = str(told or getattr(error, "orig", None) or error).splitlines()
    said = " ".join(line.strip() for line in lines if line.strip() and not line.startswith(_ASIDE))
    return re.sub(r" \(CONNECTION_ID=[^)]*\)", "", said) or type(error).__name__


def _codes(error: BaseException) -> list[str]:
    """The codes in what the driver says of an error, the outermost first; none where it is not the driver's."""
    told = error.args[0] if error.args else None
    said = getattr(told, "message", None) if hasattr(told, "full_code") else None
    return _CODE.findall(said) if isinstance(said, str) else []


def _all_codes(error: BaseException) -> list[str]:
    """The codes of an error and of all that are behind it."""
    return [code for each in chain(error) for code in _codes(each)]


def _kind(codes: Sequence[str], text: str) -> Known | None:
    """What an error is by its codes, or by its words; None where nobody knows."""
    if any(code in _GONE for code in codes):
        return UNREACHABLE
    inner = [code for code in codes if code not in _OUTER]
    for code in inner:
        if code in _OF_VALUES or _OF_TRIGGERS.fullmatch(code):
            return RefusedError, REFUSED, ""
        if code in _KNOWN:
            return _KNOWN[code]
    if "DPY-6005" in codes or "DPY-6000" in codes:
        return next((what for words, what in _WORDS if words in text), SILENT)
    return None


# -- transactions --------------------------------------------------------------------------------------------------

#: A statement that only waits and one that works look alike from here: where nobody expects to wait for a lock, one of
#: them may take so many times as long as a transaction may wait for one.
_PATIENT: Final = 20

#: Whether there is the table of locks at all.
_ANY_LATCH: Final = sa.text("SELECT 1 FROM latch WHERE 1 = 0")

#: Seconds that a lost session may take to end when somebody looks whether it has.
_GLANCE: Final = 2.0

#: Days after which nobody asks any more what became of a transaction.
_REMEMBERED: Final = 7

# Whoever holds a lock may be seen by those who may see all sessions.
_HOLDERS: Final = sa.text("""
    SELECT held.sid, held.username, held.program, held.status, held.logon_time
    FROM gv$session waiting
    JOIN gv$session held ON held.inst_id = waiting.blocking_instance AND held.sid = waiting.blocking_session
    WHERE waiting.sid = :sid AND waiting.serial# = :serial
    FETCH FIRST 3 ROWS ONLY
""")


@dataclass(frozen=True, slots=True)
class _Begun:
    """A transaction that has begun: the name that is in ``latch`` once it is committed, and its session."""

    token: str
    sid: int
    serial: int


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.driver_connection


def _bound(driver: Any, seconds: float) -> None:
    """Bound each call to the server; where the connection is lost, the next call says so."""
    with suppress(oracledb.InterfaceError, AttributeError):
        driver.call_timeout = int(seconds * 1000)


def _make(engine: sa.Engine, name: str) -> None:
    """Make the row of a lock, committed, so that it can be had or not without waiting."""
    with suppress(sa.exc.IntegrityError), engine.begin() as connection:  # that somebody else has made it is as good
        connection.execute(sa.insert(latch).values(name=name))


# -- bars ----------------------------------------------------------------------------------------------------------

_STAGE: Final = """
    INSERT INTO staged_bar (ticker, "SESSION", ts, open, high, low, close, volume, vwap, trades)
    VALUES (:1, :2, :3, :4, :5, :6, :7, :8, :9, :10)
"""

#: Without them a column whose first value is NULL would be bound as text, and a datetime as a DATE.
_STAGED_TYPES: Final = (
    oracledb.DB_TYPE_VARCHAR,
    oracledb.DB_TYPE_DATE,
    oracledb.DB_TYPE_TIMESTAMP,
    *(oracledb.DB_TYPE_BINARY_DOUBLE for _ in VALUES[:-1]),
    oracledb.DB_TYPE_NUMBER,
)

# Whatever the optimizer expects of a temporary table, it shall look each staged bar up by the key: a plan made for one
# flush serves those of other sizes, and none may read the whole of ``bar``.
_BY_KEY: Final = "/*+ LEADING(staged) USE_NL(bar) */"

_SAME_BAR: Final = "bar.ticker = staged.ticker AND bar.timeframe = :timeframe AND bar.ts = staged.ts"

# DECODE takes two NULLs for equal.
_DIFFERS: Final = "(" + " OR ".join(f"DECODE(bar.{name}, staged.{name}, 0, 1) = 1" for name in VALUES) + ")"


def _statements(staged: sa.Table) -> tuple[sa.Select[Any], sa.TextClause, sa.TextClause]:
    """What locks the bars that are to be rewritten, keeps their old values, and takes the staged bars into ``bar``."""
    here = bar.alias("here")
    timeframe = sa.bindparam("timeframe", type_=bar.c.timeframe.type)
    same = sa.and_(here.c.ticker == staged.c.ticker, here.c.timeframe == timeframe, here.c.ts == staged.c.ts)
    lock = (
        sa.select(here.c.ticker)
        .join_from(staged, here, same)
        .where(sa.or_(*(here.c[name].is_distinct_from(staged.c[name]) for name in VALUES)))
        .with_hint(here, f"LEADING({staged.name}) USE_NL(%(name)s)", "oracle")
        .with_for_update(of=here.c.ticker)
    )
    revise = f"""
    INSERT INTO revision (source, ticker, timeframe, "SESSION", ts,
        {", ".join(f"old_{name}" for name in VALUES)}, {", ".join(f"new_{name}" for name in VALUES)},
        run_id, old_run_id, seen_at)
    SELECT {_BY_KEY} :source, bar.ticker, bar.timeframe, bar."SESSION", bar.ts,
        {", ".join(f"bar.{name}" for name in VALUES)}, {", ".join(f"staged.{name}" for name in VALUES)},
        :run_id, bar.run_id, COALESCE((SELECT as_of FROM run WHERE run_id = :run_id), LOCALTIMESTAMP)
    FROM {staged.name} staged JOIN bar ON {_SAME_BAR}
    WHERE {_DIFFERS}
"""  # noqa: S608  (fixed text, no value in it)

    merge = f"""
    MERGE {_BY_KEY} INTO bar USING {staged.name} staged ON ({_SAME_BAR})
    WHEN MATCHED THEN UPDATE SET {", ".join(f"{name} = staged.{name}" for name in VALUES)},
        source = :written, run_id = :run_id
        WHERE {_DIFFERS}
    WHEN NOT MATCHED THEN INSERT (ticker, timeframe, "SESSION", ts, {", ".join(VALUES)}, source, run_id)
        VALUES (staged.ticker, :timeframe, staged."SESSION", staged.ts,
            {", ".join(f"staged.{name}" for name in VALUES)}, :written, :run_id)
"""  # noqa: S608  (fixed text, no value in it)
    run_id = sa.bindparam("run_id", type_=sa.Uuid)
    return lock, sa.text(revise).bindparams(run_id), sa.text(merge).bindparams(run_id)


_FROM: Final = {staged: _statements(staged) for staged in (staged_bar, loaded_bar)}

#: From so many bars on direct path load is used, where the URL asks for it.
_WORTH_DIRECT_PATH: Final = 50_000

#: So many rows go to the server in one message: what the driver builds of them is held in memory twice.
_ROWS_AT_ONCE: Final = 10_000


# -- views ---------------------------------------------------------------------------------------------------------

#: The instant as of which a transaction reads the views of :data:`AS_OF`: one row, or they are empty.
present = sa.Table(
    "present",
    technical,
    sa.Column("instant", sa.DateTime, nullable=False),
    prefixes=["GLOBAL TEMPORARY"],
    oracle_on_commit="DELETE ROWS",
)

#: The views that are functions of an instant elsewhere.
AS_OF: Final = ("bar_as_of", "bar_adjusted_as_of", "split_factor_as_of")


class _Views(Views):
    session = '"SESSION"'
    instant = "(SELECT p.instant FROM present p)"

    def product(self, factor: str, over: str) -> str:
        return f"CAST({_product(factor, over)} AS BINARY_DOUBLE)"

    def product_of_ratios(self, over: str) -> str:
        """Through logarithms, for there is no product.

        They are those of NUMBER, right to 36 digits, so that what is left of them as BINARY_DOUBLE is the number next
        to the product itself. Where all are whole numbers, so is their product, and no digit of it is left to
        logarithms at all.
        """
        crooked = f"COUNT(CASE WHEN split_from <> ROUND(split_from) OR split_to <> ROUND(split_to) THEN 1 END) {over}"
        before, after = _product("split_from", over), _product("split_to", over)
        whole = f"CASE WHEN {crooked} = 0 THEN ROUND({before}) / ROUND({after}) ELSE {before} / {after} END"
        return f"COALESCE(CAST({whole} AS BINARY_DOUBLE), 1)"

    def close_before(self) -> str:
        """By one look at a ticker's bars: each is the close before the ex-dates until the session of the next one."""
        return """
        JOIN (
            SELECT b.source, b.ticker, b."SESSION", b.close,
                LEAD(b."SESSION") OVER (PARTITION BY b.source, b.ticker ORDER BY b.ts) AS next_session
            FROM bar b WHERE b.timeframe = '1d'
        ) c ON c.source = d.source AND c.ticker = d.ticker
            AND c."SESSION" < d.ex_date AND c.next_session >= d.ex_date"""


def _product(factor: str, over: str) -> str:
    return f"EXP(SUM(LN(CAST({factor} AS NUMBER))) {over})"


# -- grants --------------------------------------------------------------------------------------------------------

_WRITE: Final = "SELECT, INSERT, UPDATE, DELETE"

#: Unlike SELECT this does not let a reader lock rows.
_READ: Final = "READ"

#: Tables of values that are a session's own: whoever reads puts there what is asked for.
_OF_READERS: Final = (given, present)

#: What a refusal of GRANT means: there is no such user; it is our own; the tables are somebody else's.
_NOBODY: Final = ("ORA-01917", "ORA-01918", "ORA-01919", "ORA-00987", "ORA-01935")
_OURSELVES: Final = ("ORA-01749",)
_NOT_OURS: Final = ("ORA-00942", "ORA-01031", "ORA-01720")


def _no_such_user(name: str) -> ConfigurationError:
    return ConfigurationError(
        "there is no such user or role in the database",
        value=repr(visible(name[:128])),
        fix="Make it first: CREATE USER name IDENTIFIED BY ..., GRANT CREATE SESSION TO name; names mean capitals.",
    )


def _not_granted(codes: Sequence[str], user: str | None, role: str, name: str) -> ConfigurationError | None:
    """What a refusal means to a person; None where it has nothing to do with rights."""
    if any(code in _NOBODY for code in codes):
        return _no_such_user(role)
    if any(code in _OURSELVES for code in codes):
        return ConfigurationError(f"{role} owns the tables, and may do everything already", fix="Name another user.")
    if any(code in _NOT_OURS for code in codes):
        return ConfigurationError(
            f"{user} may not grant what {role} needs", value=name, fix="Run this as the owner of the tables."
        )
    return None


def _grants(*, writes: bool) -> Iterator[tuple[str, str]]:
    """What is granted on which table or view, one each: GRANT takes no list of them."""
    for table in metadata.tables:
        yield _WRITE if writes else _READ, table
    for own in technical.sorted_tables if writes else _OF_READERS:
        yield _WRITE, own.name
    if not writes:
        yield "SELECT", latch.name  # not READ, which locks nothing: whose lock can be had is no running run
    for view in (*VIEWS, *AS_OF, VERSION):
        yield "SELECT" if writes else _READ, view


class Oracle(Database):
    """Oracle."""

    name: ClassVar[str] = "oracle"
    port: ClassVar[int] = 1521
    bounds_statements: ClassVar[bool] = True
    snapshot: ClassVar[Mapping[str, Any]] = {"isolation_level": "SERIALIZABLE"}

    def __init__(self) -> None:
        self._batches = itertools.count(1)
        self._spent: deque[str] = deque()  # names of transactions that are known to be committed
        self._blind = False  # we may not see who holds a lock
        self._direct_path = False

    # -- connecting ----------------------------------------------------------------------------------------------

    def engine(self, url: sa.URL, connections: int) -> sa.Engine:
        owner = _owner(url)
        self._direct_path = _read("direct_path", url.query.get("direct_path", "off"))
        secret = {name: str(value) for name, value in url.query.items() if name == "wallet_password"}
        engine = sa.create_engine(
            # Not where an engine shows its URL: only the password's own place is blotted out there.
            url.set(drivername="oracle+closingbell").difference_update_query(secret),
            pool_size=connections,
            # One more for each of those who make a lock's row while they hold a connection.
            max_overflow=4,
            isolation_level="READ COMMITTED",
            hide_parameters=True,
            connect_args=secret,
        )

        def prepare(connection: Any, _: object) -> None:
            with connection.cursor() as cursor:
                cursor.execute(_SESSION)
            if owner:
                connection.current_schema = owner
                engine.dialect.default_schema_name = engine.dialect.normalize_name(owner)  # where tables are looked for

        def unbound(connection: Any, *_: object) -> None:
            _bound(connection, 0)

        def unhurried(connection: sa.Connection) -> None:
            if not connection.invalidated:
                unbound(_driver(connection))

        sa.event.listen(engine, "connect", prepare)
        ping_idle(engine)
        sa.event.listen(engine, "checkout", unbound)
        # A commit that is broken off may have been made all the same, and a rollback takes as long as it takes.
        for ending in ("commit", "rollback"):
            sa.event.listen(engine, ending, unhurried)
        return engine

    def explain(self, error: Exception, url: sa.URL) -> ClosingbellError:
        codes = _all_codes(error)
        text = without_secrets(_said(error), url)
        known = _CROWDED if isinstance(error, sa.exc.TimeoutError) else _kind(codes, text)
        if known is None and any(isinstance(each, OSError) for each in chain(error)):
            known = SILENT  # a name that nobody knows
        if known is None and any(map(was_invalidated, chain(error))):
            known = UNREACHABLE
        kind, what, fix = known or (FatalError, REFUSED, "")
        value = (
            f"{url.host}:{url.port or self.port}/{url.database or url.query.get('service_name') or ''} says {text!r}"
        )
        if kind is RefusedError:
            return RefusedError(what, value=value, message=text[:MESSAGE_LENGTH])
        return kind(what, value=value, fix=fix)

    # -- transactions --------------------------------------------------------------------------------------------

    def bound(self, connection: sa.Connection, lock_timeout: float) -> int:
        driver = _driver(connection)
        _bound(driver, _PATIENT * lock_timeout)
        session: int = driver.session_id
        return session

    def cancel(self, connection: sa.Connection, driver: Any, session: Any) -> None:
        with suppress(AttributeError):  # the driver's own, where the connection is lost
            driver.cancel()

    def begin(self, connection: sa.Connection, lock_timeout: float, tries: int) -> _Begun:
        """A name of its own, put into a table first: whoever puts it there again waits for this transaction's end.

        A statement that took too long may have worked instead of waiting: the next try gets twice the time.
        """
        driver = _driver(connection)
        _bound(driver, lock_timeout * 2**tries)
        token = f"commit {Clock().now():%Y-%m-%d} {uuid4().hex}"
        try:
            known = sa.update(latch).where(latch.c.name == self._spent.pop()).values(name=token)
        except IndexError:
            renamed = 0
        else:
            renamed = connection.execute(known).rowcount
        if not renamed:
            connection.execute(sa.insert(latch).values(name=token))
        return _Begun(token, driver.session_id, driver.serial_num)

    def fate(self, connection: sa.Connection, begun: _Begun, *, committing: bool) -> bool:
        _bound(_driver(connection), _GLANCE)
        try:
            with connection.begin_nested() as savepoint:
                connection.execute(sa.insert(latch).values(name=begun.token))
                savepoint.rollback()
        except driver_errors(connection) as error:
            if "ORA-00001" in _all_codes(error):
                return True
            failure = explain(error, connection)
        else:
            return False
        if isinstance(failure, LockedError | RaceError):
            what = "nobody knows yet whether the commit was made" if committing else "a lost session has not ended"
            raise AwayError(what, value=f"session {begun.sid}")
        raise failure

    def committed(self, begun: _Begun) -> None:
        self._spent.append(begun.token)

    def forget(self, connection: sa.Connection) -> None:
        over = Clock().now() - timedelta(days=_REMEMBERED)
        ended = sa.select(sa.literal("run ").concat(run.c.run_id)).where(run.c.ended_at < over)
        for old in (
            latch.c.name.between("commit ", f"commit {over:%Y-%m-%d}"),
            sa.func.replace(latch.c.name, "-", "").in_(ended),
        ):
            connection.execute(sa.delete(latch).where(old))

    def holders(self, connection: sa.Connection, begun: _Begun) -> list[str]:
        if self._blind:
            return []
        try:
            rows = connection.execute(_HOLDERS, {"sid": begun.sid, "serial": begun.serial})
            return [
                in_words(f"session {sid}", user, program, (state or "").lower(), since)
                for sid, user, program, state, since in rows
            ]
        except sa.exc.DBAPIError as error:
            self._blind = isinstance(explain(error, connection), ConfigurationError)
            return []

    # -- locks ---------------------------------------------------------------------------------------------------

    def lock(self, connection: sa.Connection, name: str) -> None:
        row = sa.select(latch.c.name).where(latch.c.name == name).with_for_update()
        while connection.execute(row).first() is None:
            _make(connection.engine, name)

    def try_lock(self, connection: sa.Connection, name: str) -> bool:
        row = sa.select(latch.c.name).where(latch.c.name == name)
        if connection.execute(row).first() is None:
            _make(connection.engine, name)
        try:
            return connection.execute(row.with_for_update(nowait=True)).first() is not None
        except sa.exc.DBAPIError as error:
            failure = explain(error, connection)
        if isinstance(failure, LockedError | RaceError):
            return False
        raise failure

    def prepare(self, connection: sa.Connection) -> None:
        try:
            connection.execute(_ANY_LATCH)
        except sa.exc.DatabaseError as error:
            if not isinstance(explain(error, connection), ConfigurationError):
                raise
        else:
            return
        try:
            latch.create(connection, checkfirst=False)
        except sa.exc.DatabaseError as error:
            if "ORA-00955" not in _all_codes(error):
                raise  # and not that somebody else has made it meanwhile

    def keep_idle(self, connection: sa.Connection) -> None:
        """Nothing: by default no session is ended for being idle; and the driver's probes tell it of a dead server."""

    # -- values --------------------------------------------------------------------------------------------------

    def rows(self, connection: sa.Connection, name: str, columns: Mapping[str, Values]) -> sa.FromClause:
        batch = next(self._batches)
        taken: dict[str, int] = {}
        named: list[sa.Label[Any]] = []
        slots: list[sa.Column[Any]] = []
        stored: list[Sequence[Any]] = []
        for column, (kind, values) in columns.items():
            type_ = sa.types.to_instance(kind)
            slot = _slot(type_, taken)
            slots.append(slot)
            stored.append(_as_stored(type_, values))
            named.append(sa.type_coerce(slot, type_).label(column))
        if len(stored[0]):
            _give(connection, slots, [(batch, *row) for row in zip(*stored, strict=True)])
        # Nobody knows how many rows are in a temporary table, and the plan that is made for one ticker serves all: by
        # its order of magnitude each has a statement, and a plan, of its own.
        many = f"CARDINALITY(%(name)s {10 ** len(str(len(stored[0])))})"
        return sa.select(*named).where(given.c.batch == batch).with_hint(given, many, "oracle").subquery(name)

    def among(
        self, connection: sa.Connection, column: sa.ColumnElement[Any], values: Iterable[Any]
    ) -> sa.ColumnElement[bool]:
        wanted = list(values)
        if len(wanted) == 1:  # an equality reaches the index below a view's windows, a list in a table does not
            return column == sa.literal(wanted[0], column.type)
        return super().among(connection, column, wanted)

    @classmethod
    def one_of(cls, column: sa.ColumnElement[str], name: str) -> sa.ColumnElement[bool]:
        batch = sa.bindparam(name, type_=given.c.batch.type)
        return column.in_(sa.select(given.c.text1).where(given.c.batch == batch))

    def listing(self, connection: sa.Connection, values: Iterable[str]) -> int:
        batch = next(self._batches)
        if rows := [(batch, value) for value in values]:
            _give(connection, [given.c.text1], rows)
        return batch

    def insert_missing(
        self,
        connection: sa.Connection,
        table: sa.Table,
        values: Mapping[str, sa.ColumnElement[Any]],
        rows: sa.Select[Any],
    ) -> int:
        known = table.alias("known")
        key = (known.c[column.name] == values[column.name] for column in table.primary_key)
        is_known = sa.exists(sa.select(sa.literal_column("1")).select_from(known).where(*key))
        insert = sa.insert(table).from_select(list(values), rows.where(~is_known))
        try:
            return connection.execute(insert, execution_options={"preserve_rowcount": True}).rowcount
        except sa.exc.IntegrityError as error:
            if "ORA-00001" not in _all_codes(error):
                raise  # no race: a constraint refuses a row
            raise OvertakenError("another transaction has inserted the same rows", value=table.name) from error

    # -- bars ----------------------------------------------------------------------------------------------------

    def load(self, connection: sa.Connection, series: Series, fresh: Sequence[Bars], others: Bars) -> tuple[int, int]:
        bars = latest(joined([*fresh, others]))
        if direct := self._direct_path and len(bars) >= _WORTH_DIRECT_PATH:
            self.lock(connection, "direct path load")  # for as long as its table is read from
            _load_directly(connection.engine, bars)
        else:
            _stage(connection, bars)
        lock, revise, merge = _FROM[loaded_bar if direct else staged_bar]
        values = {"timeframe": series.timeframe, "run_id": series.run_id}
        # Another vendor's flush has locked other watermarks, and may write the same bars: the old value that is kept
        # has to be the one that is replaced.
        rewritten = len(connection.execute(lock, {"timeframe": series.timeframe}).all())
        if rewritten:
            connection.execute(revise, {**values, "source": series.source})
        touched = connection.execute(merge, {**values, "written": series.written}).rowcount
        if not direct:  # what one flush has staged is not there for another one of the same transaction
            connection.execute(sa.delete(staged_bar))
        return touched - rewritten, rewritten

    def refused(self, connection: sa.Connection, series: Series, bars: Bars) -> dict[int, str]:
        def load(connection: sa.Connection, bars: Bars) -> None:
            _take(connection, series, bars, apart=False)

        # One statement for all: what is to be checked at the commit has to be so now, row by row.
        connection.exec_driver_sql("ALTER SESSION SET CONSTRAINTS = IMMEDIATE")
        try:
            return _refused(connection, series, bars, load)
        finally:
            with suppress(*driver_errors(connection)):
                connection.exec_driver_sql("ALTER SESSION SET CONSTRAINTS = DEFAULT")

    def series(
        self, connection: sa.Connection, source: str, timeframe: str, tickers: Sequence[str], first: date, last: date
    ) -> Bars:
        number = {ticker: i for i, ticker in enumerate(tickers)}
        query = (
            sa.select(bar.c.ticker, bar.c.session, bar.c.ts, *(bar.c[name] for name in VALUES))
            .where(
                bar.c.timeframe == timeframe,
                bar.c.source.in_(origins(source)),
                bar.c.ts.between(*around(first, last)),
                bar.c.session.between(first, last),
                self.among(connection, bar.c.ticker, tickers),
            )
            .order_by(bar.c.ticker, bar.c.ts)
        )
        columns = list(zip(*connection.execute(query), strict=True)) or [()] * (3 + len(VALUES))
        block = np.empty(len(columns[0]), BAR)
        block["ticker"] = [number[ticker] for ticker in columns[0]]
        block["session"] = np.array(columns[1], "M8[D]")
        block["ts"] = np.array([ts.replace(tzinfo=None) for ts in columns[2]], "M8[us]")
        for name, values in zip(VALUES[:-1], columns[3:-1], strict=True):
            block[name] = np.array(values, np.float64)
        block["trades"] = [NO_TRADES if count is None else count for count in columns[-1]]
        return Bars(tuple(tickers), block[np.lexsort((block["ts"], block["ticker"]))], timeframe)

    # -- reading -------------------------------------------------------------------------------------------------

    def known(
        self, connection: sa.Connection, relation: str, columns: Sequence[sa.ColumnClause[Any]], instant: datetime
    ) -> sa.FromClause:
        connection.execute(sa.delete(present))
        connection.execute(sa.insert(present).values(instant=instant))  # gone with the transaction
        return sa.table(relation, *columns)

    def selected(self, connection: sa.Connection, query: sa.Select[Any], rows: int) -> Iterator[Block]:
        def fetch_many(_: object, cursor: Any, *__: object) -> None:
            cursor.arraysize = min(rows, _FETCHED)  # the driver's own 100 is a round trip for so many rows

        sa.event.listen(connection, "before_cursor_execute", fetch_many)
        try:
            yield from super().selected(connection, query, rows)
        finally:
            sa.event.remove(connection, "before_cursor_execute", fetch_many)

    # -- schema --------------------------------------------------------------------------------------------------

    def views(self) -> Sequence[str]:
        made = _Views()
        of_the_present = {
            "split_factor_as_of": made.split_factor_as_of(),
            "bar_adjusted_as_of": made.bar_adjusted_as_of("split_factor_as_of"),
            "bar_as_of": made.bar_as_of(),
        }
        return (
            *made.create(),
            *(f"CREATE OR REPLACE VIEW {name} AS {query}" for name, query in of_the_present.items()),
        )

    def drop_views(self) -> Sequence[str]:
        return tuple(f"DROP VIEW {name}" for name in (*AS_OF, *VIEWS))

    def analyze(self, connection: sa.Connection, table: sa.Table) -> None:
        """Nothing: gathering statistics would commit, and a table that has none is sampled when it is read."""

    # -- grants --------------------------------------------------------------------------------------------------

    def role(self, connection: sa.Connection, name: str) -> str:
        """In capitals, as Oracle itself takes names; who may not see all roles cannot look for one."""
        if not _OWNER.fullmatch(name) or name.upper() == "PUBLIC":
            raise _no_such_user(name)
        return name.upper()

    def grant(self, connection: sa.Connection, role: str, *, writes: bool) -> None:
        for privileges, name in _grants(writes=writes):
            try:
                # A name cannot be bound: ours are fixed, and the role's is one that needs no quotes.
                connection.exec_driver_sql(f'GRANT {privileges} ON {name} TO "{role}"')
            except sa.exc.DatabaseError as error:
                codes = _all_codes(error)
                refusal = _not_granted(codes, connection.engine.url.username, role, name)
                if refusal is None:
                    raise
                raise refusal from None


def _stage(connection: sa.Connection, bars: Bars) -> None:
    """Bind bars column by column; the driver itself puts them into rows of its wire format."""
    driver: Any = connection.connection
    with driver.cursor() as cursor:
        cursor.setinputsizes(*_STAGED_TYPES)
        for begin in range(0, len(bars), _ROWS_AT_ONCE):
            cursor.executemany(_STAGE, _columns(bars.tickers, bars.rows[begin : begin + _ROWS_AT_ONCE]))


def _load_directly(engine: sa.Engine, bars: Bars) -> None:
    """Put bars into ``loaded_bar`` by direct path load, in place of those that the last one left there.

    It commits by itself, so that it never fills ``bar``: that is for the transaction that writes the ledger. It puts
    them behind all room that the table has ever taken, which is given back only where it is truncated: by its owner.
    """
    with engine.connect() as connection:
        driver = _driver(connection)
        user = (driver.username or "").upper()
        owner = driver.current_schema or user
        if owner == user:
            connection.exec_driver_sql("TRUNCATE TABLE loaded_bar")
        else:
            connection.execute(sa.delete(loaded_bar))
        connection.commit()
        names = [column.name.upper() for column in loaded_bar.c]
        driver.direct_path_load(owner, "LOADED_BAR", names, _columns(bars.tickers, bars.rows))


#: The same for single bars, so that the server can tell each that it refuses.
_TAKE: Final = f"""
    MERGE INTO bar USING (
        SELECT :1 AS ticker, :2 AS "SESSION", :3 AS ts, :4 AS open, :5 AS high, :6 AS low, :7 AS close, :8 AS volume,
            :9 AS vwap, :10 AS trades, :11 AS timeframe, :12 AS source, :13 AS run_id
        FROM dual
    ) staged
    ON (bar.ticker = staged.ticker AND bar.timeframe = staged.timeframe AND bar.ts = staged.ts)
    WHEN MATCHED THEN UPDATE SET {", ".join(f"{name} = staged.{name}" for name in VALUES)},
        source = staged.source, run_id = staged.run_id
        WHERE {_DIFFERS}
    WHEN NOT MATCHED THEN INSERT (ticker, timeframe, "SESSION", ts, {", ".join(VALUES)}, source, run_id)
        VALUES (staged.ticker, staged.timeframe, staged."SESSION", staged.ts,
            {", ".join(f"staged.{name}" for name in VALUES)}, staged.source, staged.run_id)
"""  # noqa: S608  (fixed text, no value in it)


def _refused(
    connection: sa.Connection, series: Series, bars: Bars, load: Callable[[sa.Connection, Bars], object]
) -> dict[int, str]:
    found: dict[int, str] = {}
    for begin in range(0, len(bars), _ROWS_AT_ONCE):
        end = min(begin + _ROWS_AT_ONCE, len(bars))
        for error in _take(connection, series, bars.only(np.arange(begin, end)), apart=True):
            failure = explain(oracledb.DatabaseError(error), connection)
            if not isinstance(failure, RefusedError):
                raise failure
            found[begin + error.offset] = failure.message
        if len(found) == end and not takes_any(connection, bars, load, _put_back):
            raise everything(next(iter(found.values())))
        if len(found) > MANY:
            raise too_many(next(reversed(found.values())))
    return found


def _take(connection: sa.Connection, series: Series, bars: Bars, *, apart: bool) -> list[Any]:
    """Store bars one by one; ``apart``: those that are refused are told, with their ``offset``, and no error."""
    more = (series.timeframe, series.written, series.run_id.hex)
    driver: Any = connection.connection
    with driver.cursor() as cursor:
        cursor.setinputsizes(*_STAGED_TYPES, *(oracledb.DB_TYPE_VARCHAR for _ in more))
        rows = [(*row, *more) for row in _columns(bars.tickers, bars.rows)]
        cursor.executemany(_TAKE, rows, batcherrors=apart)
        return list(cursor.getbatcherrors()) if apart else []


def _put_back(connection: sa.Connection, bars: Bars) -> int:
    """Take a bar of none of these tickers out and put it back as it was; how many there were to do it with."""
    others = ~database_of(connection).among(connection, bar.c.ticker, bars.tickers)
    row = connection.execute(sa.select(bar).where(bar.c.timeframe == bars.timeframe, others).limit(1)).first()
    if row is None:
        return 0
    key = (bar.c[column.name] == getattr(row, column.name) for column in bar.primary_key)
    connection.execute(sa.delete(bar).where(*key))
    connection.execute(sa.insert(bar).values(**row._mapping))
    return 1


def _columns(tickers: Sequence[str], rows: NDArray[np.void]) -> list[tuple[Any, ...]]:
    names = np.array(tickers, object)[rows["ticker"]].tolist()
    prices = (rows[name].tolist() for name in VALUES[:-2])
    measured = (*prices, nullable(rows["vwap"]), nullable(rows["trades"]))
    return list(zip(names, rows["session"].tolist(), rows["ts"].tolist(), *measured, strict=True))


def _slot(type_: sa.types.TypeEngine[Any], taken: dict[str, int]) -> sa.Column[Any]:
    """The next free column of :data:`given` for a type."""
    kinds: list[tuple[type[Any], str]] = [
        (sa.String, "text"),
        (sa.Uuid, "text"),
        (sa.Date, "day"),
        (sa.DateTime, "instant"),
        (sa.Integer, "whole"),
        (sa.Double, "real"),
    ]
    kind = next(name for of, name in kinds if isinstance(type_, of))
    taken[kind] = number = taken.get(kind, 0) + 1
    return given.c[f"{kind}{number}"]


def _as_stored(type_: sa.types.TypeEngine[Any], values: Sequence[Any]) -> Sequence[Any]:
    """Values as the driver binds them."""
    if isinstance(type_, sa.Uuid):
        return [value and value.hex for value in values]
    if isinstance(type_, sa.DateTime):
        return [value and in_utc(value) for value in values]
    return values


def _give(connection: sa.Connection, slots: Sequence[sa.Column[Any]], rows: list[tuple[Any, ...]]) -> None:
    """Put rows into :data:`given`, past SQLAlchemy, which would look at every value."""
    names = ["batch", *(slot.name for slot in slots)]
    places = ", ".join(f":{number}" for number in range(1, len(names) + 1))
    driver: Any = connection.connection
    with driver.cursor() as cursor:
        cursor.setinputsizes(*(_BOUND[name.rstrip("0123456789")] for name in names))
        cursor.executemany(f"INSERT INTO given ({', '.join(names)}) VALUES ({places})", rows)  # noqa: S608  (our names)
