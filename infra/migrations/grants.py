"""What a user of the database needs who writes bars, or only reads them, and no more."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from closingbell.store.database import database_of
from closingbell.store.faults import transaction


def grant(engine: sa.Engine, writers: Sequence[str] = (), readers: Sequence[str] = ()) -> list[str]:
    """Grant roles what they need on the tables, views and functions of this project.

    A writer can do all that a run does, but change no table's definition; a reader can select. Rights that a role has
    from elsewhere stay. On PostgreSQL this counts for later versions of the tables too; on Oracle, which has no rights
    on tables to come, grant again after each new migration.

    Args:
        engine: of a database at the newest migration, as the owner of its tables.
        writers: names of roles or users, as they are.
        readers: the same.

    Returns:
        What was granted, a line for each role.

    Raises:
        ConfigurationError: there is no such role, or the engine's user may not grant what it needs.
    """
    database, said = database_of(engine), []
    with transaction(engine) as connection:
        wanted = [*((name, True) for name in writers), *((name, False) for name in readers)]
        roles = [(database.role(connection, name), writes) for name, writes in wanted]
        for role, writes in roles:
            database.grant(connection, role, writes=writes)
            said.append(f"{role} may {'read and write' if writes else 'read'}, and nothing else by this")
    return said
