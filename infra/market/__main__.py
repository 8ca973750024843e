"""``python -m infra.market``: the same command as ``closingbell market``."""

import sys

import click

from closingbell.errors import ClosingbellError
from closingbell.exits import CANNOT_RUN
from infra.market.command import market

try:
    market(prog_name="python -m infra.market")
except ClosingbellError as error:
    click.echo(f"error: {error}", err=True)
    sys.exit(CANNOT_RUN)
