"""``python -m infra.migrations``: migrate the database that the settings name, and grant roles what they need."""

from __future__ import annotations

import sys
from contextlib import ExitStack

import click

from closingbell.clock import Clock
from closingbell.errors import ClosingbellError
from closingbell.settings import load
from closingbell.store import open_store
from infra import embedded, migrations
from infra.migrations.down import downgrade
from infra.migrations.grants import grant


@click.command()
@click.option("--writer", "writers", multiple=True, metavar="ROLE", help="May then read and write; may be given again.")
@click.option("--reader", "readers", multiple=True, metavar="ROLE", help="May then read; may be given again.")
@click.option("--down-to", metavar="REVISION", help="Go back to this older migration instead, such as 0006.")
@click.option("--discard", is_flag=True, help="With --down-to: also delete what an older schema has no room for.")
def main(writers: tuple[str, ...], readers: tuple[str, ...], down_to: str | None, discard: bool) -> None:
    """Bring the schema of DATABASE_URL to the newest migration, and grant roles what they need, as its owner.

    Example: python -m infra.migrations --writer closingbell --reader analyst
    """
    if (down_to is not None and (writers or readers)) or (discard and down_to is None):
        raise click.UsageError("--down-to goes with no grants, and --discard with --down-to only.")
    try:
        settings = load()
        with ExitStack() as stack:
            if settings.database_url:
                url = settings.database_url.get_secret_value()
            else:
                url = stack.enter_context(embedded.database(settings, []))
            store = open_store(url, connections=1, patience=0)
            stack.callback(store.close)
            if down_to is not None:
                for what in downgrade(store.engine, down_to, discard=discard):
                    click.echo(f"deleted: {what}")
                click.echo(f"the database is at migration {down_to}")
                return
            migrations.upgrade(store.engine)
            click.echo("the database is at the newest migration")
            if until := migrations.prepare(store.engine, Clock(settings.closingbell_now).now().date()):
                click.echo(f"bars have partitions until {until}")
            for line in grant(store.engine, writers, readers):
                click.echo(line)
    except ClosingbellError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main(prog_name="python -m infra.migrations")
