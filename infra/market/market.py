"""The market that is served: its bars, its clock, and what a plan may see of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from closingbell.bars import Bars
from closingbell.clock import Clock
from infra.market.config import Config
from infra.market.edits import Edited
from infra.market.generated import Generated
from infra.market.hours import hours
from infra.market.listing import asset_of
from infra.market.query import NOT_ENTITLED, NOT_YET, WRONG_TIMEFRAME, RefusedError
from infra.market.replay import Replay


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, read: its path's parts and parameters (a cursor unfolded), and where it was sent."""

    path: str
    params: dict[str, str]
    base_url: str


class Market:
    """A source of bars behind a plan's rules.

    Raises:
        ConfigurationError: the replay file cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.source = Edited(Replay(config.replay) if config.replay else Generated(config.size, config.seed))
        self.clock = Clock(config.now)

    def set_now(self, now: datetime | None) -> None:
        """Stand still at another instant, or follow the machine's clock."""
        self.clock = Clock(now)

    def warm(self) -> None:
        """Build what is built once, so that the first call is as quick as the next."""
        self.source.market_day("stocks", self.published("stocks"))
        self.source.splits()

    def today(self, asset: str) -> np.datetime64:
        """The date where the asset trades."""
        return hours(asset).today(self.clock.now())

    def published(self, asset: str) -> np.datetime64:
        """The last session whose bars are out."""
        return hours(asset).last_published(self.clock.now(), self.config.publish_delay)

    def earliest(self, asset: str) -> np.datetime64:
        """The first date that the plan includes."""
        if self.config.history_years is None:
            return np.datetime64("1970-01-01")
        return self.today(asset) - np.timedelta64(round(self.config.history_years * 365.25), "D")

    def epoch(self) -> tuple[object, ...]:
        """What every answer depends on besides the request; equal epochs, equal answers."""
        assets = ("stocks", "crypto", "fx")
        return (self.source.version, *(f(asset) for asset in assets for f in (self.today, self.published)))

    def check_entitled(self, asset: str) -> None:
        """Raises: RefusedError: 403, the plan does not include the asset class."""
        if asset not in self.config.entitled:
            raise RefusedError(403, NOT_ENTITLED)

    def check_day(self, asset: str, day: np.datetime64) -> None:
        """Raises: RefusedError: 403, the day is too old for the plan, in the future, or not yet published."""
        today = self.today(asset)
        if day > today or day < self.earliest(asset):
            raise RefusedError(403, WRONG_TIMEFRAME)
        if day > self.published(asset) and hours(asset).position(day) is not None:
            raise RefusedError(403, NOT_YET)

    def clip(self, asset: str, first: np.datetime64, last: np.datetime64) -> tuple[np.datetime64, np.datetime64]:
        """The part of a range of days that is published and within the plan; it may be empty (first > last).

        Raises:
            RefusedError: 403, no part of it is, or a part is not and such ranges are refused whole.
        """
        today, published, earliest = self.today(asset), self.published(asset), self.earliest(asset)
        refuse = self.config.ranges == "refuse"
        if first > today or last < earliest or (refuse and first < earliest):
            raise RefusedError(403, WRONG_TIMEFRAME)
        unpublished = hours(asset).between(max(first, published + 1), last)
        if unpublished.stop > unpublished.start and (refuse or first > published):
            raise RefusedError(403, NOT_YET if min(last, today) > published else WRONG_TIMEFRAME)
        return max(first, earliest), min(last, published)

    def adjusted(self, bars: Bars) -> Bars:
        """The bars in the scale of today: earlier prices divided, and volumes multiplied, by each later split."""
        tickers = set(bars.tickers)
        if not len(bars) or not tickers:
            return bars
        known = self.source.splits(bars.tickers[0] if len(tickers) == 1 else None)
        first, today = str(bars.rows["session"].min()), str(self.today("stocks"))
        later = {
            (s.ticker, s.execution_date): s.split_to / s.split_from
            for s in known
            if first < s.execution_date <= today and s.ticker in tickers
        }
        if not later:
            return bars
        rows = bars.rows.copy()
        position = {ticker: i for i, ticker in enumerate(bars.tickers)}
        factor = np.ones(len(rows))
        if len(tickers) == 1:
            for (_, day), ratio in later.items():
                factor[rows["session"] < np.datetime64(day)] *= ratio
        else:
            scale = np.ones(len(bars.tickers))
            for (ticker, _), ratio in later.items():  # one session: every split here is later than it
                scale[position[ticker]] *= ratio
            factor = scale[rows["ticker"]]
        moved = factor != 1.0
        for name in ("open", "high", "low", "close", "vwap"):
            price = rows[name] / factor
            rows[name] = np.where(moved, np.where(price < 1.0, np.round(price, 6), np.round(price, 4)), rows[name])
        rows["volume"] = np.where(moved, np.round(rows["volume"] * factor, 4), rows["volume"])
        return Bars(bars.tickers, rows, bars.timeframe)

    def asset(self, ticker: str) -> str | None:
        """The ticker's asset class; what a replay lists without a known form counts as a stock."""
        return asset_of(ticker) or ("stocks" if self.config.replay and self.source.find(ticker) else None)
