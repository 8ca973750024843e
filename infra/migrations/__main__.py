"""``python -m infra.migrations``: migrate the database that the settings name, and grant roles what they need."""

from __future__ import annotations

import sys
from contextlib import ExitStack

import click

from closingbell.errors import ClosingbellError
from closingbell.settings import load
from closingbell.store import open_store
from infra import embedded, migrations
from infra.migrations.grants import grant


@click.command()
@click.option("--writer", "writers", multiple=True, metavar="ROLE", help="May then read and write; may be given again.")
@click.option("--reader", "readers", multiple=True, metavar="ROLE", help="May then read; may be given again.")
def main(writers: tuple[str, ...], readers: tuple[str, ...]) -> None:
    """Bring the schema of DATABASE_URL to the newest migration, and grant roles what they need, as its owner.

    Example: python -m infra.migrations --writer closingbell --reader analyst
    """
    try:
        settings = load()
        with ExitStack() as stack:
            if settings.database_url:
                url = settings.database_url.get_secret_value()
            else:
                url = stack.enter_context(embedded.database(settings, []))
            store = open_store(url, connections=1, patience=0)
            stack.callback(store.close)
            migrations.upgrade(store.engine)
            click.echo("the database is at the newest migration")
            for line in grant(store.engine, writers, readers):
                click.echo(line)
    except ClosingbellError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main(prog_name="python -m infra.migrations")
