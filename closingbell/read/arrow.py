"""The functions of :mod:`closingbell.read`, with Arrow tables for frames. They need the extra ``arrow``."""

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

bars = as_(Rows.to_arrow, reading.bars)
batches = each_as(Rows.to_arrow, reading.batches)
cells = as_(Rows.to_arrow, reading.cells)
gaps = as_(Rows.to_arrow, reading.gaps)
watermarks = as_(Rows.to_arrow, reading.watermarks)
revisions = as_(Rows.to_arrow, reading.revisions)
quarantine = as_(Rows.to_arrow, reading.quarantine)
events = as_(Rows.to_arrow, reading.events)
splits = as_(Rows.to_arrow, reading.splits)
dividends = as_(Rows.to_arrow, reading.dividends)
runs = as_(Rows.to_arrow, reading.runs)
