"""What a reader asks for, held against what there can be: each mistake is an error that says the fix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from closingbell.bars import TIMEFRAMES
from closingbell.errors import ConfigurationError

#: One ticker, several, or None for all.
Tickers = str | Iterable[str] | None

#: A session or another date: ``date(2024, 1, 2)``, ``"2024-01-02"``, a pandas or numpy midnight; None: no bound.
Day = date | str | None

#: A date, which means its end in UTC, or an aware instant; as text in ISO 8601.
Instant = date | datetime | str


@dataclass(frozen=True, slots=True)
class Span:
    """From which date to which, both included; None: no bound."""

    first: date | None
    last: date | None


def tickers(wanted: Tickers) -> tuple[str, ...] | None:
    """The tickers in the order of their bytes, each once; None: all."""
    if wanted is None:
        return None
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigurationError("this is not a ticker", value=repr(name), fix="Write it as the vendor does: BRK.B")
    return tuple(sorted(set(names), key=str.encode))


def span(start: Day, end: Day) -> Span:
    """The dates, in order."""
    first, last = _day("start", start), _day("end", end)
    if first is not None and last is not None and last < first:
        raise ConfigurationError("the dates are reversed", value=f"{first} to {last}", fix="Swap start and end.")
    return Span(first, last)


def _day(name: str, value: Day) -> date | None:
    if value is None:
        return None
    item = value if isinstance(value, str | date) else getattr(value, "item", lambda: value)()  # numpy's own
    try:
        read = datetime.fromisoformat(item) if isinstance(item, str) else item
        if isinstance(read, datetime):
            if read.time() != time() or read.utcoffset():
                raise ValueError
            return read.date()
        if isinstance(read, date):
            return read
    except ValueError:
        pass
    raise ConfigurationError(f"{name} is not a date", value=repr(value), fix="Write it as 2024-01-31.")


def instant(as_of: Instant | None) -> datetime | None:
    """The instant as of which something is known; a date means its end in UTC."""
    if as_of is None:
        return None
    try:
        read = _iso(as_of) if isinstance(as_of, str) else as_of
    except ValueError:
        read = None
    if isinstance(read, datetime):
        if read.tzinfo is not None:
            return read.astimezone(UTC)
    elif isinstance(read, date):
        return datetime.combine(read, time(), UTC) + timedelta(days=1, microseconds=-1)
    raise ConfigurationError(
        "as_of is neither a date nor an instant with its time zone",
        value=repr(as_of),
        fix="Write it as 2024-01-31, which means its end in UTC, or as 2024-01-31T21:00:00+00:00.",
    )


def _iso(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return datetime.fromisoformat(text)


def timeframe(wanted: str | None) -> str | None:
    """A timeframe that there is."""
    if wanted is not None and wanted not in TIMEFRAMES:
        raise ConfigurationError("there is no such timeframe", value=repr(wanted), fix=f"Use {', '.join(TIMEFRAMES)}.")
    return wanted
