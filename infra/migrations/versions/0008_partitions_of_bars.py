"""PostgreSQL keeps ``bar`` in partitions: daily bars in one, of the others those of a year or a quarter in each.

What reads ``bar`` (views, functions), and its rights, triggers and further indexes, are taken off the old table and
put on the new one. It is one transaction: all bars are moved or none. A database that has daily bars only is not
copied; its table becomes the partition of the daily bars as it is.

Oracle's table stays as it is: partitions are an option there that not every server has.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from importlib import import_module
from typing import Final

import sqlalchemy as sa
from alembic import op

from closingbell.errors import ConfigurationError

revision = "0008"
down_revision = "0007"

#: Views as 0007 made them. The server gives their text back with other brackets: they are made as they were.
OURS: Final = import_module("infra.migrations.versions.0007_sources_of_bars").CREATE

#: How it was before, and for the time of the move.
OLD: Final = "bar_of_before"

LIKE_OLD: Final = f"LIKE {OLD} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS"
COPY_OLD: Final = f"INSERT INTO bar SELECT * FROM {OLD}"  # noqa: S608  (fixed text)
INTRADAY: Final = f"SELECT EXISTS (SELECT FROM {OLD} WHERE timeframe <> '1d')"  # noqa: S608  (fixed text)

KEY: Final = "PRIMARY KEY (ticker, timeframe, ts)"

#: As closingbell/store/partitions.py had them when this migration was written: from and before when bars open, None
#: where there is no bound.
SPANS: Final[tuple[tuple[str, date | None, date | None], ...]] = (
    ("bar_earlier", None, date(2003, 1, 1)),
    *((f"bar_{year}", date(year, 1, 1), date(year + 1, 1, 1)) for year in range(2003, 2021)),
    *(
        (f"bar_{year}_q{n}", date(year, 3 * n - 2, 1), date(year + n // 4, 3 * n % 12 + 1, 1))
        for year in range(2021, 2033)
        for n in (1, 2, 3, 4)
    ),
    ("bar_later", date(2033, 1, 1), None),
)


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "oracle":
        return
    with_owner(connection)
    off, back = surroundings(connection)
    do(connection, *off)
    do(
        connection,
        f"ALTER TABLE bar RENAME TO {OLD}",
        f"ALTER INDEX bar_pkey RENAME TO {OLD}_pkey",
        f"CREATE TABLE bar ({LIKE_OLD}) PARTITION BY LIST (timeframe)",
        "CREATE TABLE bar_intraday PARTITION OF bar DEFAULT PARTITION BY RANGE (ts)",
        *(partition(*span) for span in SPANS),
    )
    if connection.exec_driver_sql(INTRADAY).scalar_one():
        do(
            connection,
            "CREATE TABLE bar_1d PARTITION OF bar FOR VALUES IN ('1d')",
            COPY_OLD,
            f"DROP TABLE {OLD}",
            f"ALTER TABLE bar ADD CONSTRAINT bar_pkey {KEY}",
        )
    else:
        do(
            connection,
            f"ALTER TABLE bar ADD CONSTRAINT bar_pkey {KEY}",
            f"ALTER TABLE {OLD} RENAME TO bar_1d",
            f"ALTER INDEX {OLD}_pkey RENAME TO bar_1d_pkey",
            "ALTER TABLE bar ATTACH PARTITION bar_1d FOR VALUES IN ('1d')",
        )
    do(connection, "CREATE INDEX bar_ts ON bar_intraday USING brin (ts) WITH (pages_per_range = 32)")
    do(connection, *back, *OURS, "ANALYZE bar", "RESET ROLE")


def downgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "oracle":
        return
    with_owner(connection)
    off, back = surroundings(connection)
    do(connection, *off)
    if connection.exec_driver_sql("SELECT EXISTS (SELECT FROM bar_intraday)").scalar_one():
        do(
            connection,
            f"ALTER TABLE bar RENAME TO {OLD}",
            f"CREATE TABLE bar ({LIKE_OLD})",
            COPY_OLD,
            f"DROP TABLE {OLD}",
            f"ALTER TABLE bar ADD CONSTRAINT bar_pkey {KEY}",
        )
    else:
        do(
            connection,
            "ALTER TABLE bar DETACH PARTITION bar_1d",
            "DROP TABLE bar",
            "ALTER TABLE bar_1d RENAME TO bar",
            "ALTER INDEX bar_1d_pkey RENAME TO bar_pkey",
        )
        for column, text in TOLD.items():
            do(connection, f"COMMENT ON COLUMN bar.{column} IS '{text}'")
    do(connection, *back, *OURS, "ANALYZE bar", "RESET ROLE")


def partition(name: str, first: date | None, end: date | None) -> str:
    """The statement that makes a partition. Its check lets conditions on sessions choose partitions too."""
    near = [f"session >= date '{first}' - 7"] if first else []
    near += [f"session < date '{end}' + 7"] if end else []
    bounds = (f"'{day} 00:00+00'" if day else word for day, word in ((first, "MINVALUE"), (end, "MAXVALUE")))
    return (
        f"CREATE TABLE {name} PARTITION OF bar_intraday (CONSTRAINT bar_near_its_session CHECK ({' AND '.join(near)})) "
        f"FOR VALUES FROM ({next(bounds)}) TO ({next(bounds)}) WITH (autovacuum_vacuum_insert_scale_factor = 0.02)"
    )


TOLD: Final = {"ts": "UTC instant at which the bar opens", "run_id": "the run that last wrote the row"}


def do(connection: sa.Connection, *statements: str) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement.replace("%", "%%"))


def with_owner(connection: sa.Connection) -> None:
    """Go on as the owner of ``bar``, to whom all that is made here has to belong too, and let nobody else at it."""
    quoted = "SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = 'bar'::regclass"
    do(connection, f"SET LOCAL ROLE {connection.exec_driver_sql(quoted).scalar_one()}", "SET LOCAL jit = off")
    do(connection, "LOCK TABLE bar IN ACCESS EXCLUSIVE MODE")


def surroundings(connection: sa.Connection) -> tuple[list[str], list[str]]:
    """What hangs on ``bar``: the statements that take it off, and those that put it back, each in its order.

    Raises:
        ConfigurationError: something is there that cannot be carried over.
    """
    strange = connection.execute(sa.text(STRANGE)).scalars().all()
    if strange:
        raise ConfigurationError(
            "the table bar is to be divided into partitions, and something hangs on it that cannot be carried over",
            value=", ".join(strange[:10]),
            fix="Drop it, run python -m infra.migrations, and make it again on the new table.",
        )
    found = list(_statements(connection))
    return [off for off, _ in reversed(found) if off], [back for _, back in found]


def _statements(connection: sa.Connection) -> Iterator[tuple[str, str]]:
    """What takes something off, and what puts it back; taking off goes backwards."""
    for query in (THEIR_INDEXES, THEIR_TRIGGERS, READERS):
        yield from (tuple(row) for row in connection.execute(sa.text(query)))
    yield from (("", row[0]) for row in connection.execute(sa.text(RIGHTS)))


#: Views and functions that read ``bar``, or what reads it, or have its rows' type; those first that others need.
DEPENDENTS: Final = """
    WITH RECURSIVE edge AS (
        SELECT CASE d.classid WHEN 'pg_rewrite'::regclass THEN 'pg_class'::regclass ELSE d.classid END AS kind,
            COALESCE(r.ev_class, d.objid) AS id, d.refclassid AS of_kind, d.refobjid AS of_id
        FROM pg_depend d LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
        WHERE d.classid IN ('pg_rewrite'::regclass, 'pg_type'::regclass, 'pg_proc'::regclass)
          AND d.refclassid IN ('pg_class'::regclass, 'pg_type'::regclass, 'pg_proc'::regclass)
    ), found AS (
        SELECT 'pg_class'::regclass::oid AS kind, 'bar'::regclass::oid AS id, 0 AS depth
        UNION ALL
        SELECT edge.kind, edge.id, depth + 1 FROM found JOIN edge ON (of_kind, of_id) = (found.kind, found.id)
        WHERE (edge.kind, edge.id) <> (found.kind, found.id)
    ), dependent AS (
        SELECT kind, id, max(depth) AS depth FROM found
        WHERE depth > 0 AND kind <> 'pg_type'::regclass AND id <> 'bar'::regclass GROUP BY kind, id
    )
"""

READERS: Final = f"""
    {DEPENDENTS}
    SELECT CASE WHEN c.oid IS NULL THEN format('DROP FUNCTION %s', p.oid::regprocedure)
            ELSE format('DROP VIEW %s', c.oid::regclass) END,
        CASE WHEN c.oid IS NULL THEN pg_get_functiondef(p.oid)
            ELSE format('CREATE VIEW %s%s AS %s', c.oid::regclass,
                ' WITH (' || array_to_string(c.reloptions, ', ') || ')', pg_get_viewdef(c.oid)) END
    FROM dependent
    LEFT JOIN pg_class c ON kind = 'pg_class'::regclass AND c.oid = id
    LEFT JOIN pg_proc p ON kind = 'pg_proc'::regclass AND p.oid = id
    ORDER BY depth, id
"""  # noqa: S608  (fixed text)

#: Indexes beside that of the key; that of ``ts`` is of the partitions, and goes with them.
THEIR_INDEXES: Final = """
    SELECT format('DROP INDEX %s', i.indexrelid::regclass),
        replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON ')
    FROM pg_index i WHERE i.indrelid = 'bar'::regclass AND NOT i.indisprimary ORDER BY i.indexrelid
"""

THEIR_TRIGGERS: Final = """
    SELECT format('DROP TRIGGER %I ON bar', tgname), pg_get_triggerdef(oid) FROM pg_trigger
    WHERE tgrelid = 'bar'::regclass AND NOT tgisinternal ORDER BY oid
"""

#: Of the table itself, and of what reads it.
RIGHTS: Final = f"""
    {DEPENDENTS}
    SELECT format('GRANT %s ON %s TO %s%s', a.privilege_type, o.what,
        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM (
        SELECT format('TABLE %s', c.oid::regclass) AS what, c.relacl AS acl, c.relowner AS owner FROM pg_class c
        WHERE c.oid = 'bar'::regclass OR c.oid IN (SELECT id FROM dependent WHERE kind = 'pg_class'::regclass)
        UNION ALL
        SELECT format('FUNCTION %s', p.oid::regprocedure), p.proacl, p.proowner FROM pg_proc p
        WHERE p.oid IN (SELECT id FROM dependent WHERE kind = 'pg_proc'::regclass)
    ) o CROSS JOIN LATERAL aclexplode(o.acl) a
    WHERE a.grantee <> o.owner
"""  # noqa: S608  (fixed text)

#: What would be lost: views of others and kept ones, foreign keys, unique indexes (one over all partitions has to have
#: what divides them), policies, rules, publications.
STRANGE: Final = f"""
    {DEPENDENTS}
    SELECT format('view %s', c.oid::regclass) FROM dependent JOIN pg_class c ON c.oid = id
    WHERE kind = 'pg_class'::regclass
      AND (c.relkind <> 'v' OR c.relowner <> (SELECT relowner FROM pg_class WHERE oid = 'bar'::regclass))
    UNION ALL
    SELECT format('function %s', p.oid::regprocedure) FROM dependent JOIN pg_proc p ON p.oid = id
    WHERE kind = 'pg_proc'::regclass
      AND (p.prokind <> 'f' OR p.proowner <> (SELECT relowner FROM pg_class WHERE oid = 'bar'::regclass))
    UNION ALL
    SELECT format('foreign key %I of %s', conname, conrelid::regclass) FROM pg_constraint
    WHERE confrelid = 'bar'::regclass OR (conrelid = 'bar'::regclass AND contype = 'f')
    UNION ALL
    SELECT format('unique index %s', i.indexrelid::regclass) FROM pg_index i
    WHERE i.indrelid = 'bar'::regclass AND NOT i.indisprimary AND (i.indisunique OR i.indisexclusion)
    UNION ALL
    SELECT format('policy %I', polname) FROM pg_policy WHERE polrelid = 'bar'::regclass
    UNION ALL
    SELECT format('rule %I', rulename) FROM pg_rewrite WHERE ev_class = 'bar'::regclass
    UNION ALL
    SELECT format('publication %I', pubname) FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid
    WHERE prrelid = 'bar'::regclass
    UNION ALL
    SELECT format('inheriting table %s', inhrelid::regclass) FROM pg_inherits JOIN pg_class c ON c.oid = inhparent
    WHERE inhparent = 'bar'::regclass AND c.relkind = 'r'
"""  # noqa: S608  (fixed text)
