"""MERGE, which SQLAlchemy has no construct for; each kind of database compiles it in its own file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement, Executable
from sqlalchemy.sql.visitors import InternalTraversal


class Merge(Executable, ClauseElement):
    """Insert the rows of a source that a table lacks; change those that it has and that differ.

    Its ``rowcount`` is the number of rows inserted or changed.

    Args:
        table: the table.
        source: a named source of rows, of which no two have the same key.
        on: when a row of the table is that of the source.
        update: what a row gets that is there, by column; empty: it stays as it is.
        where: which of those rows; None: all.
        insert: the values of a row that is not there, by column; empty: none is inserted.
    """

    __visit_name__ = "merge"
    inherit_cache = True
    _traverse_internals = [  # noqa: RUF012  (as SQLAlchemy declares it)
        ("table", InternalTraversal.dp_clauseelement),
        ("source", InternalTraversal.dp_clauseelement),
        ("on", InternalTraversal.dp_clauseelement),
        ("changed", InternalTraversal.dp_string_list),
        ("changes", InternalTraversal.dp_clauseelement_list),
        ("where", InternalTraversal.dp_clauseelement_list),
        ("inserted", InternalTraversal.dp_string_list),
        ("inserts", InternalTraversal.dp_clauseelement_list),
    ]

    def __init__(
        self,
        table: sa.Table,
        source: sa.FromClause,
        on: sa.ColumnElement[bool],
        *,
        update: Mapping[str, sa.ColumnElement[Any]] | None = None,
        where: sa.ColumnElement[bool] | None = None,
        insert: Mapping[str, sa.ColumnElement[Any]] | None = None,
    ) -> None:
        self.table = table
        self.source = source
        self.on = on
        self.changed, self.changes = list(update or {}), list((update or {}).values())
        self.where = [] if where is None else [where]
        self.inserted, self.inserts = list(insert or {}), list((insert or {}).values())

    def parts(self, compiler: SQLCompiler, **options: Any) -> tuple[str, str, str, str, str, str]:
        """Its parts as SQL: table, source, condition, what is set, for which rows ("": all), what is inserted."""
        compiler.stack.append({"correlate_froms": set(), "asfrom_froms": set(), "selectable": self})  # type: ignore[typeddict-item]

        def sql(element: ClauseElement, **more: Any) -> str:
            return str(compiler.process(element, **options, **more))

        def quoted(names: Sequence[str]) -> list[str]:
            return [compiler.preparer.quote(name) for name in names]

        table, source, on = sql(self.table, asfrom=True), sql(self.source, asfrom=True), sql(self.on)
        sets = ", ".join(
            f"{name} = {sql(value)}" for name, value in zip(quoted(self.changed), self.changes, strict=True)
        )
        where = " AND ".join(map(sql, self.where))
        inserts = f"({', '.join(quoted(self.inserted))}) VALUES ({', '.join(map(sql, self.inserts))})"
        compiler.stack.pop()
        return table, source, on, sets, where, inserts if self.inserted else ""


def upsert(
    table: sa.Table,
    source: sa.FromClause,
    values: Mapping[str, sa.ColumnElement[Any]],
    *,
    always: Sequence[str] = (),
) -> Merge:
    """A MERGE by the table's primary key that changes only rows that differ.

    Args:
        table: the table.
        source: see :class:`Merge`.
        values: of the columns, those of the key included.
        always: columns that are set with the others and are no difference by themselves: who wrote a row, and when.
    """
    key = [column.name for column in table.primary_key]
    update = {name: value for name, value in values.items() if name not in key}
    differs = [table.c[name].is_distinct_from(value) for name, value in update.items() if name not in always]
    return Merge(
        table,
        source,
        sa.and_(*(table.c[name] == values[name] for name in key)),
        update=update,
        where=sa.or_(*differs),
        insert=values,
    )
