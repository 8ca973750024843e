"""Lists of the reference data as the vendor gives them: filtered, sorted, and a page at a time."""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from infra.market import query, wire
from infra.market.market import Ask
from infra.market.query import RefusedError
from infra.market.wire import Payload

#: The most rows of a page.
MOST: Final = 1000
#: How many there are unless asked otherwise.
USUAL: Final = 10

Row = dict[str, Any]

_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "": operator.eq,
    ".gte": operator.ge,
    ".gt": operator.gt,
    ".lte": operator.le,
    ".lt": operator.lt,
}


def chosen(ask: Ask, rows: Sequence[Row], filters: tuple[str, ...]) -> Sequence[Row]:
    """The rows that the request's parameters let through, each by its name or with ``.gte .gt .lte .lt``.

    Raises:
        RefusedError: 400, a bound is not a date or a number.
    """
    for name in filters:
        for suffix, holds in _COMPARE.items():
            if (text := ask.params.get(name + suffix)) is not None:
                bound = _bound(name, suffix, text)
                rows = [row for row in rows if holds(row[name], bound)]
    return rows


def page(
    ask: Ask,
    rows: Sequence[Row],
    sorts: tuple[str, ...],
    usual_sort: str,
    usual_order: str,
    *,
    usual: int = USUAL,
    counted: bool = False,
) -> Payload:
    """One page of sorted rows. The cursor holds the whole question and where the page ended.

    Raises:
        RefusedError: 400, the order or the limit makes no sense.
    """
    sort, order = ordering(ask, sorts, usual_sort, usual_order)
    limit = query.count(ask.params, "limit", usual, MOST)

    def place(row: Row) -> str:
        value = row[sort]
        at = value if isinstance(value, str) else f"{value:024.8f}"
        return f"{at} {row['ticker']} {row.get('id') or row.get('composite_figi', '')}"

    ordered = sorted(rows, key=place)
    if after := ask.params.get("ap"):
        cut = bisect_left(ordered, after, key=place)
        if order == "desc":
            ordered = ordered[:cut]
        else:
            ordered = ordered[cut + (cut < len(ordered) and place(ordered[cut]) == after) :]
    if order == "desc":
        ordered.reverse()
    given = ordered[:limit]
    tail: dict[str, Any] = {"status": "OK", "request_id": None}
    if counted:
        tail["count"] = len(given)
    if len(ordered) > limit:
        onward = {**ask.params, "limit": str(limit), "sort": sort, "order": order, "ap": place(given[-1])}
        tail["next_url"] = f"{ask.base_url}{ask.path}?cursor={query.cursor(onward)}"
    return Payload({}, wire.quote(given), len(given), tail)


def ordering(ask: Ask, sorts: tuple[str, ...], usual_sort: str, usual_order: str) -> tuple[str, str]:
    """The key that rows are sorted by, and ``asc`` or ``desc``.

    Raises:
        RefusedError: 400, there is no such key or order.
    """
    sort, order = ask.params.get("sort", usual_sort), ask.params.get("order", usual_order)
    if sort not in sorts or order not in ("asc", "desc"):
        raise RefusedError(400, f"The parameters 'sort' and 'order' must be one of {', '.join(sorts)}, and asc or desc")
    return sort, order


def _bound(name: str, suffix: str, text: str) -> str | float:
    if name.endswith("_date"):
        query.calendar_day(text, name + suffix)
    if name != "cash_amount":
        return text
    try:
        return float(text)
    except ValueError:
        raise RefusedError(400, f"The parameter '{name + suffix}' must be a number") from None
