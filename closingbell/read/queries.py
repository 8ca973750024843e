"""The SELECTs behind the reads: those that docs/reading.md shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa

from closingbell.bars import VALUES
from closingbell.errors import ConfigurationError
from closingbell.read.asked import Span
from closingbell.store.columns import around
from closingbell.store.database import database_of
from closingbell.store.origin import FLAT, MADE, origins
from closingbell.store.schema import bar, gap

#: ``False``: as traded; ``True`` or ``splits``: by the splits; ``dividends``: dividends reinvested as well.
Adjusted = bool | Literal["splits", "dividends"]

#: What every bar has first.
KEY: Final = ("ticker", "session", "ts")
_PRICES: Final = ("open", "high", "low", "close", "vwap")
_FACTORS: Final[dict[Adjusted, tuple[str, ...]]] = {
    False: (),
    "splits": ("factor",),
    "dividends": ("factor", "dividend_factor"),
}

#: The columns of relations and their types.
_KINDS: Final[dict[str, Any]] = {
    **{column.name: column.type for column in bar.c},
    **dict.fromkeys(("first_session", "before_session"), sa.Date()),
    **dict.fromkeys(("factor", "dividend_factor"), sa.Double()),
}
_BAR: Final = tuple(column.name for column in bar.c)
_SPLITS: Final = ("source", "ticker", "first_session", "before_session", "factor")
_RETURN: Final = ("ticker", "ts", "factor", "dividend_factor")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which bars, and how.

    Attributes:
        tickers: in order; None: all.
        span: of sessions.
        timeframe: of the bars.
        source: the vendor's name, its flat files included; None: whosever.
        adjusted: see :data:`Adjusted`; True is ``splits`` here.
        as_of: the instant as of which they were known; None: now.
        columns: beside :data:`KEY`.
    """

    tickers: tuple[str, ...] | None
    span: Span
    timeframe: str
    source: str | None
    adjusted: Adjusted
    as_of: datetime | None
    columns: tuple[str, ...]

    @classmethod
    def checked(
        cls,
        tickers: tuple[str, ...] | None,
        span: Span,
        timeframe: str,
        source: str | None,
        adjusted: Adjusted,
        as_of: datetime | None,
        columns: Sequence[str] | None,
    ) -> Wanted:
        """The same, if such bars can be read.

        Raises:
            ConfigurationError: they cannot.
        """
        kind: Adjusted = "splits" if adjusted is True else adjusted
        if kind not in _FACTORS:
            fix = "Use False, True (or 'splits'), or 'dividends'."
            raise ConfigurationError("bars cannot be adjusted so", value=repr(adjusted), fix=fix)
        if kind == "dividends" and timeframe != "1d":
            fix = "Read 1d, or adjust by splits alone."
            raise ConfigurationError("dividends adjust daily bars only", value=timeframe, fix=fix)
        if kind == "dividends" and as_of is not None:
            raise ConfigurationError(
                "since when a dividend was known is not kept",
                value=f"adjusted='dividends', as_of={as_of.isoformat()}",
                fix="Leave out as_of, or adjust by splits alone.",
            )
        possible = (*VALUES, "source", "run_id", *_FACTORS[kind])
        chosen = tuple(name for name in possible if name != "run_id") if columns is None else tuple(columns)
        chosen = tuple(dict.fromkeys(name for name in chosen if name not in KEY))
        for name in chosen:
            if name not in possible:
                fix = f"There are {', '.join((*KEY, *possible))}."
                raise ConfigurationError("bars have no such column", value=repr(name), fix=fix)
        return cls(tickers, span, timeframe, source, kind, as_of, chosen)


def bars(connection: sa.Connection, wanted: Wanted) -> sa.Select[Any]:
    """The bars, by ticker and ``ts``; for this transaction."""

    def of(among: Callable[[sa.ColumnElement[str]], sa.ColumnElement[bool]] | None) -> sa.Select[Any]:
        b, joined, factors = _relation(connection, wanted)
        columns: dict[str, sa.ColumnElement[Any]] = {**dict(b.c.items()), **factors}
        total: Any = factors.get("factor")
        if wanted.adjusted == "dividends":
            total = factors["factor"] * factors["dividend_factor"]
        if total is not None and (wanted.adjusted == "dividends" or wanted.as_of is not None):
            columns |= {name: b.c[name] * total for name in _PRICES}
            columns["volume"] = b.c.volume / factors["factor"]
        chosen = [columns[name].label(name) for name in (*KEY, *wanted.columns)]
        conditions = [b.c.timeframe == wanted.timeframe, *within(b, wanted.span)]
        if wanted.source is not None:
            conditions.append(b.c.source.in_(origins(wanted.source)))
        if among is not None:
            conditions.append(among(b.c.ticker))
        return sa.select(*chosen).select_from(joined).where(*conditions)

    if wanted.tickers is not None:
        return database_of(connection).each(connection, wanted.tickers, of)
    query = of(None)
    return query.order_by(query.selected_columns["ticker"], query.selected_columns["ts"])


def _relation(
    connection: sa.Connection, wanted: Wanted
) -> tuple[sa.FromClause, sa.FromClause, dict[str, sa.ColumnElement[Any]]]:
    """The bars, what they are joined to, and the factors; the columns of an adjusted view are adjusted already."""
    if wanted.adjusted == "dividends":
        b = sa.table("bar", *_columns(_BAR)).alias("b")
        r = sa.table("bar_total_return", *_columns(_RETURN)).alias("r")
        on = sa.and_(r.c.ticker == b.c.ticker, r.c.ts == b.c.ts)
        return b, b.join(r, on), {"factor": r.c.factor, "dividend_factor": r.c.dividend_factor}
    if wanted.as_of is None:
        name = "bar_adjusted" if wanted.adjusted else "bar"
        view = sa.table(name, *_columns((*_BAR, *_FACTORS[wanted.adjusted]))).alias("b")
        return view, view, {"factor": view.c.factor} if wanted.adjusted else {}
    known = database_of(connection).known
    b = known(connection, "bar_as_of", _columns(_BAR), wanted.as_of).alias("b")
    if not wanted.adjusted:
        return b, b, {}
    f = known(connection, "split_factor_as_of", _columns(_SPLITS), wanted.as_of).alias("f")
    on = sa.and_(
        b.c.source.in_([f.c.source, f.c.source.concat(FLAT), f.c.source.concat(MADE)]),
        f.c.ticker == b.c.ticker,
        b.c.session >= f.c.first_session,
        b.c.session < f.c.before_session,
    )
    return b, b.outerjoin(f, on), {"factor": sa.func.coalesce(f.c.factor, sa.literal(1.0, sa.Double))}


def _columns(names: Sequence[str]) -> list[sa.ColumnClause[Any]]:
    """Columns of a relation that they are about to be given to."""
    return [sa.column(name, _KINDS[name]) for name in names]


def within(b: sa.FromClause, span: Span) -> list[sa.ColumnElement[bool]]:
    """That a bar is of these sessions; also by its key, which has ``ts`` and no session."""
    conditions = []
    if span.first is not None:
        conditions += [b.c.session >= span.first, b.c.ts >= around(span.first, span.first)[0]]
    if span.last is not None:
        conditions += [b.c.session <= span.last, b.c.ts <= around(span.last, span.last)[1]]
    return conditions


def cells(where: Callable[[sa.FromClause], Sequence[sa.ColumnElement[bool]]]) -> sa.Select[Any]:
    """Every cell that is accounted for: those with bars, and the gaps; by ticker, timeframe and session."""
    key = ("source", "ticker", "timeframe", "session")
    stored = (
        sa.select(
            *(bar.c[name] for name in key),
            sa.literal("stored", sa.String(16)).label("state"),
            sa.func.count().label("bars"),
            sa.cast(sa.null(), sa.Integer).label("attempts"),
            sa.cast(sa.null(), sa.String(500)).label("last_error"),
        )
        .where(*where(bar))
        .group_by(*(bar.c[name] for name in key))
    )
    excused = sa.select(
        *(gap.c[name] for name in key), gap.c.reason, sa.literal(0, sa.Integer), gap.c.attempts, gap.c.last_error
    ).where(*where(gap))
    both = sa.union_all(stored, excused).subquery("cell")
    return sa.select(*both.c).order_by(both.c.ticker, both.c.timeframe, both.c.session, both.c.source)
