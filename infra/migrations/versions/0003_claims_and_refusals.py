"""The cells that a run has in flight, so that no two runs fetch the same; what the database said of refused bars."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

TICKERS = sa.JSON().with_variant(postgresql.ARRAY(sa.String(32, collation="C")), "postgresql")


def upgrade() -> None:
    if op.get_bind().dialect.name == "oracle":
        return  # its tables begin with 0004
    op.add_column("quarantine", sa.Column("message", sa.String(500), comment="what the database said when it refused"))
    op.create_table(
        "claim",
        sa.Column("claim_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("run_id", sa.Uuid, nullable=False, comment="the run that makes the call"),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("timeframe", sa.String(4), nullable=False),
        sa.Column("first_session", sa.Date, nullable=False),
        sa.Column("last_session", sa.Date, nullable=False),
        sa.Column("tickers", TICKERS, nullable=False, comment="the cells: these, first_session to last_session"),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("done_at", sa.DateTime(timezone=True), comment="when it was answered; NULL: in flight"),
        sa.Column("done_in", sa.BigInteger, comment="the transaction that wrote the answer"),
    )
    op.create_index("claim_of_run", "claim", ["run_id"])
    op.create_index("claim_of_sessions", "claim", ["source", "timeframe", "last_session"])


def downgrade() -> None:
    if op.get_bind().dialect.name == "oracle":
        return
    op.drop_table("claim")
    op.drop_column("quarantine", "message")
