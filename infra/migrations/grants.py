"""What a user of the database needs who writes bars, or only reads them, and no more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa
from psycopg2 import sql

from closingbell.errors import ConfigurationError
from closingbell.store import views
from closingbell.store.faults import transaction
from closingbell.store.schema import metadata
from closingbell.text import visible

#: As long as a name can be in PostgreSQL, in bytes.
_LONGEST: Final = 63

#: Where Alembic keeps the migration that a database is at. Nobody but the migrations writes there.
_VERSION: Final = "alembic_version"

_WRITE: Final = "SELECT, INSERT, UPDATE, DELETE"
_READ: Final = "SELECT"

_KNOWN: Final = sa.text("SELECT rolname FROM pg_roles WHERE rolname = :name AND rolname NOT LIKE 'pg\\_%'")

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


def grant(engine: sa.Engine, writers: Sequence[str] = (), readers: Sequence[str] = ()) -> list[str]:
    """Grant roles what they need on the tables, views and functions of this project, and of its later versions.

    A writer can do all that a run does, but change no table's definition; a reader can select. Rights that a role has
    from elsewhere stay.

    Args:
        engine: of a database at the newest migration, as the owner of its tables.
        writers: names of roles, exactly as they are.
        readers: the same.

    Returns:
        What was granted, a line for each role.

    Raises:
        ConfigurationError: there is no such role, or the engine's user may not grant what it needs.
    """
    for name in (*writers, *readers):
        _require_a_name(name)
    with transaction(engine) as connection:
        for name in (*writers, *readers):
            if not connection.execute(_KNOWN, {"name": name}).first():
                raise _no_such_role(name)
        lines = [_granted(connection, name, writes=True) for name in writers]
        return lines + [_granted(connection, name, writes=False) for name in readers]


def _require_a_name(name: str) -> None:
    """Refuse what cannot be a role's name before the database sees it."""
    if not name or "\0" in name or len(name.encode(errors="replace")) > _LONGEST:
        raise _no_such_role(name)


def _no_such_role(name: str) -> ConfigurationError:
    return ConfigurationError(
        "there is no such role in the database",
        value=repr(visible(name[:_LONGEST])),
        fix="Write it as \\du lists it, or make it first: CREATE ROLE name LOGIN PASSWORD '...'.",
    )


def _granted(connection: sa.Connection, role: str, *, writes: bool) -> str:
    driver: Any = connection.connection
    with driver.cursor() as cursor:
        cursor.execute("SELECT current_database(), current_schema(), current_setting('server_version_num')::int")
        database, schema, version = cursor.fetchone()
        for statement in _statements(database, schema, role, version, writes=writes):
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
    return f"{role} may {'read and write' if writes else 'read'}, and nothing else by this"


def _statements(database: str, schema: str, role: str, version: int, *, writes: bool) -> Iterator[sql.Composed]:
    """The grants; names are quoted by the driver, as a name cannot be bound."""
    grantee, inside = sql.Identifier(role), sql.Identifier(schema)

    def on(what: str, privileges: str, *names: sql.Composable) -> sql.Composed:
        listed = sql.SQL(", ").join(names)
        return sql.SQL("GRANT {} ON {} {} TO {}").format(sql.SQL(privileges), sql.SQL(what), listed, grantee)

    def of(names: Sequence[str]) -> list[sql.Composable]:
        return [sql.Identifier(schema, name) for name in names]

    # The staging table is a temporary one.
    yield on("DATABASE", "CONNECT, TEMPORARY" if writes else "CONNECT", sql.Identifier(database))
    yield on("SCHEMA", "USAGE", inside)
    yield on("TABLE", _WRITE if writes else _READ, *of(list(metadata.tables)))
    yield on("TABLE", _READ, *of([*views.VIEWS, _VERSION]))
    yield on("FUNCTION", "EXECUTE", *(sql.SQL("{}.{}").format(inside, sql.SQL(name)) for name in _callable()))
    if writes and version >= 170_000:
        yield on("TABLE", "MAINTAIN", *of(["ticker_history"]))  # it is analyzed when it was filled
    yield sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT {} ON TABLES TO {}").format(
        inside, sql.SQL(_WRITE if writes else _READ), grantee
    )


def _callable() -> Sequence[str]:
    return (*views.FUNCTIONS, *views.AGGREGATES)
