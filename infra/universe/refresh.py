"""Build ``closingbell/data/*.csv`` from public, dated files: an explicit act, never part of a run.

    python -m infra.universe.refresh --as-of 2026-08-08 --constituents constituents.csv \\
        --intervals sp500_ticker_start_end.csv --renames ticker_renames_by_cik.csv --etfs etfs.csv

How the sources are reconciled (``closingbell/data/README.md`` says where they come from):

1. Who is a member today, with name and CIK: the constituents list alone.
2. Since when: the intervals, because they date the *ticker*, and the ticker is what the vendor is asked for; the list
   dates the company (META is a member "since 2013", but its ticker was FB until 2022-06-09). Tickers that joined after
   the intervals end are dated by the list.
3. Until when: the intervals, then ``announced.csv``, which also corrects dates of the intervals that contradict the
   index provider's own announcement.
4. A ``rename`` in ``announced.csv`` ends one ticker and starts the other on its date; so does ``succeed``, where the
   new ticker is another registrant's and inherits no CIK. A rename found only by comparing copies of
   the list is dated by the first copy that shows it: at the latest.
5. A member that left on a date which none of these tells stays until ``--as-of``: a universe that asks for one ticker
   too many loses nothing, one that asks for too few does. The command names them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

import click

DATA: Final = Path(__file__).parents[2] / "closingbell" / "data"
ANNOUNCED: Final = Path(__file__).with_name("announced.csv")

#: How long after a rename a copy of the list may have been made that is the first to show it.
LAG: Final = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Member:
    """A ticker's membership from ``start`` up to, and without, ``end``."""

    ticker: str
    start: date
    end: date | None = None
    name: str = ""
    cik: str = ""


class Book:
    """The memberships of every ticker, changed one fact at a time."""

    def __init__(self, members: Iterable[Member]) -> None:
        self._of: dict[str, list[Member]] = {}
        for member in members:
            self._of.setdefault(member.ticker, []).append(member)

    def __iter__(self) -> Iterator[Member]:
        return (m for ticker in sorted(self._of) for m in sorted(self._of[ticker], key=lambda m: m.start))

    def open(self, ticker: str) -> Member | None:
        """The membership that has no end yet."""
        return next((m for m in self._of.get(ticker, ()) if m.end is None), None)

    def add(self, ticker: str, day: date) -> None:
        """Start a membership, or move the start of the latest one."""
        latest = max(self._of.get(ticker, ()), key=lambda m: m.start, default=None)
        if latest and abs(latest.start - day) < LAG:
            self.put(latest, replace(latest, start=day))
        elif latest is None or latest.end is not None:
            self._of.setdefault(ticker, []).append(Member(ticker, day))

    def remove(self, ticker: str, day: date) -> None:
        """End the latest membership, or move its end."""
        latest = max(self._of[ticker], key=lambda m: m.start)
        if latest.end is not None and abs(latest.end - day) >= LAG:
            raise click.ClickException(f"{ticker} left on {latest.end}, but an announcement says {day}: look into it")
        self.put(latest, replace(latest, end=day))

    def put(self, old: Member, new: Member) -> None:
        """Replace one membership of a ticker by another."""
        self._of[old.ticker] = [new if m is old else m for m in self._of[old.ticker]]


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, stripped."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [{key: (value or "").strip() for key, value in row.items()} for row in csv.DictReader(file)]


def build(as_of: date, constituents: Path, intervals: Path, renames: Path, announced: Path) -> tuple[Book, list[str]]:
    """The book of memberships, and the tickers whose end no source tells."""
    listed = {row["Symbol"]: row for row in rows(constituents)}
    book = Book(Member(r["ticker"], date.fromisoformat(r["start_date"]), _day(r["end_date"])) for r in rows(intervals))
    seen_renames = [
        (r["old"], r["new"], date.fromisoformat(r["first_seen"]), _cik(r["cik"]), r["security"]) for r in rows(renames)
    ]
    changed = {(old, new): day for old, new, day, _, _ in seen_renames if new in listed}
    for fact in rows(announced):
        day = date.fromisoformat(fact["date"])
        if fact["action"] in {"rename", "succeed"}:
            changed[fact["ticker"], fact["new"]] = day
            if fact["action"] == "rename":
                row = listed[fact["new"]]
                seen_renames.append((fact["ticker"], fact["new"], day, _cik(row["CIK"]), row["Security"]))
        elif fact["action"] == "add":
            book.add(fact["ticker"], day)
        elif fact["action"] == "remove":
            book.remove(fact["ticker"], day)
        else:
            raise click.ClickException(f"{announced} has an unknown action: {fact['action']!r}")
    for (old, new), seen in changed.items():
        if book.open(new):
            continue
        if book.open(old):
            book.remove(old, seen)
        elif old not in {m.ticker for m in book}:  # it joined, and was renamed, after the intervals end
            book.add(old, date.fromisoformat(listed[new]["Date added"]))
            book.remove(old, seen)
        book.add(new, seen)
    for ticker, row in listed.items():
        if not book.open(ticker):
            book.add(ticker, date.fromisoformat(row["Date added"]))
        if member := book.open(ticker):
            book.put(member, replace(member, name=row["Security"], cik=_cik(row["CIK"])))
    left = [m.ticker for m in book if m.end is None and m.ticker not in listed]
    for ticker in left:
        book.remove(ticker, as_of)
    _identify(book, seen_renames)
    _check(book, listed)
    return book, left


def _identify(book: Book, renames: Iterable[tuple[str, str, date, str, str]]) -> None:
    """Give both tickers of a rename the CIK and the name of the company, where they lack them."""
    for old, new, day, cik, name in renames:
        for member in list(book):
            ended = member.ticker == old and member.end and timedelta() <= day - member.end <= LAG
            began = member.ticker == new and timedelta() <= day - member.start <= LAG
            if (ended or began) and not member.cik:
                book.put(member, replace(member, cik=cik, name=name))


def _check(book: Book, listed: dict[str, dict[str, str]]) -> None:
    """Refuse to write what contradicts itself."""
    members = list(book)
    wrong = [m for m in members if m.end is not None and m.end <= m.start]
    wrong += [b for a, b in pairwise(members) if a.ticker == b.ticker and (not a.end or b.start < a.end)]
    if wrong:
        raise click.ClickException(f"memberships end before they start, or overlap: {wrong}")
    if differ := {m.ticker for m in members if m.end is None} ^ set(listed):
        raise click.ClickException(f"the open memberships are not the list: {sorted(differ)}")


def _day(text: str) -> date | None:
    return date.fromisoformat(text) if text else None


def _cik(text: str) -> str:
    return f"{int(text):010d}" if text else ""


def _write(path: Path, header: Iterable[str], lines: Iterable[Iterable[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)


_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--as-of", type=click.DateTime(["%Y-%m-%d"]), required=True, help="The day of the constituents list.")
@click.option("--constituents", type=_FILE, required=True, help="The members: Symbol, Security, Date added, CIK.")
@click.option("--intervals", type=_FILE, required=True, help="Past membership: ticker, start_date, end_date.")
@click.option("--renames", type=_FILE, required=True, help="Changed tickers: old, new, first_seen, cik, security.")
@click.option("--announced", type=_FILE, default=ANNOUNCED, help="What the index provider announced.")
@click.option("--etfs", type=_FILE, required=True, help="The ETFs: ticker, name.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=DATA, help="Where the CSVs go.")
def main(
    as_of: datetime, constituents: Path, intervals: Path, renames: Path, announced: Path, etfs: Path, out: Path
) -> None:
    """Write ``sp500.csv`` and ``etfs.csv``."""
    book, left = build(as_of.date(), constituents, intervals, renames, announced)
    _write(
        out / "sp500.csv",
        ("ticker", "name", "cik", "from", "to"),
        ((m.ticker, m.name, m.cik, str(m.start), str(m.end or "")) for m in book),
    )
    _write(out / "etfs.csv", ("ticker", "name"), ((row["ticker"], row["name"]) for row in rows(etfs)))
    click.echo(f"{sum(1 for _ in book):,} memberships, {sum(m.end is None for m in book)} of them open")
    click.echo(f"left by {as_of:%Y-%m-%d}, on a day that no source tells: {', '.join(left) or 'none'}")


if __name__ == "__main__":
    main()
