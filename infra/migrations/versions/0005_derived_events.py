"""Events that detectors find in stored bars, how far they are derived, and which cells got a bar late.

A statement of DDL commits on Oracle: as 0004, this makes what is missing there.
"""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

TICKER = sa.String(32, collation="C")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    if op.get_bind().dialect.name == "oracle":
        _make(op.get_bind())
        return
    op.create_table(
        "late_cell",
        sa.Column("late_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("ticker", TICKER, nullable=False),
        sa.Column("timeframe", sa.String(4), nullable=False),
        sa.Column("session", sa.Date, nullable=False),
        _told("run_id", sa.Uuid),
        sa.Column("seen_at", INSTANT, nullable=False, server_default=sa.func.now()),
    )
    op.create_index("late_cell_of_ticker", "late_cell", ["ticker", "timeframe", "late_id"])
    op.create_table(
        "event",
        *_key("event"),
        _told("ts", INSTANT, primary_key=True),
        sa.Column("kind", sa.String(32), primary_key=True),
        _told("session", sa.Date),
        _told("first_ts", INSTANT),
        _told("bars", sa.Integer),
        *(
            sa.Column(name, sa.Double, comment=COMMENTS[f"event.{name}"])
            for name in ("upper", "upper_slope", "lower", "lower_slope", "apex_bars")
        ),
        sa.Column("run_id", sa.Uuid, nullable=False),
    )
    op.create_table(
        "event_mark",
        *_key("event_mark"),
        sa.Column("first_session", sa.Date, nullable=False),
        _mark("last_session", sa.Date),
        _mark("todo", postgresql.JSONB, nullable=True),
        _mark("reach_session", sa.Date),
        _mark("bars_from", sa.Date),
        _mark("gaps", postgresql.JSONB, nullable=True),
        _mark("revision_id", sa.BigInteger),
        _mark("late_id", sa.BigInteger),
        _mark("turn", sa.Integer),
        sa.Column("run_id", sa.Uuid, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False, server_default=sa.func.now()),
    )


def downgrade() -> None:
    there = _there(op.get_bind()) if op.get_bind().dialect.name == "oracle" else set(TABLES)
    for name in reversed(TABLES):
        if name in there:
            op.execute(f"DROP TABLE {name}")


def _key(table: str) -> list[sa.Column[Any]]:
    """What events have in common that one detector finds in the same bars."""
    kinds = {"ticker": TICKER, "timeframe": sa.String(4), "detector": sa.String(32), "version": sa.String(40)}
    kinds |= {"source": sa.String(16), "from_timeframe": sa.String(4)}
    return [
        sa.Column(name, kind, primary_key=True, comment=COMMENTS.get(f"{table}.{name}")) for name, kind in kinds.items()
    ]


def _told(name: str, kind: Any, *, primary_key: bool = False) -> sa.Column[Any]:
    table = "late_cell" if name == "run_id" else "event"
    return sa.Column(name, kind, primary_key=primary_key, nullable=False, comment=COMMENTS[f"{table}.{name}"])


def _mark(name: str, kind: Any, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=nullable, comment=COMMENTS[f"event_mark.{name}"])


def _make(connection: sa.Connection) -> None:
    """Oracle's tables and indexes, as far as they are missing."""
    there = _there(connection)
    for name, statement in (TABLES | INDEXES).items():
        if name not in there:
            connection.exec_driver_sql(statement)
    for column, comment in COMMENTS.items():
        quoted = column.replace(".session", '."SESSION"')  # a reserved word
        connection.exec_driver_sql(f"COMMENT ON COLUMN {quoted} IS '{comment.replace(chr(39), chr(39) * 2)}'")


def _there(connection: sa.Connection) -> set[str]:
    """The names of the tables and indexes that this user has."""
    owner = "owner = SYS_CONTEXT('USERENV', 'CURRENT_SCHEMA')"
    query = f"""
        SELECT table_name FROM all_tables WHERE {owner} UNION ALL SELECT index_name FROM all_indexes WHERE {owner}
    """  # noqa: S608  (fixed text)
    return {name.lower() for name in connection.exec_driver_sql(query).scalars()}


#: As closingbell/store/schema.py had them when this migration was written.
TABLES: Final = {
    "late_cell": """CREATE TABLE late_cell (
        late_id NUMBER(19) GENERATED ALWAYS AS IDENTITY (NOCACHE), source VARCHAR2(16 CHAR) NOT NULL,
        ticker VARCHAR2(32 CHAR) NOT NULL, timeframe VARCHAR2(4 CHAR) NOT NULL, "SESSION" DATE NOT NULL,
        run_id CHAR(32) NOT NULL, seen_at TIMESTAMP(6) NOT NULL,
        PRIMARY KEY (late_id)
    )""",
    "event": """CREATE TABLE event (
        ticker VARCHAR2(32 CHAR) NOT NULL, timeframe VARCHAR2(4 CHAR) NOT NULL, detector VARCHAR2(32 CHAR) NOT NULL,
        version VARCHAR2(40 CHAR) NOT NULL, source VARCHAR2(16 CHAR) NOT NULL,
        from_timeframe VARCHAR2(4 CHAR) NOT NULL, ts TIMESTAMP(6) NOT NULL, kind VARCHAR2(32 CHAR) NOT NULL,
        "SESSION" DATE NOT NULL, first_ts TIMESTAMP(6) NOT NULL, bars INTEGER NOT NULL, upper BINARY_DOUBLE,
        upper_slope BINARY_DOUBLE, lower BINARY_DOUBLE, lower_slope BINARY_DOUBLE, apex_bars BINARY_DOUBLE,
        run_id CHAR(32) NOT NULL,
        PRIMARY KEY (ticker, timeframe, detector, version, source, from_timeframe, ts, kind)
    )""",
    "event_mark": """CREATE TABLE event_mark (
        ticker VARCHAR2(32 CHAR) NOT NULL, timeframe VARCHAR2(4 CHAR) NOT NULL, detector VARCHAR2(32 CHAR) NOT NULL,
        version VARCHAR2(40 CHAR) NOT NULL, source VARCHAR2(16 CHAR) NOT NULL,
        from_timeframe VARCHAR2(4 CHAR) NOT NULL, first_session DATE NOT NULL, last_session DATE NOT NULL, todo CLOB,
        reach_session DATE NOT NULL, bars_from DATE NOT NULL, gaps CLOB, revision_id NUMBER(19) NOT NULL,
        late_id NUMBER(19) NOT NULL, turn INTEGER NOT NULL, run_id CHAR(32) NOT NULL, updated_at TIMESTAMP(6) NOT NULL,
        PRIMARY KEY (ticker, timeframe, detector, version, source, from_timeframe)
    )""",
}

INDEXES: Final = {
    "late_cell_of_ticker": "CREATE INDEX late_cell_of_ticker ON late_cell (ticker, timeframe, late_id)",
}

COMMENTS: Final = {
    "late_cell.run_id": "the run that brought the bar",
    "event.version": "the detector's revision and parameters",
    "event.source": "of the bars",
    "event.from_timeframe": "of the stored bars; where it is another, they were resampled on the way",
    "event.ts": "UTC instant at which the bar that confirms it opens",
    "event.session": "of the bar that confirms it",
    "event.first_ts": "the first bar that it was computed from; ts is the last",
    "event.bars": "how many these are",
    "event.upper": "price of the upper line at ts",
    "event.upper_slope": "price a bar",
    "event.lower": "price of the lower line at ts",
    "event.lower_slope": "price a bar",
    "event.apex_bars": "in how many bars the lines meet",
    "event_mark.last_session": "first..last is derived, but for what is to do",
    "event_mark.todo": "spans of sessions in it that are yet to be derived, or again",
    "event_mark.reach_session": "the first one whose bars were looked at",
    "event_mark.bars_from": "the bars' watermark began here",
    "event_mark.gaps": "sessions that had no bar, or not all, when it was looked",
    "event_mark.revision_id": "revisions of the bars up to here are seen to",
    "event_mark.late_id": "late cells up to here are seen to",
    "event_mark.turn": "counts the changes of this row",
}
