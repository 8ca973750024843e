"""The rows of a query as columns of numpy, a block at a time: what :mod:`closingbell.read` makes frames of.

A text is stored once and referred to by position, as in :class:`closingbell.bars.Bars`; what is absent is NaN or NaT
where the type has such a value, and masked where it has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from closingbell.zones import in_utc

#: Stands for NULL among positions of texts.
NO_TEXT: Final = -1


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a block of n rows.

    Attributes:
        values: shape (n,). Numbers are float64 (NaN where absent) or int64; dates datetime64[D] and instants
            datetime64[us] in UTC (NaT where absent); texts int32 positions in ``texts`` (:data:`NO_TEXT` where absent);
            JSON is Python's objects.
        texts: the vocabulary of a column of texts, else None.
        absent: of whole numbers: which are NULL, shape (n,); else None.
    """

    values: NDArray[Any]
    texts: tuple[str, ...] | None = None
    absent: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, kind: sa.types.TypeEngine[Any], values: Sequence[Any]) -> Column:
        """A column from Python's values of a type, None where absent."""
        if isinstance(kind, sa.JSON):
            column = np.empty(len(values), object)
            column[:] = values
            return cls(column)
        if isinstance(kind, sa.Double):
            return cls(np.array([np.nan if value is None else value for value in values], np.float64))
        if isinstance(kind, sa.Integer):
            absent = np.array([value is None for value in values], np.bool_)
            return cls(np.array([value or 0 for value in values], np.int64), absent=absent)
        if isinstance(kind, sa.DateTime):
            return cls(np.array([_utc(value) for value in values], "M8[us]"))
        if isinstance(kind, sa.Date):
            return cls(np.array(values, "M8[D]"))
        number: dict[str, int] = {}
        positions = [NO_TEXT if value is None else number.setdefault(str(value), len(number)) for value in values]
        return cls(np.array(positions, np.int32), tuple(number))

    @classmethod
    def joined(cls, parts: Sequence[Column]) -> Column:
        """One column from those of consecutive blocks, of which there is at least one."""
        if len(parts) == 1:
            return parts[0]
        absent = None
        if parts[0].absent is not None:
            absent = np.concatenate([part.absent for part in parts if part.absent is not None])
        if parts[0].texts is None:
            return cls(np.concatenate([part.values for part in parts]), absent=absent)
        number: dict[str, int] = {}
        renumbered = []
        for part in parts:
            places = [number.setdefault(text, len(number)) for text in part.texts or ()]
            renumbered.append(np.array([*places, NO_TEXT], np.int32)[part.values])  # the last one: of -1
        return cls(np.concatenate(renumbered), tuple(number))


#: A block of rows: its columns by name, all of one length.
Block = Mapping[str, Column]


def _utc(value: datetime | None) -> datetime | None:
    return None if value is None else in_utc(value)


def block_of(kinds: Mapping[str, sa.types.TypeEngine[Any]], rows: Iterable[Sequence[Any]]) -> Block:
    """A block from rows of Python's values, given the names and types of their columns."""
    columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * len(kinds)
    return {name: Column.of(kind, values) for (name, kind), values in zip(kinds.items(), columns, strict=True)}


def joined(kinds: Mapping[str, sa.types.TypeEngine[Any]], blocks: Sequence[Block]) -> Block:
    """One block from consecutive ones; an empty one of these types where there is none."""
    if not blocks:
        return block_of(kinds, ())
    return {name: Column.joined([block[name] for block in blocks]) for name in kinds}
