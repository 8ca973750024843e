"""Rows of a COPY stream come out as they were put in, wherever the stream is cut and however its rows are laid out."""

from __future__ import annotations

import io
import struct
from datetime import date, datetime
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from closingbell.store import copied
from closingbell.store.copy import HEADER, TRAILER
from closingbell.store.selected import NO_TEXT, Block, joined

KINDS = {
    "ticker": sa.String(),
    "session": sa.Date(),
    "ts": sa.DateTime(timezone=True),
    "close": sa.Double(),
    "trades": sa.BigInteger(),
}
NO_NUMBER = -(2**63)

Row = tuple[str | None, date | None, datetime | None, float, int]

ROWS = st.lists(
    st.tuples(
        st.none() | st.sampled_from(["", "A", "AAPL", "BRK.B", "é", "日経"]),
        st.none() | st.dates(date(1, 1, 3)),
        st.none() | st.datetimes(datetime(1900, 1, 1)).map(lambda at: at.replace(fold=0)),  # noqa: DTZ001 - UTC without saying so, as on the wire
        st.floats(),
        st.just(NO_NUMBER) | st.integers(-(2**62), 2**62),
    ),
    max_size=40,
)


def packed(value: Any) -> bytes:
    """A field, as PostgreSQL's documentation has it."""
    if value is None:
        return struct.pack(">i", -1)
    if isinstance(value, str):
        body = value.encode()
    elif isinstance(value, datetime):
        body = struct.pack(">q", (np.datetime64(value, "us") - np.datetime64("2000-01-01", "us")).astype(int))
    elif isinstance(value, date):
        body = struct.pack(">i", (value - date(2000, 1, 1)).days)
    else:
        body = struct.pack(">d" if isinstance(value, float) else ">q", value)
    return struct.pack(">i", len(body)) + body


def stream(rows: list[Row]) -> bytes:
    body = b"".join(struct.pack(">h", len(row)) + b"".join(map(packed, row)) for row in rows)
    return HEADER + body + TRAILER


def back(block: Block) -> list[Row]:
    """Rows of Python's values."""
    columns = []
    for column in block.values():
        if column.texts is not None:
            texts = column.texts
            columns.append([None if place == NO_TEXT else texts[place] for place in column.values.tolist()])
        elif column.absent is not None:
            columns.append(np.where(column.absent, NO_NUMBER, column.values).tolist())
        else:
            columns.append(column.values.tolist())
    return [*zip(*columns, strict=True)]


def read(data: bytes, chunk: int, rows: int) -> list[Block]:
    file = io.BytesIO(data)
    return [*copied.blocks(lambda size: file.read(min(size, chunk)), KINDS, rows, "utf-8")]


@settings(max_examples=150, deadline=None)
@given(
    rows=ROWS, times=st.integers(1, 20), chunk=st.sampled_from([1, 3, 19, 50, 400, 1 << 20]), at_once=st.integers(1, 90)
)
def test_rows_come_back(rows: list[Row], times: int, chunk: int, at_once: int) -> None:
    wanted = [row for row in rows for _ in range(times)]  # runs of rows that are laid out alike
    blocks = read(stream(wanted), chunk, at_once)
    lengths = [len(block["close"].values) for block in blocks]
    assert lengths == [at_once] * (len(wanted) // at_once) + [len(wanted) % at_once] * bool(len(wanted) % at_once)
    found = [row for block in blocks for row in back(block)]
    assert repr(found) == repr(wanted), "NaN and -0.0 included"
    assert repr(back(joined(KINDS, blocks))) == repr(wanted)


@pytest.mark.parametrize("cut", [5, 19, 20, 40, -3, -2, -1])
def test_a_stream_that_ends_too_early(cut: int) -> None:
    whole = stream([("AAPL", date(2024, 1, 2), datetime(2024, 1, 2, 14, 30), 1.0, 1)] * 3)  # noqa: DTZ001
    with pytest.raises(ValueError, match="ends too early"):
        read(whole[:cut], 1 << 20, 10)


def test_a_stream_of_other_columns() -> None:
    with pytest.raises(ValueError, match="has 2 columns, not 5"):
        read(HEADER + struct.pack(">h", 2) + packed("A") + packed(1) + TRAILER, 1 << 20, 10)
