"""What a vendor says before a call for bars is made: how far it reaches, and what it charges."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from typing import Protocol, runtime_checkable

from closingbell.bars import Roll
from closingbell.errors import ConfigurationError
from closingbell.plan import Plan, TickerRange
from closingbell.request import Request


@runtime_checkable
class Seller(Protocol):
    """A vendor that charges by what it sends, and says how much and how far beforehand; such questions are free."""

    def check(self, ticker: str, timeframe: str) -> object:
        """Raises ConfigurationError for a ticker or a timeframe that the vendor has not."""

    def last_whole(self, ticker: str, timeframe: str) -> date:
        """The last session of which the vendor has every bar by now."""

    def price(self, ticker: str, first: date, last: date, timeframe: str) -> float:
        """What a range costs, in US dollars."""


@runtime_checkable
class Batched(Protocol):
    """A vendor whose ranges are long, and are committed in batches of bars, with the rolls that came with them."""

    def take_rolls(self, ticker: str, first: date, last: date, timeframe: str) -> tuple[Roll, ...]:
        """The rolls of a range that came; told once."""


def reaching(request: Request, source: object) -> Request:
    """The request, its end moved back to where the vendor's bars end, and said.

    Raises:
        ConfigurationError: the vendor has no such bars, or none of these dates yet.
    """
    if not isinstance(source, Seller) or not request.tickers:
        return request
    asked = [(ticker, timeframe) for ticker in request.tickers for timeframe in request.timeframes]
    for each in asked:
        source.check(*each)
    last = max((source.last_whole(*each) for each in asked), default=request.end)
    if request.start > last:
        raise ConfigurationError(
            "the vendor has none of these bars yet",
            value=f"{request.start}..{request.end}",
            fix=f"Its last whole session is {last}: start on or before it.",
        )
    if request.end <= last:
        return request
    note = f"the vendor has bars up to {last} by now: asking up to then"
    return replace(request, end=last, notes=(*request.notes, note))


def priced(plan: Plan, source: object, most: float | None = None) -> Plan:
    """The plan with what the vendor will charge for it; as it is for one that charges by the month, or without calls.

    Args:
        plan: what is to be bought.
        source: the vendor.
        most: US dollars that it may cost; None: any.

    Raises:
        ConfigurationError: it costs more.
        ClosingbellError: the vendor does not say.
    """
    if not isinstance(source, Seller) or not plan.calls:
        return plan
    usd = sum(_prices(plan, source))
    if most is not None and usd > most:
        raise ConfigurationError(
            "the run costs more than it may",
            value=f"{usd:.2f} US dollars, and DATABENTO_MAX_USD is {most:g}",
            fix="Ask for fewer bars, or raise it.",
        )
    return replace(plan, usd=usd)


def _prices(plan: Plan, source: Seller) -> Iterable[float]:
    for call in plan.calls:
        if isinstance(call, TickerRange):
            yield source.price(call.ticker, call.sessions[0], call.sessions[-1], call.timeframe)
