"""Rows of any query out of PostgreSQL by its binary COPY, as columns, while they arrive (the format: :mod:`.copy`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Thread
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from closingbell.store.copy import EPOCH, HEADER, READ, TRAILER
from closingbell.store.selected import NO_TEXT, Block, Column, joined


@dataclass(frozen=True, slots=True)
class Part:
    """Values of one column in consecutive rows.

    Attributes:
        values: shape (n,): float64, int64, datetime64[D], datetime64[us] in UTC, or bytes.
        null: all of them are NULL, and ``values`` means nothing.
    """

    values: NDArray[Any]
    null: bool = False


#: What becomes of numbers that :func:`runs` reads.
_NATIVE: Final = {"int4": np.int64, "int8": np.int64, "float8": np.float64}

#: Rows that are looked at first for whether they are laid out like the one before, and how many times more after them.
_AHEAD, _FASTER = 256, 4

#: Bytes that are read at once.
_CHUNK: Final = 1 << 20


def runs(read: Callable[[int], bytes], kinds: Sequence[str]) -> Iterator[tuple[int, list[Part]]]:
    """The rows of a COPY stream, in runs of rows that are laid out alike: those whose texts are of the same lengths,
    and of which the same columns are NULL. Sorted by a text, that is nearly all of them.

    Args:
        read: gives the next bytes of the stream, at most so many; nothing at its end.
        kinds: the type of each column: ``text``, or as in :func:`parse`.

    Yields:
        How many rows, and the values of each column.

    Raises:
        ValueError: the stream ends too early, or is none of such rows.
    """
    rest, place = b"", len(HEADER)
    while chunk := read(_CHUNK):
        buffer = rest + chunk
        ahead = _AHEAD
        while (row := _Row.at(buffer, place, kinds)) is not None:
            here = row.alike(buffer, place, ahead)
            ahead = ahead * _FASTER if len(here) == ahead else _AHEAD
            place += here.nbytes
            yield len(here), [row.part(here, number, kind) for number, kind in enumerate(kinds)]
        rest, place = buffer[place:], max(place - len(buffer), 0)
    if rest != TRAILER:
        raise ValueError("the COPY stream ends too early")


class _Row:
    """How a row is laid out.

    Args:
        lengths: of each column, in bytes; -1 for NULL.
        kinds: of each column.
    """

    def __init__(self, lengths: tuple[int, ...], kinds: Sequence[str]) -> None:
        layout: list[tuple[str, str]] = [("count", ">i2")]
        for number, (length, kind) in enumerate(zip(lengths, kinds, strict=True)):
            layout.append((f"length{number}", ">i4"))
            if length > 0:
                layout.append((f"value{number}", READ.get(kind, f"S{length}")))
        self._lengths = lengths
        self._dtype = np.dtype(layout)

    @classmethod
    def at(cls, buffer: bytes, place: int, kinds: Sequence[str]) -> _Row | None:
        """How the row at a place is laid out; None where it is not whole, or the stream ends.

        Raises:
            ValueError: it has another number of columns.
        """
        if len(buffer) < place + 2 or (count := int.from_bytes(buffer[place : place + 2], signed=True)) == -1:
            return None
        if count != len(kinds):
            raise ValueError(f"the COPY stream has {count} columns, not {len(kinds)}")
        place += 2
        lengths = []
        for _ in kinds:
            lengths.append(length := int.from_bytes(buffer[place : place + 4], signed=True))
            place += 4 + max(length, 0)
            if place > len(buffer):
                return None
        return _of(tuple(lengths), tuple(kinds))

    def alike(self, buffer: bytes, place: int, most: int) -> NDArray[np.void]:
        """The rows from a place on that are laid out like the one there, at most so many."""
        whole = (len(buffer) - place) // self._dtype.itemsize
        rows = np.frombuffer(buffer, self._dtype, min(whole, most), place)
        same = rows["count"] == len(self._lengths)
        for number, length in enumerate(self._lengths):
            same &= rows[f"length{number}"] == length
        return rows if same.all() else rows[: same.argmin()]

    def part(self, rows: NDArray[np.void], number: int, kind: str) -> Part:
        """A column of rows that are laid out so."""
        if self._lengths[number] < 0:
            return Part(np.empty(len(rows), np.int64), null=True)
        if self._lengths[number] == 0:
            return Part(np.zeros(len(rows), "S1"))
        values = rows[f"value{number}"]
        if kind == "date":
            return Part(EPOCH + values.astype("m8[D]"))
        if kind == "timestamptz":
            return Part(EPOCH.astype("M8[us]") + values.astype("m8[us]"))
        return Part(values.astype(_NATIVE[kind]) if kind in _NATIVE else values)


_of = lru_cache(256)(_Row)


#: Stands for an absent whole number on the wire: rows with and without one are then laid out alike.
_NO_NUMBER: Final = -(2**63)


class Stream:
    """The stream of a ``COPY ... TO STDOUT``, to be read while another thread receives it.

    The driver hands on rows only as it gets them, and cannot be asked to pause: a pipe makes it wait for the reader.

    Args:
        cursor: the driver's; nothing else is done with its connection until this is closed.
        statement: in the connection's encoding.
    """

    def __init__(self, cursor: Any, statement: bytes) -> None:
        self._cursor = cursor
        self._failure: BaseException | None = None
        self._from, into = os.pipe()
        self._receiver = Thread(target=self._receive, args=(statement, into), daemon=True)
        self._receiver.start()

    def _receive(self, statement: bytes, into: int) -> None:
        try:
            with open(into, "wb", buffering=_CHUNK) as file:
                self._cursor.copy_expert(statement, file)
        except BaseException as error:  # noqa: BLE001  (the reader's to raise)
            self._failure = error

    def read(self, size: int) -> bytes:
        """The next bytes, at most so many; none at the end.

        Raises:
            Exception: the driver's, when the statement failed.
        """
        if part := os.read(self._from, size):
            return part
        self._receiver.join()
        if self._failure is not None:
            raise self._failure
        return b""

    def close(self) -> None:
        """Receive nothing more; a statement that is not at its end is cancelled, so that its transaction can end."""
        if self._receiver.is_alive():
            self._cursor.connection.cancel()
        while os.read(self._from, _CHUNK):
            pass
        self._receiver.join()
        os.close(self._from)


def for_copy(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """A column of a query as :func:`blocks` reads it."""
    name: str = column.name
    if isinstance(column.type, sa.Double):
        return sa.func.coalesce(column, sa.cast(sa.literal("NaN", sa.Text), sa.Double)).label(name)
    if isinstance(column.type, sa.Integer):
        return sa.func.coalesce(sa.cast(column, sa.BigInteger), sa.literal(_NO_NUMBER, sa.BigInteger)).label(name)
    return sa.cast(column, sa.Text).label(name) if isinstance(column.type, sa.Uuid) else column


def _wire(kind: sa.types.TypeEngine[Any]) -> str:
    if isinstance(kind, sa.Double):
        return "float8"
    if isinstance(kind, sa.Integer):
        return "int8"
    if isinstance(kind, sa.DateTime):
        return "timestamptz"
    return "date" if isinstance(kind, sa.Date) else "text"


def blocks(
    read: Callable[[int], bytes], kinds: Mapping[str, sa.types.TypeEngine[Any]], rows: int, encoding: str
) -> Iterator[Block]:
    """The rows of a stream, a number of them at a time.

    Args:
        read: gives the next bytes of the stream.
        kinds: the columns' names and types, as they were before :func:`for_copy`.
        rows: in a block.
        encoding: of texts.
    """
    held: list[Block] = []
    count = 0
    for length, parts in runs(read, [_wire(kind) for kind in kinds.values()]):
        columns = {name: _column(kinds[name], part, encoding) for name, part in zip(kinds, parts, strict=True)}
        first = 0
        while first < length:
            last = min(first + rows - count, length)
            held.append({name: _slice(column, first, last) for name, column in columns.items()})
            count += last - first
            first = last
            if count == rows:
                yield joined(kinds, held)
                held, count = [], 0
    if held:
        yield joined(kinds, held)


def _slice(column: Column, first: int, last: int) -> Column:
    if first == 0 and last == len(column.values):
        return column
    absent = None if column.absent is None else column.absent[first:last]
    return Column(column.values[first:last], column.texts, absent)


def _column(kind: sa.types.TypeEngine[Any], part: Part, encoding: str) -> Column:
    if isinstance(kind, sa.Integer):
        return Column(part.values, absent=part.values == _NO_NUMBER)
    if isinstance(kind, sa.Double):
        return Column(part.values)
    if isinstance(kind, sa.DateTime | sa.Date):
        unit = "M8[us]" if isinstance(kind, sa.DateTime) else "M8[D]"
        return Column(np.full(len(part.values), "NaT", unit) if part.null else part.values)
    if part.null:
        return Column(np.full(len(part.values), NO_TEXT, np.int32), ())
    begins = np.flatnonzero(np.append(True, part.values[1:] != part.values[:-1]))
    number: dict[bytes, int] = {}
    places = [number.setdefault(text, len(number)) for text in part.values[begins].tolist()]
    lengths = np.diff(begins, append=len(part.values))
    return Column(np.repeat(np.array(places, np.int32), lengths), tuple(text.decode(encoding) for text in number))
