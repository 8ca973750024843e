"""``python -m infra.backup``: the PostgreSQL that the settings name, the embedded one too, into a file and back.

pg_dump and pg_restore do the work: those that come with the embedded PostgreSQL, or else those on the path. The
password goes to them in their environment, never on a command line. docs/upgrading.md tells when to use it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

import click
import sqlalchemy as sa

from closingbell.errors import ClosingbellError, ConfigurationError, FatalError
from closingbell.settings import load
from closingbell.store import open_store
from closingbell.store.database import database_of
from closingbell.store.faults import transaction, without_secrets
from closingbell.store.schema import VERSION, metadata
from infra import embedded
from infra.postgres import programs


def dump(engine: sa.Engine, file: Path) -> None:
    """Write the database into a file, as of this moment; runs may go on meanwhile.

    Args:
        engine: of a store on PostgreSQL.
        file: where to; only its owner may read it. It is there whole or not at all.

    Raises:
        ConfigurationError: the file is there already or cannot be written; or this is no PostgreSQL.
        FatalError: pg_dump failed.
    """
    if file.exists():
        raise ConfigurationError("this file is there already", value=str(file), fix="Name another one.")
    try:
        with NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as part:
            made = Path(part.name)
    except OSError as error:
        raise ConfigurationError(
            "the file cannot be written", value=f"{file} ({error.strerror})", fix="Name another folder."
        ) from None
    try:
        _run(engine, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={made}")
        made.rename(file)
    finally:
        with suppress(FileNotFoundError):
            made.unlink()


def restore(engine: sa.Engine, file: Path) -> None:
    """Read a file that :func:`dump` wrote into a database that has none of this project's tables: all of it or nothing.

    Args:
        engine: of a store on PostgreSQL, as the user who is to own the tables.
        file: the file.

    Raises:
        ConfigurationError: there is no such file, or the database has tables already; or this is no PostgreSQL.
        FatalError: pg_restore failed, and nothing was restored.
    """
    if not file.is_file():
        raise ConfigurationError("there is no such file", value=str(file), fix="Name one that was dumped.")
    with transaction(engine) as connection:
        there = {*metadata.tables, VERSION} & set(sa.inspect(connection).get_table_names())
    if there:
        raise ConfigurationError(
            "the database to restore into has tables already",
            value=", ".join(sorted(there)),
            fix="Restore into a new, empty database, then point DATABASE_URL at it.",
        )
    _run(engine, "pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges", str(file))


def _run(engine: sa.Engine, name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs on the database of an engine."""
    if database_of(engine).name != "postgresql":
        raise ConfigurationError(
            "this is for PostgreSQL only", value=database_of(engine).name, fix="Use Oracle's Data Pump: expdp, impdp."
        )
    from psycopg2.extensions import make_dsn

    from closingbell.store.postgres import tls_of

    options = {**engine.dialect.create_connect_args(engine.url)[1], **(tls_of(engine.url) or {})}
    password = options.pop("password", None)
    environment = {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}
    command = [_program(name), f"--dbname={make_dsn(**options)}", "--no-password", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        told = without_secrets(done.stderr.strip(), engine.url)
        raise FatalError(f"{name} failed", value=told, fix="Nothing was changed.")


def _program(name: str) -> str:
    """The path of one of PostgreSQL's programs.

    Raises:
        ConfigurationError: it is nowhere.
    """
    folders = []
    with suppress(ConfigurationError):
        folders.append(str(programs()))
    found = shutil.which(name, path=os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)]))
    if not found:
        raise ConfigurationError(f"there is no {name} here", fix="Install PostgreSQL's client programs.")
    return found


@contextmanager
def _opened() -> Iterator[sa.Engine]:
    settings = load()
    with ExitStack() as stack:
        named = settings.database_url
        url = named.get_secret_value() if named else stack.enter_context(embedded.database(settings, []))
        store = open_store(url, connections=1, patience=0)
        stack.callback(store.close)
        yield store.engine


@click.group()
def main() -> None:
    """Back up the PostgreSQL of DATABASE_URL, or the embedded one of CLOSINGBELL_HOME, and restore it.

    Example: python -m infra.backup dump bars.dump
    """


@main.command("dump")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def dump_command(file: Path) -> None:
    """Write the database into FILE, which is not there yet. Runs may go on meanwhile.

    Example: python -m infra.backup dump bars.dump
    """
    with _told(), _opened() as engine:
        dump(engine, file)
    click.echo(f"wrote {file}, {file.stat().st_size:,} bytes")


@main.command("restore")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def restore_command(file: Path) -> None:
    """Read FILE into the database, which has to be empty. All of it is restored, or nothing.

    Example: python -m infra.backup restore bars.dump
    """
    with _told(), _opened() as engine:
        restore(engine, file)
    click.echo(f"restored {file}; closingbell doctor holds it against its ledger")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except ClosingbellError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main(prog_name="python -m infra.backup")
