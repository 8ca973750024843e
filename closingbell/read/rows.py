"""What pandas and Arrow are given alike: the columns of what was read, and how they are typed.

============================  ======================================  ==============================
stored                        in pandas                               in Arrow
============================  ======================================  ==============================
ticker, source, other names   categorical, sorted                     dictionary of string
other texts                   string                                  string
session and other dates       datetime64[s], midnight without a zone  date32
ts and other instants         datetime64[us, UTC]                     timestamp[us, UTC]
prices, volume, factors       float64, NaN where absent               double, null where absent
trades and other counts       Int64, NA where absent                  int64, null where absent
JSON                          object                                  string, as JSON
============================  ======================================  ==============================

Rows that are none have the same columns of the same types.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import numpy as np
import sqlalchemy as sa

from closingbell.errors import ConfigurationError
from closingbell.store.selected import NO_TEXT, Block, Column

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

P = ParamSpec("P")
T = TypeVar("T")

#: Texts that are few and come again and again.
_NAMES: Final = frozenset({
    *("ticker", "timeframe", "source", "state", "reason", "rule", "flow", "detector", "version", "from_timeframe"),
    *("kind", "currency", "origin", "run_id", "old_run_id"),
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rows:
    """What was read.

    Attributes:
        kinds: the columns' names and types.
        block: their values.
    """

    kinds: Mapping[str, sa.types.TypeEngine[Any]]
    block: Block

    def to_pandas(self) -> pd.DataFrame:
        """A frame of its own index from 0."""
        import pandas as pd

        columns = {name: _series(name, self.kinds[name], column) for name, column in self.block.items()}
        return pd.DataFrame(columns, copy=False)

    def to_arrow(self) -> pa.Table:
        """An Arrow table.

        Raises:
            ConfigurationError: pyarrow is not installed.
        """
        try:
            import pyarrow as pa
        except ImportError:
            raise ConfigurationError(
                "Arrow tables need pyarrow, which is not installed", fix="pip install 'closingbell[arrow]'"
            ) from None
        return pa.table({name: _array(pa, name, self.kinds[name], column) for name, column in self.block.items()})


def _sorted(column: Column) -> tuple[Any, list[str]]:
    """Positions in a sorted vocabulary, which has only what is used; and that."""
    texts = column.texts or ()
    order = sorted(range(len(texts)), key=lambda place: texts[place].encode())
    rank = np.empty(len(texts) + 1, np.int32)
    rank[order] = np.arange(len(texts))
    rank[NO_TEXT] = NO_TEXT
    return rank[column.values], [texts[place] for place in order]


def _series(name: str, kind: sa.types.TypeEngine[Any], column: Column) -> Any:
    import pandas as pd

    values = column.values
    if column.texts is not None:
        positions, texts = _sorted(column)
        if name in _NAMES:
            return pd.Categorical.from_codes(positions, categories=pd.Index(texts, dtype=object).astype("str"))
        return pd.array([None if place == NO_TEXT else texts[place] for place in positions.tolist()], dtype="string")
    if column.absent is not None:
        return pd.arrays.IntegerArray(values, column.absent)
    if isinstance(kind, sa.DateTime):
        return pd.DatetimeIndex(values).tz_localize("UTC")
    if isinstance(kind, sa.Date):
        return pd.DatetimeIndex(values.astype("M8[s]"))
    return pd.Series(values, dtype=values.dtype)


def _array(pa: Any, name: str, kind: sa.types.TypeEngine[Any], column: Column) -> Any:
    values = column.values
    if column.texts is not None:
        positions, texts = _sorted(column)
        indices = pa.array(positions, mask=positions == NO_TEXT)
        array = pa.DictionaryArray.from_arrays(indices, pa.array(texts, pa.string()))
        return array if name in _NAMES else array.cast(pa.string())
    if column.absent is not None:
        return pa.array(values, mask=column.absent)
    if isinstance(kind, sa.JSON):
        return pa.array([None if value is None else json.dumps(value) for value in values.tolist()], pa.string())
    if isinstance(kind, sa.DateTime):
        return pa.array(values, pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    return pa.array(values, from_pandas=True)


def each_as(form: Callable[[Rows], T], read: Callable[P, Iterator[Rows]]) -> Callable[P, Iterator[T]]:
    """A function that reads part by part, each in another form."""

    @wraps(read)
    def formed(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return _formed(form, read(*args, **kwargs))  # what is asked for is looked at before the first part is taken

    return _told(formed, read, f"Iterator[{signature(form).return_annotation}]")


def _formed(form: Callable[[Rows], T], parts: Iterator[Rows]) -> Iterator[T]:
    try:
        for part in parts:
            yield form(part)
    finally:
        parts.close()  # type: ignore[attr-defined]


def as_(form: Callable[[Rows], T], read: Callable[P, Rows]) -> Callable[P, T]:
    """A function that reads rows, in another form."""

    @wraps(read)
    def formed(*args: P.args, **kwargs: P.kwargs) -> T:
        return form(read(*args, **kwargs))

    return _told(formed, read, signature(form).return_annotation)


def _told(formed: Callable[P, T], read: Callable[P, Any], returns: str) -> Callable[P, T]:
    """With what it returns in ``help()``."""
    formed.__signature__ = signature(read).replace(return_annotation=returns)  # type: ignore[attr-defined]
    return formed
