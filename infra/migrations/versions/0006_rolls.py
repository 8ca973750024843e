"""Which contract a continuous future stood for, and since when.

A statement of DDL commits on Oracle: as 0004, this makes what is missing there.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    if op.get_bind().dialect.name == "oracle":
        _make(op.get_bind())
        return
    op.create_table(
        "roll",
        sa.Column("source", sa.String(16), primary_key=True),
        sa.Column("ticker", sa.String(32, collation="C"), primary_key=True),
        sa.Column("timeframe", sa.String(4), primary_key=True),
        sa.Column("ts", INSTANT, primary_key=True, comment=COMMENTS["roll.ts"]),
        sa.Column("session", sa.Date, nullable=False),
        sa.Column("instrument_id", sa.BigInteger, nullable=False, comment=COMMENTS["roll.instrument_id"]),
        sa.Column("run_id", sa.Uuid, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False, server_default=sa.func.now()),
    )


def downgrade() -> None:
    if op.get_bind().dialect.name != "oracle" or _is_there(op.get_bind()):
        op.execute("DROP TABLE roll")


def _make(connection: sa.Connection) -> None:
    if not _is_there(connection):
        connection.exec_driver_sql(TABLES["roll"])
    for column, comment in COMMENTS.items():
        connection.exec_driver_sql(f"COMMENT ON COLUMN {column} IS '{comment.replace(chr(39), chr(39) * 2)}'")


def _is_there(connection: sa.Connection) -> bool:
    query = "SELECT table_name FROM all_tables WHERE owner = SYS_CONTEXT('USERENV', 'CURRENT_SCHEMA')"
    return "ROLL" in set(connection.exec_driver_sql(query).scalars())


#: As closingbell/store/schema.py had it when this migration was written.
TABLES: Final = {
    "roll": """CREATE TABLE roll (
        source VARCHAR2(16 CHAR) NOT NULL, ticker VARCHAR2(32 CHAR) NOT NULL, timeframe VARCHAR2(4 CHAR) NOT NULL,
        ts TIMESTAMP(6) NOT NULL, "SESSION" DATE NOT NULL, instrument_id NUMBER(19) NOT NULL, run_id CHAR(32) NOT NULL,
        seen_at TIMESTAMP(6) NOT NULL,
        PRIMARY KEY (source, ticker, timeframe, ts)
    )""",
}

COMMENTS: Final = {
    "roll.ts": "from the bar that opens here on, or where a range began, the symbol stood for the instrument",
    "roll.instrument_id": "the vendor's number of the contract at that time",
}
