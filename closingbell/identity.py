"""Which instrument held a ticker when: pure arithmetic over what a vendor tells and what the shipped list proves.

A ticker is lent, not owned: FB became META on 2022-06-09, and until that January META was another issuer's fund. A
:class:`Tenure` is one instrument's time under one ticker; an instrument's tenures follow each other without a break.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cache
from itertools import groupby, pairwise
from typing import Final, TypeAlias

from closingbell.sources.base import Identity
from closingbell.universe import Membership, memberships

_Chain: TypeAlias = list[Membership]

#: A vendor's day of a rename is this many days off at most: it has named Saturdays.
NEAR: Final = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Tenure:
    """An instrument's time under a ticker, from ``first`` up to, and without, ``end``.

    Attributes:
        ticker: as the vendor writes it.
        instrument_id: the same for all tenures of the instrument, and for no other instrument.
        name: the company's or fund's, its newest one.
        first: the first day on which it is known to hold the ticker.
        end: the first day on which it no longer does; None while it lasts, or if nobody tells.
    """

    ticker: str
    instrument_id: str
    name: str
    first: date
    end: date | None

    def covers(self, day: date) -> bool:
        """Whether the instrument holds the ticker on ``day``."""
        return self.first <= day and (self.end is None or day < self.end)


def tenures(identity: Identity) -> tuple[Tenure, ...]:
    """A vendor's changes of ticker as spans, oldest first; the last one lasts."""
    changes = identity.changes
    return tuple(
        Tenure(change.ticker, identity.instrument_id, identity.name, change.day, after.day if after else None)
        for change, after in zip(changes, [*changes[1:], None], strict=False)
    )


@cache
def shipped() -> tuple[Tenure, ...]:
    """What the shipped list of index members proves about renames; see :func:`proven`.

    A rename that the list found only by comparing copies is dated by the first copy to show it: at the latest.
    """
    return proven(memberships())


def proven(members: Sequence[Membership]) -> tuple[Tenure, ...]:
    """The tenures of every instrument that changed its ticker while it was a member, by instrument and day.

    A company's number alone proves nothing: its share classes have it in common. That one ticker left on the very day
    on which another came, and no third ticker of that number came or left with them, does.

    Before its first membership nobody tells who held a ticker, so a chain starts there. Leaving the index is not
    losing the ticker, so the last tenure lasts until another instrument is known to be a member under its ticker.

    The id is ``CIK:0001326801``; where a number has several share classes or chains, ``CIK:0001326801/META`` with the
    newest ticker.

    Args:
        members: memberships; those of one ticker do not overlap.
    """
    companies = defaultdict[str, list[Membership]](list)
    for member in members:
        if member.cik:
            companies[member.cik].append(member)
    found: list[Tenure] = []
    chains = {cik: _chains(company) for cik, company in companies.items()}
    renamed = {member for several in chains.values() for chain in several for member in chain}
    for cik, several in chains.items():
        alone = len(several) == 1 and not _overlap(companies[cik])
        for chain in several:
            last = chain[-1]
            instrument_id = f"CIK:{cik}" if alone else f"CIK:{cik}/{last.ticker}"
            others = (m for m in members if m.ticker == last.ticker and (m.cik != cik or m in renamed))
            found += _spans(chain, instrument_id, _taken(others, last))
    return tuple(sorted(found, key=lambda tenure: (tenure.instrument_id, tenure.first)))


def former(tickers: Sequence[str], known: Sequence[Tenure]) -> dict[str, tuple[Tenure, ...]]:
    """The earlier tenures, under other tickers, of the instrument that holds each ticker last, oldest first.

    Args:
        tickers: as the vendor writes them. One without such tenures is not in the result.
        known: whole instruments, each with all of its tenures. Of two that came to a ticker on the same day, the
            one that stands first here counts.
    """
    instruments = defaultdict[str, list[Tenure]](list)
    holders = defaultdict[str, list[Tenure]](list)
    for tenure in known:
        instruments[tenure.instrument_id].append(tenure)
        holders[tenure.ticker].append(tenure)
    found: dict[str, tuple[Tenure, ...]] = {}
    for ticker in tickers:
        if ticker not in holders:
            continue
        held = max(holders[ticker], key=lambda tenure: tenure.first)
        whole = sorted(instruments[held.instrument_id], key=lambda tenure: tenure.first)
        if held == whole[-1] and held.end is not None:
            continue  # nothing came after it but another holder of the ticker
        earlier = tuple(t for t in whole if t.first < held.first and t.ticker != ticker)
        if earlier:
            found[ticker] = earlier
    return found


def _chains(company: Iterable[Membership]) -> list[_Chain]:
    """The memberships of one number that continue each other, as chains with at least one change of ticker.

    Two that come to the same ticker are left out: as the newest one tells share classes apart, it would not here.
    """
    starting = defaultdict[date, list[Membership]](list)
    ending = defaultdict[date, list[Membership]](list)
    for member in company:
        starting[member.start].append(member)
        if member.end is not None:
            ending[member.end].append(member)
    after = {ending[day][0]: starting[day][0] for day in ending if len(ending[day]) == len(starting.get(day, ())) == 1}
    heads = sorted(after.keys() - set(after.values()), key=lambda member: member.start)
    chains = [list(_follow(head, after)) for head in heads]
    renamed = [chain for chain in chains if len({member.ticker for member in chain}) > 1]
    newest = Counter(chain[-1].ticker for chain in renamed)
    return [chain for chain in renamed if newest[chain[-1].ticker] == 1]


def _follow(head: Membership, after: dict[Membership, Membership]) -> Iterator[Membership]:
    member: Membership | None = head
    while member is not None:
        yield member
        member = after.get(member)


def _overlap(company: Iterable[Membership]) -> bool:
    """Whether two memberships were ever there at the same time."""
    ordered = sorted(company, key=lambda member: member.start)
    return any(one.end is None or other.start < one.end for one, other in pairwise(ordered))


def _taken(others: Iterable[Membership], last: Membership) -> date | None:
    """The day from which another is a member under the last one's ticker."""
    return min((m.start for m in others if last.end is not None and m.start >= last.end), default=None)


def _spans(chain: _Chain, instrument_id: str, end: date | None) -> Iterator[Tenure]:
    """The chain's tenures, where two memberships in a row under one ticker are one."""
    firsts = [next(same) for _, same in groupby(chain, key=lambda member: member.ticker)]
    ends = [*(member.start for member in firsts[1:]), end]
    for member, until in zip(firsts, ends, strict=True):
        yield Tenure(member.ticker, instrument_id, chain[-1].name, member.start, until)


def snapped(
    told: Sequence[Tenure], traded: Mapping[str, Sequence[date]], known: Sequence[Tenure]
) -> tuple[Tenure, ...]:
    """A vendor's tenures with each rename on the session on which the new ticker began to trade.

    A day off would lose the sessions between, for they would belong to neither ticker. The shipped list's day
    counts, if it tells of the same rename; else what is stored: the new ticker's first session after the old one's
    last, or its first at all, within :data:`NEAR` of the day told; else the day told.

    Args:
        told: an instrument's tenures, oldest first, each ending where the next begins.
        traded: the sessions that have a bar, ascending, of tickers in ``told``; around the renames is enough.
        known: tenures of the shipped list.
    """
    days = {
        (before.ticker, after.ticker, after.first)
        for before, after in pairwise(sorted(known, key=lambda tenure: (tenure.instrument_id, tenure.first)))
        if before.instrument_id == after.instrument_id
    }
    moved = list(told)
    for i, (before, after) in enumerate(pairwise(told)):
        shipped_day = (day for old, new, day in days if (old, new) == (before.ticker, after.ticker))
        day = next((day for day in shipped_day if abs(day - after.first) <= NEAR), None) or _began(
            traded.get(before.ticker, ()), traded.get(after.ticker, ()), after.first
        )
        end = moved[i + 1].end
        if moved[i].first < day and (end is None or day < end):
            moved[i] = replace(moved[i], end=day)
            moved[i + 1] = replace(moved[i + 1], first=day)
    return tuple(moved)


def _began(old: Sequence[date], new: Sequence[date], told: date) -> date:
    """The first session of ``new`` that follows the last one of ``old``, both near the day told; else that day."""
    ended = max((day for day in old if abs(day - told) <= NEAR), default=None)
    near = [day for day in new if abs(day - told) <= NEAR and (ended is None or day > ended)]
    # Without the old ticker's bars, a new one that traded all the time before is no sign of a beginning.
    if not near or (ended is None and any(told - 2 * NEAR <= day < told - NEAR for day in new)):
        return told
    return near[0]
