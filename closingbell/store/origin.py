"""How a vendor's bars came, where that shows in them.

A vendor has one ledger: its watermarks, gaps, claims and revisions are under its own name, whatever way its bars came.
Those that came by flat file have no vwap; in ``bar`` alone their ``source`` says so: ``polygon-flat``. A cell is
written from one answer, and one that is asked for again the other way has revisions that tell of it.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from closingbell.plan import Call, FlatFile

#: What is appended to a vendor's name for bars that came by flat file.
FLAT: Final = "-flat"

#: What is appended to a vendor's name for bars that were made here of its minutes: a series with a ledger of its own.
MADE: Final = ":1m"


def origins(source: str) -> tuple[str, str]:
    """What ``bar.source`` says of the bars that are in the ledger of a vendor."""
    return source, source + FLAT


def of_vendor(column: sa.ColumnElement[Any], source: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """That bars are in the ledger of a vendor, given ``bar.source`` and the vendor as columns."""
    return sa.or_(column == source, column == source.concat(FLAT))


def vendor(origin: str) -> str:
    """Whose ledger bars are in, given what ``bar.source`` says of them."""
    return origin.removesuffix(FLAT)


def origin(source: str, call: Call) -> str:
    """What ``bar.source`` says of the bars of a call to a vendor."""
    return source + FLAT if isinstance(call, FlatFile) else source
