"""The last nights: bars, failures, seconds, calls against plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sqlalchemy as sa

from closingbell.pictures.charts import figure, finished, short
from closingbell.pictures.png import Png
from closingbell.store import pictured
from closingbell.zones import NEW_YORK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: So many nights are shown.
LAST: Final = 30

#: The days on which the nightly run is scheduled, by date.weekday: Tuesday to Saturday, see ``prefect.yaml``.
_SCHEDULED: Final = (1, 2, 3, 4, 5)

_INSERTED, _REWRITTEN, _FAILED, _TIME, _CALLS, _PLANNED = (
    *("#0072B2", "#56B4E9", "#CD3C00"),
    *("#595959", "#0072B2", "#E69F00"),
)


@dataclass(frozen=True, slots=True)
class Night:
    """All runs of one date in New York, by what they took for the present.

    Attributes:
        day: the date.
        runs: how many began.
        states: of the runs, each once, in their order.
        inserted: bars.
        rewritten: bars.
        failed_cells: cells of calls that failed, by the runs' reports.
        failures: of which cause how many cells, and whose: from the reports.
        planned_calls: of all runs.
        actual_calls: the same.
        seconds: that the runs took in all; of one without a report, from its start to its end.
        next_commands: what the reports say to type next.
    """

    day: date
    runs: int
    states: tuple[str, ...]
    inserted: int
    rewritten: int
    failed_cells: int
    failures: Mapping[str, Mapping[str, Any]]
    planned_calls: int
    actual_calls: int
    seconds: float
    next_commands: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "night": self.day,
            "runs": self.runs,
            "states": list(self.states),
            "inserted": self.inserted,
            "rewritten": self.rewritten,
            "failed_cells": self.failed_cells,
            "failures": {
                cause: {"cells": group.get("cells", 0), "tickers": list(group.get("tickers", ()))}
                for cause, group in self.failures.items()
            },
            "planned_calls": self.planned_calls,
            "actual_calls": self.actual_calls,
            "seconds": round(self.seconds, 3),
            "next_commands": list(self.next_commands),
        }


def read(engine: sa.Engine, as_of: datetime, count: int = LAST) -> list[Night]:
    """The last nights, the oldest first: dates on which the nightly run is due, or any other run began.

    They end today. Where no run began in all of these, they end at the last run instead. Nights before the first run
    are left out.

    Args:
        engine: of a store.
        as_of: the present instant, aware.
        count: so many nights at most.
    """
    span = pictured.days_of_runs(engine)
    if span is None:
        return []
    first, last = (instant.astimezone(NEW_YORK).date() for instant in span)
    today = as_of.astimezone(NEW_YORK).date()
    reach = timedelta(days=2 * count + 7)  # five nights a week at least
    end = max(today, last) if last >= today - reach else last
    since = datetime.combine(end - reach, time(), NEW_YORK)
    by_day: dict[date, list[Mapping[str, Any]]] = {}
    for row in pictured.runs(engine, since):
        by_day.setdefault(row["as_of"].astimezone(NEW_YORK).date(), []).append(row)
    nights = _ending(end, by_day, first, count)
    if by_day and not any(day in by_day for day in nights):
        nights = _ending(last, by_day, first, count)
    return [_night(day, by_day.get(day, [])) for day in nights]


def _ending(end: date, by_day: Mapping[date, Any], first: date, count: int) -> list[date]:
    found: list[date] = []
    day = end
    while len(found) < count and day >= first:
        if day in by_day or day.weekday() in _SCHEDULED:
            found.append(day)
        day -= timedelta(days=1)
    return found[::-1]


def _night(day: date, runs: Sequence[Mapping[str, Any]]) -> Night:
    failures: dict[str, dict[str, Any]] = {}
    seconds, cells = 0.0, 0
    for row in runs:
        told = row["report"] or {}
        spent = (told.get("seconds") or {}).get("total")
        if spent is None:
            spent = (row["ended_at"] - row["started_at"]).total_seconds() if row["ended_at"] else 0.0
        seconds += spent
        for cause, group in (told.get("failed") or {}).items():
            known = failures.setdefault(cause, {"cells": 0, "tickers": {}})
            known["cells"] += group.get("cells", 0)
            known["tickers"].update(dict.fromkeys(group.get("tickers", ())))
            cells += group.get("cells", 0)
    commands = [(row["report"] or {}).get("next_command") for row in runs]
    return Night(
        day,
        len(runs),
        tuple(dict.fromkeys(row["state"] for row in runs)),
        sum(row["inserted"] or 0 for row in runs),
        sum(row["rewritten"] or 0 for row in runs),
        cells,
        failures,
        sum(row["planned_calls"] or 0 for row in runs),
        sum(row["actual_calls"] or 0 for row in runs),
        seconds,
        tuple(dict.fromkeys(command for command in commands if command)),
    )


def title(nights: Sequence[Night]) -> str:
    """How many nights, and which."""
    if not nights:
        return "The last nights: no run yet"
    if len(nights) == 1:
        return f"One night: {nights[0].day}"
    return f"The last {len(nights)} nights: {nights[0].day} to {nights[-1].day}"


def subtitle(nights: Sequence[Night]) -> str:
    """The sums, in words."""
    quiet = sum(not night.runs for night in nights)
    without = f"; {quiet} night{'s' if quiet != 1 else ''} without a run" if quiet else ""
    runs = sum(night.runs for night in nights)
    return (
        f"{runs:,} run{'' if runs == 1 else 's'}, {sum(night.inserted for night in nights):,} bars inserted, "
        f"{sum(night.failed_cells for night in nights):,} cells failed, "
        f"{sum(night.actual_calls for night in nights):,} calls made of "
        f"{sum(night.planned_calls for night in nights):,} planned{without}"
    )


def png(nights: Sequence[Night], *, scale: int = 2) -> Png:
    """Four charts below each other, a place for each night; one without a run is marked."""
    width, height = 1070, 640
    with figure(title(nights), subtitle(nights), width, height, scale) as (sheet, area):
        if nights:
            rows = sheet.subplots(4, 1, sharex=True, gridspec_kw={"hspace": 0.3, **area, "top": 1 - 80 / height})
            bars, failed, took, calls = rows
            x = np.arange(len(nights))
            inserted = [night.inserted for night in nights]
            bars.bar(x, inserted, 0.7, color=_INSERTED, label="inserted")
            bars.bar(x, [n.rewritten for n in nights], 0.7, inserted, color=_REWRITTEN, label="rewritten")
            failed.bar(x, [night.failed_cells for night in nights], 0.7, color=_FAILED)
            took.bar(x, [night.seconds for night in nights], 0.7, color=_TIME)
            calls.bar(x, [night.actual_calls for night in nights], 0.7, color=_CALLS, label="made")
            planned = [night.planned_calls for night in nights]
            calls.hlines(planned, x - 0.42, x + 0.42, color=_PLANNED, linewidth=2.2, label="planned")
            for axes, name in zip(rows, ("bars", "cells failed", "seconds", "calls"), strict=True):
                axes.set_ylabel(name, fontsize=9)
                _scale(axes, max(planned) if axes is calls else 0)
            for axes in (bars, calls):
                axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=2, bbox_to_anchor=(0, 1.22))
            for i, night in enumerate(nights):
                if not night.runs:
                    for axes in rows:
                        axes.axvspan(i - 0.5, i + 0.5, color="#f2d7c9", linewidth=0, zorder=0)
            step = -(-len(nights) // 12)
            calls.set_xticks(x[::step], [f"{night.day:%m-%d}" for night in nights[::step]])
            calls.set_xlim(-0.8, max(len(nights), 8) - 0.2)
        alt = f"{title(nights)}. {subtitle(nights)}."
        return finished(sheet, width, height, scale, alt)


def _scale(axes: Axes, tallest: float) -> None:
    """Whole numbers without an exponent; where one night has a hundred times the usual, the others are seen too."""
    from matplotlib.ticker import MaxNLocator

    heights = np.array([patch.get_height() + patch.get_y() for patch in axes.patches])  # type: ignore[attr-defined]
    some = heights[heights > 0]
    if len(some) > 2 and some.max() > 100 * np.median(some):
        axes.set_yscale("symlog", linthresh=max(float(np.median(some)), 1.0))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_ylim(0, 1.12 * max(float(some.max(initial=0)), tallest) or 1)
    axes.yaxis.set_major_formatter(short)
