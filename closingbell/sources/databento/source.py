"""The source itself: ranges, what they cost, how far they reach; the vendor has nothing else that we ask for."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import partial
from typing import Final, NoReturn

from closingbell.bars import Bars, Roll
from closingbell.calendar import asset_class, calendar_for
from closingbell.errors import ClosingbellError, ConfigurationError, NotYetPublishedError, RunEndingError
from closingbell.quota import Gates
from closingbell.sources.base import Dividend, Identity, MarketDayPage, Page, Split
from closingbell.sources.databento.client import Client, Span
from closingbell.sources.databento.decode import decode
from closingbell.sources.databento.symbols import Symbol, schema, symbol
from closingbell.sources.redact import Redactor
from closingbell.sources.tally import Tally
from closingbell.zones import CHICAGO, NEW_YORK

_DAY: Final = timedelta(days=1)

MIDNIGHT: Final = time(0)

#: In Chicago: when a future's trading date begins, on the day before.
EVENING: Final = time(17)

Asked = tuple[str, str, date, date]


class DatabentoSource:
    """Bars from Databento; safe to use from several threads at once.

    A range is one call, which passes the gate and is never repeated here. Questions about prices and about what is
    there are free, bring no bars, and pass none.

    Args:
        api_key: the key.
        gates: what every call for bars passes, by its asset class; None: the source is only asked what things cost.
        gateway: where the vendor's historical API is served.
        dataset: the vendor's code for what all tickers are traded in; empty: by the form of the ticker.
        timeout: seconds for a connection, and that an answer may stay silent.

    Raises:
        ConfigurationError: the client is not installed, or the key cannot be one.
    """

    name = "databento"

    def __init__(
        self, api_key: str, gates: Gates | None, *, gateway: str, dataset: str = "", timeout: float = 30.0
    ) -> None:
        self._client = Client(api_key, gateway, timeout)
        self._redact = Redactor(api_key)
        self._gates = gates
        self._dataset = dataset
        self._tally = Tally()
        self._ends: dict[tuple[str, str], datetime] = {}
        self._rolls: dict[Asked, tuple[Roll, ...]] = {}
        self._lock = threading.Lock()
        self._aborted = threading.Event()

    def __repr__(self) -> str:
        return f"DatabentoSource({self._dataset or 'by ticker'!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a source holds a key: build it in the process that uses it")

    def abort(self) -> None:
        """Make no further call; the client cannot end one that is on its way, which is at most silent for a while."""
        self._aborted.set()

    def close(self) -> None:
        """There is nothing to close: every call of the client has a connection of its own."""

    @property
    def calls(self) -> dict[str, int]:
        """Calls for bars so far: ``range``."""
        return self._tally.calls

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds so far, summed over threads: ``waiting`` at the gate, in the ``api``, ``decoding``."""
        return self._tally.seconds

    def check(self, ticker: str, timeframe: str) -> Symbol:
        """A ticker in the vendor's terms, looked at before anything is asked.

        Raises:
            ConfigurationError: the vendor has no such asset class or timeframe.
        """
        schema(timeframe)
        return symbol(ticker, self._dataset)

    def available_to(self, ticker: str, timeframe: str) -> datetime:
        """Up to when, that instant not included, the vendor has bars for this key; asked once for each dataset.

        Raises:
            ClosingbellError: see :mod:`closingbell.sources.databento.errors`.
        """
        of = self.check(ticker, timeframe).dataset, schema(timeframe)
        with self._lock:
            if of not in self._ends:
                self._ends[of] = self._client.available(*of)[1]
            return self._ends[of]

    def last_whole(self, ticker: str, timeframe: str) -> date:
        """The last session of which the vendor has every bar.

        Raises:
            ClosingbellError: as :meth:`available_to`.
        """
        end = self.available_to(ticker, timeframe)
        if timeframe == "1d":  # of a day of UTC
            return end.date() - _DAY
        return calendar_for(asset_class(ticker)).last_closed(end)

    def price(self, ticker: str, first: date, last: date, timeframe: str) -> float:
        """What a range would cost, in US dollars, as the vendor says it; free.

        Raises:
            ClosingbellError: as :meth:`available_to`.
        """
        return self._client.price(self._span(ticker, first, last, timeframe))

    def range(self, ticker: str, first: date, last: date, timeframe: str = "1d") -> Iterator[Page]:
        """The bars of one ticker from session ``first`` to session ``last``, both included: one page, one call.

        A daily bar is one of a day of UTC, as the vendor has it, under the session of that date; its ``ts`` is the
        session's open, whatever the vendor stamps. An intraday bar keeps the vendor's instant.

        Raises:
            NotYetPublishedError: the vendor has not every bar of the last session yet.
            ClosingbellError: see :mod:`closingbell.sources.databento.errors`.
        """
        if last > self.last_whole(ticker, timeframe):
            raise NotYetPublishedError(
                "the vendor has not published this yet",
                value=f"{ticker} {timeframe} {last}: there are bars up to {self.available_to(ticker, timeframe)}",
                fix="The next run asks again",
            )
        span = self._span(ticker, first, last, timeframe)
        calendar = calendar_for(asset_class(ticker))
        store = self._bought(span)
        with self._tally.time("decoding"):
            try:
                found = decode(store, span, timeframe, calendar)
            except ClosingbellError as error:
                raise self._redact.clean(error) from None
        with self._lock:
            self._rolls[ticker, timeframe, first, last] = found.rolls
        yield Page(found.bars, len(found.bars))

    def fetch_range(self, ticker: str, first: date, last: date, timeframe: str = "1d") -> Bars:
        """The page of :meth:`range`."""
        return next(self.range(ticker, first, last, timeframe)).bars

    def take_rolls(self, ticker: str, first: date, last: date, timeframe: str) -> tuple[Roll, ...]:
        """The rolls of a range that came; told once, to whoever stores them with the bars."""
        with self._lock:
            return self._rolls.pop((ticker, timeframe, first, last), ())

    def market_day(
        self, session: date, asset_class: str = "stocks", wanted: Collection[str] = frozenset()
    ) -> MarketDayPage:
        """The vendor has no such call that is worth one: no plan has it.

        Raises:
            ConfigurationError: always.
        """
        raise _has_no("market days")

    def splits(self, since: date, until: date | None = None, ticker: str | None = None) -> list[Split]:
        """Raises ConfigurationError: the historical API has none."""
        raise _has_no("splits")

    def dividends(self, since: date, until: date | None = None, ticker: str | None = None) -> list[Dividend]:
        """Raises ConfigurationError: the historical API has none."""
        raise _has_no("dividends")

    def identity(self, ticker: str) -> Identity:
        """Raises ConfigurationError: the historical API does not tell."""
        raise _has_no("changes of ticker")

    def _bought(self, span: Span) -> object:
        if self._gates is None:
            raise ConfigurationError("this source was opened to ask for prices only")
        gate = self._gates.of(asset_class(span.symbol.ticker))
        with self._tally.time("waiting"):
            passing = gate.call()
            passing.__enter__()
        try:
            if self._aborted.is_set():
                raise RunEndingError("the run is being stopped", value=span)
            self._tally.call("range")
            with self._tally.time("api"):
                return self._client.bars(span)
        except ClosingbellError as error:
            if getattr(error, "status", None) == 429:
                gate.pause(getattr(error, "retry_after", None))
            raise
        finally:
            passing.__exit__(None, None, None)

    def _span(self, ticker: str, first: date, last: date, timeframe: str) -> Span:
        """From the first session's open up to where the one after the last may begin."""
        of = partial(Span, self.check(ticker, timeframe), schema(timeframe))
        if timeframe == "1d":
            return of(_at(first, MIDNIGHT), _at(last + _DAY, MIDNIGHT))
        if asset_class(ticker) == "futures":  # a trading date ends when the next one can begin, whatever its close
            return of(_at(first - _DAY, EVENING, CHICAGO), _at(last, EVENING, CHICAGO))
        return of(_at(first, MIDNIGHT, NEW_YORK), _at(last + _DAY, MIDNIGHT, NEW_YORK))


def _at(day: date, clock: time, zone: tzinfo = UTC) -> datetime:
    """The instant at which a zone's clocks show that, in UTC."""
    return datetime.combine(day, clock, zone).astimezone(UTC)


def _has_no(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"Databento is not asked for {what}", value="--source databento", fix="Leave it out: Polygon has them."
    )
