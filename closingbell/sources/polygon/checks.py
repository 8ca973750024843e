"""What must hold of an answer before its rows are believed; a breach is a failure, never an empty success.

Each check raises :class:`~closingbell.errors.MalformedResponseError` with a sentence of its own, which is the same for
every ticker, and the particulars in ``value``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray

from closingbell.errors import MalformedResponseError
from closingbell.sources.base import Split
from closingbell.sources.polygon.wire import Envelope, SplitRow, SplitsBody

#: ``DELAYED`` is what a plan with delayed data calls a good answer.
_GOOD = ("OK", "DELAYED")


def status(body: Envelope | SplitsBody, subject: str) -> None:
    """The answer calls itself good; a 200 may carry an error all the same."""
    if body.status not in _GOOD:
        said = body.error or body.message
        raise _malformed(
            "the answer's status is not OK", f"{subject}: {body.status!r}" + (f" ({said[:300]})" if said else "")
        )


def count(body: Envelope, rows: Sequence[object] | None, subject: str) -> None:
    """There are as many rows as the answer says; if none, it says so."""
    told, got = body.resultsCount, len(rows or ())
    if told is None:
        raise _malformed("the answer does not say how many rows it has", f"{subject}: {got:,} came")
    if told != got:
        raise _malformed("the answer has not the number of rows it says", f"{subject}: {got:,} came, {told:,} said")


def ticker(body: Envelope, asked: str, subject: str) -> None:
    """The answer is of the ticker asked, letter for letter: ``PEBpE`` and ``PEBPE`` are different shares."""
    if body.ticker != asked:
        raise _malformed("the answer is of another ticker", f"{subject}: {body.ticker!r}")


def order(ts: NDArray[np.datetime64], subject: str) -> None:
    """The bars ascend. Whole series have been seen twice in one body, end to end; that has a sentence of its own.

    A few bars that share an instant pass: the quality rule for duplicates judges those, at no other bar's cost.

    Args:
        ts: shape (n,), the vendor's instants.
        subject: what was asked.
    """
    half, odd = divmod(len(ts), 2)
    if half > 1 and not odd and (np.array_equal(ts[:half], ts[half:]) or np.array_equal(ts[::2], ts[1::2])):
        raise _malformed("the answer has its whole series twice", f"{subject}: {half:,} bars, each two times")
    falls = np.flatnonzero(ts[1:] < ts[:-1])
    if len(falls):
        at = int(falls[0])
        raise _malformed("the answer's bars are out of order", f"{subject}: {ts[at + 1]}Z comes after {ts[at]}Z")


def within(sessions: NDArray[np.datetime64], first: date, last: date, subject: str) -> None:
    """No bar is of a session that was not asked.

    Args:
        sessions: shape (n,), the bars' dates.
        first: the first date asked.
        last: the last date asked.
        subject: what was asked.
    """
    outside = sessions[(sessions < np.datetime64(first)) | (sessions > np.datetime64(last))]
    if len(outside):
        raise _malformed("the answer has bars outside of the range asked", f"{subject}: {outside[0]}")


def follows(ts: NDArray[np.datetime64], previous: np.datetime64 | None, subject: str) -> None:
    """A page starts after the last bar of the page before it."""
    if previous is not None and len(ts) and ts[0] <= previous:
        raise _malformed("a page goes back to bars of the page before", f"{subject}: {ts[0]}Z after {previous}Z")


def on_day(days: NDArray[np.datetime64], session: date, subject: str) -> None:
    """At least one row of a market day is of the day asked.

    A day on which every stamp is of another date is another day's answer. A single stale row is not reason enough to
    lose the market: it keeps its own date, and the quality rules judge it.

    Args:
        days: shape (n,), the rows' dates.
        session: the date asked.
        subject: what was asked.
    """
    if len(days) and not np.any(days == np.datetime64(session)):
        raise _malformed("the answer is of another day", f"{subject}: {days[0]}")


def tickers_once(tickers: Sequence[str], subject: str) -> None:
    """A market day is not there twice; a ticker that is, is left to the quality rules."""
    half, odd = divmod(len(tickers), 2)
    if half > 1 and not odd and (tickers[:half] == tickers[half:] or tickers[::2] == tickers[1::2]):
        raise _malformed("the answer has its whole market twice", f"{subject}: {half:,} tickers, each two times")


def listed(body: SplitsBody, subject: str) -> list[SplitRow]:
    """An answer about splits has a list, be it an empty one."""
    if body.results is None:
        raise _malformed("the answer has no list of splits", subject)
    return body.results


def asked(split: Split, since: date, until: date | None, ticker: str | None, subject: str) -> None:
    """A split is of the dates and of the ticker asked."""
    if split.execution_date < since or (until and split.execution_date > until) or ticker not in (None, split.ticker):
        raise _malformed(
            "the answer has splits that were not asked for", f"{subject}: {split.ticker} {split.execution_date}"
        )


def _malformed(what: str, value: str) -> MalformedResponseError:
    return MalformedResponseError(what, value=value, fix="Ask again; it is not counted as empty")
