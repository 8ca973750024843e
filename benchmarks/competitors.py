"""What people write bars with instead: each into the same table with its key, or one like it, in its best setup."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import UUID

import pandas as pd
import psycopg2
import sqlalchemy as sa
from psycopg2.extras import execute_values, register_uuid
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql

from closingbell.bars import Bars
from closingbell.store.columns import instants, nullable
from closingbell.store.schema import bar

#: An interpreter that has dlt, where this one has not.
DLT_PYTHON: Final = "CLOSINGBELL_BENCH_DLT_PYTHON"

_NAMES: Final = [column.name for column in bar.columns]
_KEY: Final = [column.name for column in bar.primary_key]
_VALUES: Final = [name for name in _NAMES if name not in _KEY]
_LIST: Final = ", ".join(_NAMES)
_INTO: Final = f"INSERT INTO bar ({_LIST}) VALUES"
_ON_CONFLICT: Final = (
    f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET {', '.join(f'{name} = EXCLUDED.{name}' for name in _VALUES)}"
)

Row = tuple[Any, ...]


def as_rows(bars: Bars, run_id: UUID) -> list[Row]:
    """The bars as rows of Python values, in the order of the table's columns."""
    rows = bars.rows
    columns = [
        [bars.tickers[i] for i in rows["ticker"]],
        ["1d"] * len(rows),
        rows["session"].tolist(),
        instants(rows["ts"]),
        *(rows[name].tolist() for name in ("open", "high", "low", "close", "volume")),
        nullable(rows["vwap"]),
        nullable(rows["trades"]),
        ["polygon"] * len(rows),
        [run_id] * len(rows),
    ]
    return list(zip(*columns, strict=True))


def per_row(url: sa.URL, rows: Sequence[Row]) -> None:
    """An upsert a row, one commit at the end."""
    with _connected(url) as connection, connection.cursor() as cursor:
        marks = ", ".join(["%s"] * len(_NAMES))
        for row in rows:
            cursor.execute(f"{_INTO} ({marks}) {_ON_CONFLICT}", row)


def values_500(url: sa.URL, rows: Sequence[Row]) -> None:
    """``execute_values`` of 500 rows, an upsert and a commit each: the field's usual way."""
    with _connected(url) as connection, connection.cursor() as cursor:
        for first in range(0, len(rows), 500):
            execute_values(cursor, f"{_INTO} %s {_ON_CONFLICT}", rows[first : first + 500], page_size=500)
            connection.commit()


def bulk_mappings(url: sa.URL, rows: Sequence[Row]) -> None:
    """SQLAlchemy's ``bulk_insert_mappings``, which cannot update; one commit at the end."""

    class Base(orm.DeclarativeBase):
        pass

    mapped = type("Bar", (Base,), {"__table__": bar.to_metadata(Base.metadata)})
    mappings = [dict(zip(_NAMES, row, strict=True)) for row in rows]
    with _engine(url) as engine, orm.Session(engine) as session:
        session.bulk_insert_mappings(orm.class_mapper(mapped), mappings)
        session.commit()


def core_upsert(url: sa.URL, rows: Sequence[Row]) -> None:
    """SQLAlchemy Core's upsert, 1,000 rows at a time, one commit at the end."""
    insert = postgresql.insert(bar)
    upsert = insert.on_conflict_do_update(index_elements=_KEY, set_={name: insert.excluded[name] for name in _VALUES})
    mappings = [dict(zip(_NAMES, row, strict=True)) for row in rows]
    with _engine(url) as engine, engine.begin() as connection:
        for first in range(0, len(rows), 1_000):
            connection.execute(upsert, mappings[first : first + 1_000])


def to_sql(url: sa.URL, rows: Sequence[Row]) -> None:
    """``DataFrame.to_sql`` with ``method="multi"``, which cannot update, 1,000 rows at a time."""
    frame = pd.DataFrame(rows, columns=_NAMES)
    with _engine(url) as engine:
        frame.to_sql("bar", engine, if_exists="append", index=False, method="multi", chunksize=1_000)


def staged_copy(url: sa.URL, rows: Sequence[Row]) -> None:
    """A CSV by COPY into a temporary table, and from there an upsert: what the better pipelines do."""
    frame = pd.DataFrame(rows, columns=_NAMES)
    with _connected(url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE stage (LIKE bar) ON COMMIT DROP")
        stream = io.StringIO()
        frame.to_csv(stream, index=False, header=False)
        stream.seek(0)
        cursor.copy_expert(f"COPY stage ({_LIST}) FROM STDIN (FORMAT csv)", stream)
        cursor.execute(f"INSERT INTO bar ({_LIST}) SELECT {_LIST} FROM stage {_ON_CONFLICT}")  # noqa: S608


#: Name, how, and how many rows: rows a second are compared, and some of these would take an hour for all.
COMPETITORS: Final[dict[str, tuple[Callable[[sa.URL, Sequence[Row]], None], int]]] = {
    "upsert row by row": (per_row, 10_000),
    "execute_values, 500 rows a commit": (values_500, 40_000),
    "SQLAlchemy bulk_insert_mappings": (bulk_mappings, 20_000),
    "SQLAlchemy Core upsert": (core_upsert, 20_000),
    'pandas.to_sql(method="multi")': (to_sql, 8_000),
    "CSV by COPY, staged, ON CONFLICT": (staged_copy, 100_000),
}


def dlt_seconds(url: sa.URL, bars: Bars, run_id: UUID, kind: str) -> float | None:
    """Seconds that dlt's merge (upsert by the same key) takes, from extraction to the load; None without dlt.

    Args:
        url: of the database; dlt makes a schema of its own there.
        bars: to load.
        run_id: for their rows.
        kind: ``dicts`` or ``arrow``.
    """
    python = os.environ.get(DLT_PYTHON) or (sys.executable if importlib.util.find_spec("dlt") else None)
    if python is None:
        return None
    with TemporaryDirectory(prefix="closingbell-dlt-") as home:
        file = Path(home) / "bars.parquet"
        frame = pd.DataFrame(as_rows(bars, run_id), columns=_NAMES)
        frame["run_id"], frame["session"] = frame["run_id"].map(str), frame["session"].astype("datetime64[s]")
        frame["vwap"], frame["trades"] = frame["vwap"].astype("float64"), frame["trades"].astype("Int64")
        frame.to_parquet(file, index=False)
        plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
        command = [python, str(Path(__file__).with_name("dlt_merge.py")), str(file), kind, home]
        done = subprocess.run(  # noqa: S603  (an interpreter of ours)
            command,
            env={"PATH": os.environ.get("PATH", ""), "HOME": home, "DESTINATION__POSTGRES__CREDENTIALS": plain},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"dlt failed:\n{done.stderr[-2_000:]}")
        return float(done.stdout.split()[-1])


def seconds_of(work: Callable[[sa.URL, Sequence[Row]], None], url: sa.URL, rows: Sequence[Row]) -> float:
    """Seconds that one of them takes."""
    begun = time.perf_counter()
    work(url, rows)
    return time.perf_counter() - begun


@contextmanager
def _connected(url: sa.URL) -> Iterator[Any]:
    """A connection of psycopg2's, committed at the end."""
    register_uuid()
    with closing(
        psycopg2.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
    ) as connection:
        yield connection
        connection.commit()


@contextmanager
def _engine(url: sa.URL) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    yield engine
    engine.dispose()
