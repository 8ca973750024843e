"""Stored bars, and what is known of them, as pandas frames; :mod:`closingbell.read.arrow` has the same as Arrow tables.

    from closingbell import read

    read.bars("AAPL", start="2024-01-02", adjusted=True)

Each function reads one snapshot of the database that the settings name, or that its ``database`` does. For many reads
open it once::

    with read.connect() as database:
        for ticker in ("AAPL", "MSFT"):
            read.bars(ticker, timeframe="1m", database=database)

docs/reading.md has the same in SQL. Nothing here writes.
"""

from __future__ import annotations

from closingbell.read import reading
from closingbell.read.connection import Connection, connect
from closingbell.read.rows import Rows, as_, each_as

__all__ = [
    "Connection",
    "bars",
    "batches",
    "cells",
    "connect",
    "dividends",
    "events",
    "gaps",
    "quarantine",
    "revisions",
    "runs",
    "splits",
    "watermarks",
]

bars = as_(Rows.to_pandas, reading.bars)
batches = each_as(Rows.to_pandas, reading.batches)
cells = as_(Rows.to_pandas, reading.cells)
gaps = as_(Rows.to_pandas, reading.gaps)
watermarks = as_(Rows.to_pandas, reading.watermarks)
revisions = as_(Rows.to_pandas, reading.revisions)
quarantine = as_(Rows.to_pandas, reading.quarantine)
events = as_(Rows.to_pandas, reading.events)
splits = as_(Rows.to_pandas, reading.splits)
dividends = as_(Rows.to_pandas, reading.dividends)
runs = as_(Rows.to_pandas, reading.runs)
