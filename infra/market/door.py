"""A tester's hand on a running market: its log, its clock, its faults, and what is scripted to happen in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

Day = date | str
Instant = datetime | str


class SideDoor:
    """The control door under ``/_market`` of the market at ``url``.

    Days are dates or ``YYYY-MM-DD``; instants are aware datetimes or ISO 8601 with the offset from UTC, on the
    market's clock. What a method sets up lasts until :meth:`clear_faults`.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def calls(self, since: float = 0.0) -> list[dict[str, Any]]:
        """The calls received after ``since`` (epoch seconds), in order: time, iso, method, path, status, rows,
        seconds, fault."""
        rows: list[dict[str, Any]] = self._control("GET", f"calls?since={since!r}")
        return rows

    def clear_calls(self) -> None:
        """Forget the calls so far. The quota they used stays used."""
        self._control("DELETE", "calls")

    def fault(self, action: str, **rule: Any) -> None:
        """Put a fault in force; the arguments are those of :class:`infra.market.faults.Rule`.

        Raises:
            ValueError: it is not a fault.
        """
        self._control("POST", "faults", {"action": action, **rule})

    def faults(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Put many faults in force at once, such as the corrections of a night.

        Raises:
            ValueError: one is not a fault; those before it are in force.
        """
        self._control("POST", "faults", list(rules))

    def clear_faults(self) -> None:
        """Drop every fault, and undo every correction, split, dividend, rename and instrument."""
        self._control("DELETE", "faults")

    def split(
        self,
        ticker: str,
        day: Day,
        split_from: float,
        split_to: float,
        *,
        moves: bool = True,
        listed: bool = True,
        announced: Instant | None = None,
        first: Mapping[str, Any] | None = None,
        corrected: Instant | None = None,
        retracted: Instant | None = None,
        copies: int = 1,
    ) -> None:
        """Let ``split_to`` shares replace ``split_from`` at the open of ``day``.

        Args:
            ticker, day, split_from, split_to: the truth.
            moves: from that day on the raw prices are divided and the volumes multiplied by to / from; without,
                it is but an entry in the list, a wrong one.
            listed: whether the list ever shows it.
            announced: when the list begins to show it; left out, two weeks ahead.
            first: what the list says until ``corrected``: other ``day``, ``split_from`` or ``split_to``.
            corrected: when the list begins to tell the truth.
            retracted: when it disappears from the list.
            copies: how many rows it has in the list, each with an id of its own.

        Raises:
            ValueError: that cannot be.
        """
        self._script("split", ticker=ticker, day=day, split_from=split_from, split_to=split_to, moves=moves,
                     listed=listed, announced=announced, first=first, corrected=corrected, retracted=retracted,
                     copies=copies)  # fmt: skip

    def dividend(
        self,
        ticker: str,
        ex_date: Day,
        cash_amount: float,
        *,
        currency: str = "USD",
        dividend_type: str = "CD",
        frequency: int = 4,
        declaration_date: Day | None = None,
        record_date: Day | None = None,
        pay_date: Day | None = None,
        announced: Instant | None = None,
        retracted: Instant | None = None,
    ) -> None:
        """List one more dividend, from its declaration on (30 days before ``ex_date``) or from ``announced`` on.

        Prices do not react to it, and ``adjusted=true`` does not know it.

        Raises:
            ValueError: that cannot be.
        """
        self._script("dividend", ticker=ticker, ex_date=ex_date, cash_amount=cash_amount, currency=currency,
                     dividend_type=dividend_type, frequency=frequency, declaration_date=declaration_date,
                     record_date=record_date, pay_date=pay_date, announced=announced,
                     retracted=retracted)  # fmt: skip

    def instrument(
        self,
        tenures: Sequence[tuple[str, Day | None, Day | None]],
        *,
        figi: str | None = None,
        cik: str | None = None,
        name: str | None = None,
        series: str | None = None,
        told: Mapping[str, Day] | None = None,
    ) -> None:
        """Say under which tickers one security trades, and when. Nobody else has these tickers any more.

        Args:
            tenures: (ticker, first day, first day no longer), oldest first; None is from the beginning, or for
                good.
            figi, cik, name: as the reference data give them; left out, made up from the last ticker. An
                instrument of the same FIGI is replaced.
            series: the ticker whose bars, splits and dividends it has; left out, a series of its own that trades
                on every session and splits only by :meth:`split`.
            told: the dates that the vendor's events give for changes, by ticker, where they are not the true ones.

        Raises:
            ValueError: that cannot be: it would have two tickers at once, or a ticker two holders.
        """
        self._script("instrument", tenures=[[*map(_text, tenure)] for tenure in tenures], figi=figi, cik=cik,
                     name=name, series=series,
                     told={ticker: _text(day) for ticker, day in (told or {}).items()})  # fmt: skip

    def rename(self, old: str, new: str, day: Day, *, told: Day | None = None) -> None:
        """Let whoever trades under ``old`` trade under ``new`` from ``day`` on, with the same bars and identity.

        Args:
            old, new: the tickers. Nobody trades under ``new`` before, unless :meth:`instrument` says so.
            day: the first under ``new``.
            told: the date that the vendor's events give, if it is not that one.

        Raises:
            ValueError: nobody trades under ``old`` on that day, or another holds ``new``.
        """
        self._script("rename", old=old, new=new, day=day, told=told)

    def set_now(self, now: datetime | None) -> None:
        """Stand still at another aware instant, or follow the machine's clock."""
        self._control("PUT", "clock", {"now": now.isoformat() if now else None})

    def health(self) -> dict[str, Any]:
        """What it is serving, its clock, how many calls it has logged, its settings."""
        body: dict[str, Any] = self._control("GET", "health")
        return body

    def _script(self, kind: str, **said: Any) -> None:
        given = {name: _text(value) for name, value in said.items() if value is not None}
        if isinstance(first := given.get("first"), Mapping):
            given["first"] = {name: _text(value) for name, value in first.items()}
        self._control("POST", "script", {"type": kind, **given})

    def _control(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/_market/{path}", data, method=method)  # noqa: S310  # loopback http
        try:
            with urlopen(request, timeout=30) as response:  # noqa: S310
                return json.load(response)
        except HTTPError as error:
            raise ValueError(json.load(error).get("error", str(error))) from None


def _text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value
