"""The source itself: five kinds of call, through the vendor's own client."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from types import MappingProxyType
from typing import Final, NoReturn, TypeVar, cast
from urllib.parse import urlsplit

import numpy as np
from polygon import RESTClient

from closingbell.bars import Bars
from closingbell.calendar import AssetClass
from closingbell.errors import ClosingbellError, ConfigurationError
from closingbell.quota import Gates
from closingbell.sources.base import Dividend, Identity, MarketDayPage, Page, Split
from closingbell.sources.polygon import answers
from closingbell.sources.polygon.cursor import Cursors
from closingbell.sources.polygon.question import Listing, check_dates, check_ticker
from closingbell.sources.polygon.transport import Answer, Limits, Transport
from closingbell.sources.redact import Redactor
from closingbell.sources.tally import Tally
from closingbell.turn import TURN

#: Our timeframes as the vendor's multiplier and timespan.
_TIMESPANS: Final = {
    "1d": (1, "day"),
    "1h": (1, "hour"),
    "30m": (30, "minute"),
    "15m": (15, "minute"),
    "5m": (5, "minute"),
    "1m": (1, "minute"),
}

#: The vendor's maximum of base bars a page; its default is a tenth of it.
PAGE: Final = 50_000

#: The vendor's maximum of splits or dividends a page; its default is 10.
LISTING_PAGE: Final = 1_000

_MARKETS: Final = {"stocks": ("us", "stocks"), "crypto": ("global", "crypto"), "fx": ("global", "fx")}

Fact = TypeVar("Fact")


class PolygonSource:
    """Bars and facts about shares from Polygon.io (Massive), raw: prices are never adjusted.

    Every page of every call is one HTTP attempt, which passes a gate and is never repeated here. An instance may be
    used from ``pool_size`` threads at once, over connections that stay open.

    Args:
        api_key: sent in the Authorization header, and nowhere else.
        base_url: where the REST API is served, ``http`` or ``https``, without a query.
        gates: what every attempt passes, by its asset class; calls for facts are the stocks'. After a 429 the gate
            is told to pause for as long as Retry-After says, if it does.
        connect_timeout: seconds for a connection.
        read_timeout: seconds that an answer may stay silent.
        call_timeout: seconds that an attempt may take in all, from the gate's permission to the last byte.
        call_timeouts: the same for asset classes that have one of their own.
        max_bytes: of a body, before and after unzipping; the largest real page has about 5 MB, and rows made to take
            as much memory as they can take 15 times their bytes.
        pool_size: connections kept open.

    Raises:
        ConfigurationError: the key or the address cannot be one.
    """

    name = "polygon"

    def __init__(
        self,
        api_key: str,
        base_url: str,
        gates: Gates,
        *,
        connect_timeout: float = 10.0,
        read_timeout: float = 30.0,
        call_timeout: float = 120.0,
        call_timeouts: Mapping[str, float] = MappingProxyType({}),
        max_bytes: int = 16 * 1024 * 1024,
        pool_size: int = 8,
    ) -> None:
        self.base_url = _checked_url(base_url)
        if not re.fullmatch(r"[!-~]+", api_key):
            raise ConfigurationError(
                "POLYGON_API_KEY cannot be a key", fix="Set it to one word: no spaces, line ends or accents"
            )
        limits = Limits(connect_timeout, read_timeout, call_timeout, max_bytes)
        self._tally = Tally()
        self._redact = Redactor(api_key)
        own = {name: replace(limits, call=seconds) for name, seconds in call_timeouts.items()}
        self._transport = Transport(api_key, gates, limits, pool_size, self._redact, self._tally, own)
        # The transport alone has the key: what the client does not know, it cannot put into a text or a URL.
        self._client = RESTClient("held by the transport", base=self.base_url, retries=0, pagination=False)
        # The client keeps a second client for experimental calls; neither may get round the gate.
        self._client.client = self._client.vx.client = self._transport

    def __repr__(self) -> str:
        return f"PolygonSource({self.base_url!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a source holds a key and connections: build it in the process that uses it")

    def abort(self) -> None:
        """End the calls on their way at once, from another thread: they and all later ones are a RunEndingError."""
        self._transport.abort()

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.close()

    @property
    def calls(self) -> dict[str, int]:
        """HTTP attempts so far by kind: ``range``, ``market_day``, ``splits``, ``dividends``, ``events``."""
        return self._tally.calls

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds so far, summed over threads: ``waiting`` at the gate, in the ``api``, ``decoding`` and checking."""
        return self._tally.seconds

    def range(self, ticker: str, first: date, last: date, timeframe: str = "1d") -> Iterator[Page]:
        """The bars of one ticker from ``first`` to ``last``, both included, page by page; each page is one call.

        A daily bar's session is the date of the vendor's stamp (00:00 New York for stocks, else 00:00 UTC) and its
        ``ts`` that session's open. An intraday bar keeps the vendor's instant.

        Args:
            ticker: as the vendor writes it.
            first: the first session, a date in New York for stocks, else in UTC.
            last: the last session.
            timeframe: one of :data:`~closingbell.bars.TIMEFRAMES`.

        Raises:
            ClosingbellError: see :mod:`closingbell.sources.polygon.errors` for what the vendor refuses, and
                :mod:`closingbell.sources.polygon.checks` for what is refused of an answer. Pages that came before
                the error are not to be taken for the whole.
        """
        multiplier, timespan = _TIMESPANS[timeframe]
        check_dates(first, last)
        check_ticker(ticker)
        subject = f"{ticker} {timeframe} {first}..{last}"
        cursors = Cursors(f"/v2/aggs/ticker/{ticker}/range/{multiplier}/{timespan}/", subject)
        answer = self._client.list_aggs(
            ticker, multiplier, timespan, first, last, adjusted=False, sort="asc", limit=PAGE, raw=True
        )
        previous: np.datetime64 | None = None
        while True:
            with self._reading():
                bars, next_url = answers.bars_of_range(answer.data, ticker, first, last, timeframe, previous, subject)
                target = cursors.follow(next_url, len(bars))
            yield Page(bars, len(bars), target)
            if target is None:
                return
            if len(bars):
                previous = bars.rows["ts"][-1]
            answer = self._page(target)

    def fetch_range(self, ticker: str, first: date, last: date, timeframe: str = "1d") -> Bars:
        """All pages of :meth:`range` in one block: all of them, or the error of the one that failed."""
        return Bars.concat(page.bars for page in self.range(ticker, first, last, timeframe))

    def market_day(
        self, session: date, asset_class: str = "stocks", wanted: Collection[str] = frozenset()
    ) -> MarketDayPage:
        """The daily bars of ``wanted`` tickers on one session, in one call.

        The vendor stamps these bars with the close; a bar whose stamp is on the date asked is of that session. One
        whose stamp is on another date keeps that date, so that the rules see a bar that was not asked.

        Args:
            session: a date in New York for stocks, else in UTC.
            asset_class: ``stocks``, ``crypto`` or ``fx``.
            wanted: tickers as the vendor writes them; others are counted and dropped.

        Raises:
            ClosingbellError: as for :meth:`range`.
        """
        check_dates(session, session)
        locale, market = _MARKETS[asset_class]
        subject = f"market day {session} of {asset_class}"
        answer = self._client.get_grouped_daily_aggs(
            session, adjusted=False, locale=locale, market_type=market, include_otc=False, raw=True
        )
        with self._reading():
            kind = cast(AssetClass, asset_class)
            return answers.market_day(answer.data, session, kind, frozenset(wanted), subject)

    def splits(self, since: date, until: date | None = None, ticker: str | None = None) -> list[Split]:
        """The splits executed from ``since`` to ``until``, both included, or announced for later if ``until`` is None.

        Of several entries for one ticker and date (the vendor has such) the last one counts. One call for each
        1,000 splits.

        Raises:
            ClosingbellError: as for :meth:`range`.
        """
        listing = Listing("splits", since, until, ticker)
        answer = self._client.list_splits(
            ticker=ticker,
            execution_date_gte=since.isoformat(),
            execution_date_lte=until and until.isoformat(),
            limit=LISTING_PAGE,
            sort="execution_date",
            order="asc",
            raw=True,
        )
        return self._listed(listing, answer, answers.splits, lambda split: (split.ticker, split.execution_date))

    def dividends(self, since: date, until: date | None = None, ticker: str | None = None) -> list[Dividend]:
        """The cash dividends with an ex-date from ``since`` to ``until``, both included, or announced for later.

        Entries that are equal in everything are one; others of the same ticker and date are several dividends, as a
        regular and a special one are. One call for each 1,000 entries.

        Raises:
            ClosingbellError: as for :meth:`range`.
        """
        listing = Listing("dividends", since, until, ticker)
        answer = self._client.list_dividends(
            ticker=ticker,
            ex_dividend_date_gte=since.isoformat(),
            ex_dividend_date_lte=until and until.isoformat(),
            limit=LISTING_PAGE,
            sort="ex_dividend_date",
            order="asc",
            raw=True,
        )
        return self._listed(listing, answer, answers.dividends, lambda dividend: dividend)

    def identity(self, ticker: str) -> Identity:
        """Who trades under ``ticker`` now, or did last, with every ticker it has had; one call.

        The vendor calls this answer experimental, and its days are not exact: it has META from Saturday, 2022-06-11,
        where the first session under that name was the Thursday before.

        Raises:
            UnknownTickerError: the vendor knows of nobody under it.
            ClosingbellError: as for :meth:`range`. An instrument with neither FIGI nor CIK is a malformed answer.
        """
        check_ticker(ticker)
        answer = self._client.get_ticker_events(ticker, types="ticker_change", raw=True)
        with self._reading():
            return answers.identity(answer.data, ticker, f"events of {ticker}")

    def _listed(
        self,
        listing: Listing,
        answer: Answer,
        read: Callable[[bytes, Listing], tuple[list[Fact], str | None]],
        key: Callable[[Fact], Hashable],
    ) -> list[Fact]:
        """All pages of a list of facts; of those with the same key the last one counts, at the first one's place."""
        cursors = Cursors(f"/v3/reference/{listing.facts}", str(listing))
        found: dict[Hashable, Fact] = {}
        while True:
            with self._reading():
                known = len(found)
                page, next_url = read(answer.data, listing)
                found.update((key(fact), fact) for fact in page)
                target = cursors.follow(next_url, len(found) - known)
            if target is None:
                return list(found.values())
            answer = self._page(target)

    def _page(self, target: str) -> Answer:
        answer: Answer = self._client._get(path=target, params={}, raw=True)
        return answer

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Time the decoding; an error in it has no key in its text, though an answer may have quoted it."""
        with TURN, self._tally.time("decoding"):
            try:
                yield
            except ClosingbellError as error:
                self._redact.clean(error)
                raise


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username or parts.password or parts.query or parts.fragment or not url.isascii():
        raise ConfigurationError(
            "POLYGON_BASE_URL is not an address",
            fix="Set it to http(s)://host[:port], without a key or a question mark",
        )
    return url.rstrip("/")
