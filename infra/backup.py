"""``python -m infra.backup``: the PostgreSQL that the settings name, the embedded one too, into a file and back.

pg_dump, pg_restore and psql do the work: those that come with the embedded PostgreSQL, or else those on the path. The
password goes to them in their environment, never on a command line. docs/upgrading.md tells when to use it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO, Final, cast

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
        command, environment = _command(engine, "pg_dump")
        command += ["--format=custom", "--no-owner", "--no-privileges", f"--file={made}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            told = without_secrets(done.stderr.strip(), engine.url)
            raise FatalError("pg_dump failed", value=told, fix="Nothing was changed.")
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
        FatalError: pg_restore or psql failed, and nothing was restored.
    """
    if not file.is_file():
        raise ConfigurationError("there is no such file", value=str(file), fix="Name one that was dumped.")
    command, environment = _command(engine, "psql")
    command += ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction", "--file=-"]
    with transaction(engine) as connection:
        there = {*metadata.tables, VERSION} & set(sa.inspect(connection).get_table_names())
        known = frozenset(connection.execute(sa.text("SELECT name FROM pg_settings")).scalars())
    if there:
        raise ConfigurationError(
            "the database to restore into has tables already",
            value=", ".join(sorted(there)),
            fix="Restore into a new, empty database, then point DATABASE_URL at it.",
        )
    script = [_program("pg_restore"), "--no-owner", "--no-privileges", "--file=-", str(file)]
    if problem := _piped(script, command, environment, known):
        raise FatalError(problem[0], value=without_secrets(problem[1], engine.url), fix="Nothing was changed.")


def _piped(
    script: Sequence[str], command: Sequence[str], environment: Mapping[str, str], known: Collection[str]
) -> tuple[str, str] | None:
    """Have psql execute what pg_restore writes; what went wrong, and in whose words, if anything did."""
    with (
        TemporaryFile("w+") as unread,
        TemporaryFile("w+") as refused,
        subprocess.Popen(script, stdout=subprocess.PIPE, stderr=unread) as reading,  # noqa: S603
        subprocess.Popen(  # noqa: S603
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=refused
        ) as psql,
    ):
        source, target = cast(IO[bytes], reading.stdout), cast(IO[bytes], psql.stdin)
        whole = False
        try:
            with suppress(BrokenPipeError):  # psql has ended, and said why
                _hand_over(source, target, known)
                whole = reading.wait() == 0
        finally:
            if not whole:  # at the end of what it is given it would commit that
                psql.kill()
                reading.kill()
            with suppress(BrokenPipeError):
                target.close()
        if reading.wait() > 0:
            unread.seek(0)
            return "pg_restore failed", unread.read().strip()
        if psql.wait():
            refused.seek(0)
            return "psql failed", refused.read().strip()
    return None


#: A setting at the head of what pg_restore writes.
_SETTING: Final = re.compile(rb"SET (\w+) = ")


def _hand_over(script: IO[bytes], psql: IO[bytes], known: Collection[str]) -> None:
    """Hand a script on, but for the settings at its head that the server does not know: it may be an older one."""
    for line in script:
        setting = _SETTING.match(line)
        if not setting or setting[1].decode() in known:
            psql.write(line)
        if line.startswith(b"CREATE "):
            break
    shutil.copyfileobj(script, psql)
    psql.flush()


def _command(engine: sa.Engine, name: str) -> tuple[list[str], dict[str, str]]:
    """One of PostgreSQL's programs, for the database of an engine, and the environment that it needs."""
    if database_of(engine).name != "postgresql":
        raise ConfigurationError(
            "this is for PostgreSQL only", value=database_of(engine).name, fix="Use Oracle's Data Pump: expdp, impdp."
        )
    from psycopg2.extensions import make_dsn

    from closingbell.store.postgres import tls_of

    options = {**engine.dialect.create_connect_args(engine.url)[1], **(tls_of(engine.url) or {})}
    password = options.pop("password", None)
    environment = {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}
    return [_program(name), f"--dbname={make_dsn(**options)}", "--no-password"], environment


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
