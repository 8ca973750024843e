"""What a tester scripts to happen in the market, as JSON: splits, dividends, renames, instruments."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Annotated

import msgspec

from infra.market.dividends import DECLARED_BEFORE, PAID_AFTER, RECORDED_AFTER
from infra.market.edits import Edited, Entry
from infra.market.identity import cik_of, company_of, figi_of
from infra.market.instruments import BEGINNING, END, Instrument, Tenure
from infra.market.source import Dividend, Listed, Split

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Positive = Annotated[float, msgspec.Meta(gt=0)]

#: Sets scripted rows apart from generated ones of the same ticker and day: they have other identifiers.
_COPY = 10


class Shown(msgspec.Struct, forbid_unknown_fields=True):
    """What the list says of a split before it is corrected; what is left out is as in truth."""

    day: date | None = None
    split_from: Positive | None = None
    split_to: Positive | None = None


class ASplit(msgspec.Struct, tag="split", forbid_unknown_fields=True):
    """``split_to`` shares replace ``split_from`` at the open of ``day``.

    Attributes:
        moves: whether the raw bars are in the new scale from that day on.
        listed: whether the list ever shows it.
        announced: when the list begins to show it; left out, two weeks ahead.
        first: what the list says of it until ``corrected``.
        retracted: when it disappears from the list.
        copies: how many rows it has there.
    """

    ticker: str
    day: date
    split_from: Positive
    split_to: Positive
    moves: bool = True
    listed: bool = True
    announced: Instant | None = None
    first: Shown | None = None
    corrected: Instant | None = None
    retracted: Instant | None = None
    copies: Annotated[int, msgspec.Meta(ge=1)] = 1

    def __post_init__(self) -> None:
        if (self.first is None) != (self.corrected is None):
            raise ValueError("a correction needs both: what the list says at first, and when it is corrected")
        order = [at for at in (self.announced, self.corrected, self.retracted) if at]
        if order != sorted(order):
            raise ValueError("a split is announced, then corrected, then retracted")

    def carry_out(self, market: Edited) -> None:
        """Put it in the market."""
        true = Split(str(self.day), self.ticker, self.split_from, self.split_to)
        if self.moves:
            market.move(true)
        for copy in range(_COPY, _COPY + self.copies if self.listed else _COPY):
            if self.first is not None:
                wrong = Split(
                    str(self.first.day or self.day),
                    self.ticker,
                    self.first.split_from or self.split_from,
                    self.first.split_to or self.split_to,
                    copy,
                )
                market.add_split(Entry(wrong, self.announced, self.corrected))
            market.add_split(Entry(replace(true, copy=copy), self.corrected or self.announced, self.retracted))


class ADividend(msgspec.Struct, tag="dividend", forbid_unknown_fields=True):
    """A cash dividend; prices do not react to it. What is left out of its dates is usual.

    Attributes:
        announced, retracted: when the list begins to show it (left out, from its declaration), and stops.
    """

    ticker: str
    ex_date: date
    cash_amount: Positive
    currency: str = "USD"
    dividend_type: str = "CD"
    frequency: int = 4
    declaration_date: date | None = None
    record_date: date | None = None
    pay_date: date | None = None
    announced: Instant | None = None
    retracted: Instant | None = None

    def carry_out(self, market: Edited) -> None:
        """Put it in the market."""
        fact = Dividend(
            str(self.ex_date),
            self.ticker,
            self.cash_amount,
            str(self.declaration_date or self.ex_date - timedelta(days=DECLARED_BEFORE)),
            str(self.record_date or self.ex_date + timedelta(days=RECORDED_AFTER)),
            str(self.pay_date or self.ex_date + timedelta(days=PAID_AFTER)),
            self.dividend_type,
            self.currency,
            self.frequency,
            _COPY,
        )
        market.add_dividend(Entry(fact, self.announced, self.retracted))


class AnInstrument(msgspec.Struct, tag="instrument", forbid_unknown_fields=True):
    """A security and its tickers: (ticker, first day, first day no longer), oldest first.

    Attributes:
        tenures: None is from the beginning, or for good.
        figi, cik, name: as the reference data give them; left out, made up from the last ticker.
        series: the ticker whose generated (or replayed) bars it has; left out, a series of its own without splits.
        told: dates that the vendor's ticker events give for a change in place of the true one, by ticker.
    """

    tenures: list[tuple[str, date | None, date | None]]
    figi: str | None = None
    cik: str | None = None
    name: str | None = None
    series: str | None = None
    told: dict[str, date] = {}

    def carry_out(self, market: Edited) -> None:
        """Put it in the market. Raises: ValueError: its tenures cannot be."""
        if not self.tenures:
            raise ValueError("an instrument needs a tenure")
        last = self.tenures[-1][0]
        figi = self.figi or figi_of(last)
        tenures = [
            Tenure(
                ticker,
                str(first) if first else BEGINNING,
                str(end) if end else END,
                str(self.told[ticker]) if ticker in self.told else None,
            )
            for ticker, first, end in self.tenures
        ]
        series = self.series or market.instruments.series_of(figi, [tenure.ticker for tenure in tenures])
        name = self.name or company_of(Listed(last, "stocks"))
        market.put(Instrument(figi, self.cik or cik_of(last), name, series, tuple(tenures)))


class ARename(msgspec.Struct, tag="rename", forbid_unknown_fields=True):
    """Whoever trades under ``old`` trades under ``new`` from ``day`` on, with the same bars and the same names.

    Attributes:
        told: the date that the vendor's ticker events give, if not that one.
    """

    old: str
    new: str
    day: date
    told: date | None = None

    def carry_out(self, market: Edited) -> None:
        """Put it in the market. Raises: ValueError: nobody holds ``old`` by then, or another holds ``new``."""
        day, held = str(self.day), market.instruments
        now = Tenure(self.new, day, END, str(self.told) if self.told else None)
        if not held.scripted(self.old):
            found = market.find(self.old)
            if found is None:
                raise ValueError(f"nobody trades under {self.old!r}")
            tenures = (Tenure(self.old, end=day), now)
            market.put(Instrument(figi_of(self.old), cik_of(self.old), company_of(found), self.old, tenures))
            return
        one = held.with_figi(held.holder(self.old, day))
        if one is None:
            raise ValueError(f"nobody trades under {self.old!r} on {day}")
        kept = tuple(replace(t, end=min(t.end, day)) for t in one.tenures if t.first < day)
        market.put(replace(one, tenures=(*kept, now)))


Script = ASplit | ADividend | AnInstrument | ARename
