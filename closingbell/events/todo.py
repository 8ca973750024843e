"""Which sessions' events are to be derived, or again: plain values in, plain values out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from closingbell.store.events import Mark, Span, Standing

_DAY = timedelta(days=1)


def planned(
    standing: Standing,
    sessions: NDArray[np.datetime64],
    asked: Span,
    until: Callable[[date, date], date],
    *,
    purge: bool = False,
) -> Mark | None:
    """The mark as it has to become before anything is derived: what is asked for, and what has changed, is to do.

    Args:
        standing: what is derived, and of what; its bars have a watermark.
        sessions: of the bars' watermark, ascending, shape (n,), datetime64[D].
        asked: the first and last session asked for, inside the watermark.
        until: gives the last session whose events may depend on the bars of a session, not after another one.
        purge: derive again what is asked for, whether or not it is derived.

    Returns:
        The new mark; None: all is derived, and nothing has changed.
    """
    old, bars = standing.mark, standing.bars
    assert bars is not None  # noqa: S101  (the caller's)
    if old is None:
        new = Mark(*asked, (asked,), asked[0], bars.first, standing.gaps, 0, 0)
        return replace(new, revision_id=standing.revision_id, late_id=standing.late_id)
    spans = [*old.todo]
    first, last = min(asked[0], old.first), max(asked[1], old.last)
    if first < old.first:
        spans.append((first, old.first - _DAY))
    if last > old.last:
        spans.append((old.last + _DAY, last))
    if purge:
        spans.append(asked)
    for begin, end in _runs(_changed(standing, old), sessions):
        end = until(end, old.last)
        if end >= old.first:
            spans.append((max(begin, old.first), end))
    new = replace(old, first=first, last=last, todo=merged(spans), bars_from=bars.first, gaps=standing.gaps)
    new = replace(new, revision_id=standing.revision_id, late_id=standing.late_id)
    return None if new == old else replace(new, turn=old.turn + 1)


def _changed(standing: Standing, mark: Mark) -> set[date]:
    """The sessions that the events were computed from, and whose bars are others now."""
    bars = standing.bars
    assert bars is not None  # noqa: S101
    changed = set(standing.changed)
    # A gap that has got its bars, and a bar that is gone.
    since = max(mark.reach, mark.bars_from)
    changed |= {day for day in mark.gaps ^ standing.gaps if since <= day <= mark.last}
    if bars.first < mark.bars_from and mark.reach <= mark.bars_from:
        changed.add(mark.first)  # there was less to warm up with than there is now
    return changed


def _runs(days: Iterable[date], sessions: NDArray[np.datetime64]) -> list[Span]:
    """Days as spans of sessions that follow each other."""
    wanted = np.array(sorted(days), "M8[D]")
    at = np.flatnonzero(np.isin(sessions, wanted))
    parts = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else []
    return [(sessions[part[0]].item(), sessions[part[-1]].item()) for part in parts]


def merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans in order, those that overlap or touch joined."""
    joined: list[Span] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + _DAY:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined)


def rest(todo: Sequence[Span], done: date) -> tuple[Span, ...]:
    """What is left to do when the first span is done up to a session."""
    first, *others = todo
    return tuple(others) if done >= first[1] else ((done + _DAY, first[1]), *others)
