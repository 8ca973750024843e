"""Rows in PostgreSQL's binary COPY format, built and read column by column.

The format (PostgreSQL documentation, "COPY", *Binary Format*): a header; for each row a field count and for
each field its length and its bytes, all big-endian; a trailer. A NULL is the length -1 with no bytes. Rows that follow
each other mostly have the same lengths, as those of a ticker do: they are one array, the first row repeated and the
columns then filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: Rows of a block: a third of a megabyte, so much stays with the client library. While one is on its way, the next is
#: built.
BLOCK: Final = 2048

HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER: Final = b"\xff\xff"
EPOCH: Final = np.datetime64("2000-01-01")


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

    @property
    def used(self) -> int | NDArray[np.int64]:
        """Bytes of each value, -1 for NULL, shape (n,); one number where no row can differ from another."""
        width = self.values.dtype.itemsize if self.lengths is None else self.lengths
        return width if self.null is None else np.where(self.null, -1, width)

    @classmethod
    def numbers(cls, values: NDArray[Any], kind: str, null: NDArray[np.bool_] | None = None) -> Field:
        """Numbers of a big-endian numpy type: ``>f8`` for double precision, ``>i8`` for bigint, ``>i4``."""
        return cls(values.astype(kind), null if null is not None and null.any() else None)

    @classmethod
    def dates(cls, values: NDArray[np.datetime64]) -> Field:
        """Dates: days since 2000-01-01, in 4 bytes."""
        return cls((values.astype("M8[D]") - EPOCH).astype(np.int64).astype(">i4"))

    @classmethod
    def instants(cls, values: NDArray[np.datetime64]) -> Field:
        """UTC instants for ``timestamptz``: microseconds since 2000-01-01, in 8 bytes."""
        return cls((values.astype("M8[us]") - EPOCH).astype(np.int64).astype(">i8"))

    @classmethod
    def constant(cls, value: bytes, n: int) -> Field:
        """The same bytes in every row: a text, or a ``uuid``."""
        return cls(np.broadcast_to(np.array(value, np.dtype((np.void, len(value)))), n))

    @classmethod
    def texts(cls, vocabulary: Sequence[str], positions: NDArray[np.signedinteger[Any]]) -> Field:
        """Texts, given as positions in a vocabulary."""
        if len(vocabulary) > len(positions):  # the whole market's, of which a block has a few
            used, positions = np.unique(positions, return_inverse=True)
            vocabulary = [vocabulary[i] for i in used.tolist()]
        encoded = [text.encode() for text in vocabulary]
        return cls(np.array(encoded)[positions], None, np.array([len(text) for text in encoded])[positions])


#: Rows that follow each other and are laid out alike, on average, for which a layout of their own pays.
_ALIKE: Final = 64


def encode(fields: Sequence[Field]) -> bytes:
    """Rows in the format, without header and trailer, in their order; one at least."""
    used, count = [field.used for field in fields], len(fields[0].values)
    varied = [each for each in used if not isinstance(each, int)]
    differs = np.any([each[1:] != each[:-1] for each in varied], axis=0) if varied else np.zeros(0, np.bool_)
    begins = [0, *(np.flatnonzero(differs) + 1).tolist()]
    if len(begins) * _ALIKE > max(count, _ALIKE):
        return _ragged(fields, used)
    parts = map(slice, begins, [*begins[1:], count])
    return b"".join(
        _alike(fields, part, [each if isinstance(each, int) else int(each[part.start]) for each in used]).data
        for part in parts
    )


def _alike(fields: Sequence[Field], part: slice, lengths: Sequence[int]) -> NDArray[np.void]:
    """A part of the rows, which are laid out alike: their columns have these lengths; -1 for NULL."""
    layout: list[tuple[str, Any]] = [("count", ">i2")]
    for number, (field, length) in enumerate(zip(fields, lengths, strict=True)):
        layout.append((f"length{number}", ">i4"))
        if length > 0:
            kind = field.values.dtype
            layout.append((f"value{number}", f"S{length}" if kind.kind == "S" else kind))
    first = np.zeros(1, np.dtype(layout))
    first["count"] = len(fields)
    for number, length in enumerate(lengths):
        first[f"length{number}"] = length
    filled = [(f"value{number}", field.values) for number, field in enumerate(fields) if lengths[number] > 0]
    for name, values in filled:
        first[name] = values[part.start]
    block = np.empty(part.stop - part.start, first.dtype)
    block.view(np.uint8).reshape(len(block), -1)[:] = first.view(np.uint8)  # many times faster than field by field
    for name, values in filled:
        if values.strides != (0,):
            block[name] = values[part]
    return block


def _ragged(fields: Sequence[Field], used: Sequence[int | NDArray[np.int64]]) -> bytes:
    """Rows whose layout changes often: with room for the longest text and for every value, then without the rest."""
    widths = [field.values.dtype.itemsize for field in fields]
    block = _alike(fields, slice(0, len(fields[0].values)), widths)
    places: Mapping[str, Any] = block.dtype.fields or {}
    kept = np.ones((len(block), block.dtype.itemsize), np.bool_)
    for number, (each, width) in enumerate(zip(used, widths, strict=True)):
        if not isinstance(each, int):
            block[f"length{number}"] = each
            offset = places[f"value{number}"][1]
            kept[:, offset : offset + width] = np.arange(width) < each[:, None]
    return block.view(np.uint8)[kept.ravel()].tobytes()


class Rows:
    """The stream of a ``COPY ... FROM STDIN (FORMAT binary)``, a file for the driver to read, made as it is read.

    Args:
        count: how many rows there are.
        fields: gives the columns of the rows of a slice.
    """

    def __init__(self, count: int, fields: Callable[[slice], Sequence[Field]]) -> None:
        self._parts = self._made(count, fields)

    def read(self, size: int = -1) -> bytes:
        """The next part of the stream, of whatever size; nothing at its end."""
        return next(self._parts, b"")

    @staticmethod
    def _made(count: int, fields: Callable[[slice], Sequence[Field]]) -> Iterator[bytes]:
        yield HEADER
        for first in range(0, count, BLOCK):
            yield encode(fields(slice(first, min(first + BLOCK, count))))
        yield TRAILER


#: How numpy reads the types that :func:`parse` takes.
READ: Final = {"int4": ">i4", "int8": ">i8", "float8": ">f8", "date": ">i4", "timestamptz": ">i8"}


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
        layout += [(f"length of {name}", ">i4"), (name, READ[kind])]
    body = memoryview(stream)[len(HEADER) : -len(TRAILER)]
    rows = np.frombuffer(body, np.dtype(layout))
    if len(rows) and (rows["count"] != len(fields)).any():
        raise ValueError("the COPY stream has other columns, or NULLs")
    parsed: list[tuple[str, NDArray[Any]]] = []
    for name, kind in fields:
        values = rows[name]
        if kind == "date":
            values = EPOCH + values.astype("m8[D]")
        elif kind == "timestamptz":
            values = EPOCH.astype("M8[us]") + values.astype("m8[us]")
        parsed.append((name, values))
    block = np.empty(len(rows), np.dtype([(name, values.dtype.newbyteorder("=")) for name, values in parsed]))
    for name, values in parsed:
        block[name] = values
    return block
