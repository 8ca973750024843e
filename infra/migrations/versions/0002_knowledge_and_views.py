"""When each thing was known, who held a ticker, what was paid; and the views that derive prices from it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column(
        "run",
        sa.Column(
            "as_of",
            INSTANT,
            nullable=False,
            server_default=sa.func.now(),
            comment="what the run took for the present: all that it wrote is known since then",
        ),
    )
    op.execute("UPDATE run SET as_of = started_at")
    op.add_column("revision", sa.Column("old_run_id", sa.Uuid, comment="the run that had written the old values"))


def downgrade() -> None:
    op.drop_column("revision", "old_run_id")
    op.drop_column("run", "as_of")
