"""Rows in PostgreSQL's binary COPY format, built column by column.

The format (PostgreSQL documentation, "COPY", *Binary Format*): a header; for each row a field count and for
each field its length and its bytes, all big-endian; a trailer. A NULL is the length -1 with no bytes, so rows
are built in groups that share one layout: the same NULLs and the same text lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_EPOCH: Final = np.datetime64("2000-01-01")


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a COPY.

    Attributes:
        values: shape (n,), big-endian numbers or fixed-width bytes.
        null: which rows are NULL, shape (n,), or None where none is.
        lengths: bytes of each text, shape (n,), or None where all values are as long as their type.
    """

    values: NDArray[Any]
    null: NDArray[np.bool_] | None = None
    lengths: NDArray[np.int64] | None = None

    @classmethod
    def numbers(cls, values: NDArray[Any], kind: str, null: NDArray[np.bool_] | None = None) -> Field:
        """Numbers of a big-endian numpy type: ``>f8`` for double precision, ``>i8`` for bigint, ``>i4``."""
        return cls(values.astype(kind), null if null is not None and null.any() else None)

    @classmethod
    def dates(cls, values: NDArray[np.datetime64]) -> Field:
        """Dates: days since 2000-01-01, in 4 bytes."""
        return cls((values.astype("M8[D]") - _EPOCH).astype(np.int64).astype(">i4"))

    @classmethod
    def instants(cls, values: NDArray[np.datetime64]) -> Field:
        """UTC instants for ``timestamptz``: microseconds since 2000-01-01, in 8 bytes."""
        return cls((values.astype("M8[us]") - _EPOCH).astype(np.int64).astype(">i8"))

    @classmethod
    def constant(cls, value: bytes, n: int) -> Field:
        """The same bytes in every row: a text, or a ``uuid``."""
        return cls(np.broadcast_to(np.array(value, np.dtype((np.void, len(value)))), n))

    @classmethod
    def texts(cls, vocabulary: Sequence[str], positions: NDArray[np.int32]) -> Field:
        """Texts, given as positions in a vocabulary."""
        encoded = [text.encode() for text in vocabulary]
        return cls(np.array(encoded)[positions], None, np.array([len(text) for text in encoded])[positions])


def binary(fields: Sequence[Field]) -> bytes:
    """The whole COPY stream for the rows that ``fields`` hold, grouped by layout."""
    n = len(fields[0].values)
    layout = np.zeros(n, np.int64)
    for field in fields:
        if field.null is not None:
            layout = layout * 2 + field.null
        if field.lengths is not None:
            layout = layout * (int(field.lengths.max(initial=0)) + 1) + field.lengths
    parts: list[bytes | memoryview] = [_HEADER]
    kinds = np.unique(layout)
    for kind in kinds:
        rows = slice(None) if len(kinds) == 1 else np.nonzero(layout == kind)[0]
        parts.append(_group(fields, rows))
    parts.append(_TRAILER)
    return b"".join(parts)


def _group(fields: Sequence[Field], rows: slice | NDArray[np.intp]) -> memoryview:
    """The rows of one layout, as bytes that are copied only once more, into the stream."""
    parts: list[tuple[str, Any]] = [("count", ">i2")]
    filled: list[tuple[str, Any]] = [("count", len(fields))]
    for number, field in enumerate(fields):
        values = field.values[rows]
        width = values.dtype.itemsize if field.lengths is None else int(field.lengths[rows][0])
        absent = field.null is not None and bool(field.null[rows][0])
        parts.append((f"length{number}", ">i4"))
        filled.append((f"length{number}", -1 if absent else width))
        if not absent:
            kind = values.dtype if field.lengths is None else np.dtype(f"S{width}")
            parts.append((f"value{number}", kind))
            filled.append((f"value{number}", values))
    n = len(fields[0].values[rows])
    block = np.empty(n, np.dtype(parts))
    for name, value in filled:
        block[name] = value
    return block.view(np.uint8).data


#: How numpy reads the types that :func:`parse` takes.
_READ: Final = {"int4": ">i4", "int8": ">i8", "float8": ">f8", "date": ">i4", "timestamptz": ">i8"}


def parse(stream: bytes, fields: Sequence[tuple[str, str]]) -> NDArray[np.void]:
    """The rows of a COPY stream of fixed-width columns without NULLs, in one array.

    Args:
        stream: the whole stream, as ``COPY ... TO STDOUT (FORMAT binary)`` sends it.
        fields: name and type (``int4``, ``int8``, ``float8``, ``date``, ``timestamptz``) of each column.

    Returns:
        shape (n,), with a field of each name; dates as datetime64[D], instants as datetime64[us] in UTC.

    Raises:
        ValueError: the stream is not such rows.
    """
    layout: list[tuple[str, str]] = [("count", ">i2")]
    for name, kind in fields:
        layout += [(f"length of {name}", ">i4"), (name, _READ[kind])]
    body = memoryview(stream)[len(_HEADER) : -len(_TRAILER)]
    rows = np.frombuffer(body, np.dtype(layout))
    if len(rows) and (rows["count"] != len(fields)).any():
        raise ValueError("the COPY stream has other columns, or NULLs")
    parsed: list[tuple[str, NDArray[Any]]] = []
    for name, kind in fields:
        values = rows[name]
        if kind == "date":
            values = _EPOCH + values.astype("m8[D]")
        elif kind == "timestamptz":
            values = _EPOCH.astype("M8[us]") + values.astype("m8[us]")
        parsed.append((name, values))
    block = np.empty(len(rows), np.dtype([(name, values.dtype.newbyteorder("=")) for name, values in parsed]))
    for name, values in parsed:
        block[name] = values
    return block
