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
from infra.market.hashing import Floats
from infra.market.hours import hours
from infra.market.listing import asset_of
from infra.market.query import NOT_ENTITLED, NOT_YET, WRONG_TIMEFRAME, RefusedError
from infra.market.replay import Replay
from infra.market.scale import ratios
from infra.market.skew import PLAIN, Skew


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, read: its path's parts and parameters (a cursor unfolded), where it was sent, what skews it."""

    path: str
    params: dict[str, str]
    base_url: str
    skew: Skew = PLAIN


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
        self.source.splits(None, self.clock.now())

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
        dates = (f(asset) for asset in ("stocks", "crypto", "fx") for f in (self.today, self.published))
        return (*self.source.state(self.clock.now()), *dates)

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

    def ratios(self, bars: Bars) -> Floats:
        """What each row's price is divided by in the scale of today, shape (n,).

        That is the product of its later splits up to today, as listed by now; two for one day count once.
        """
        if not len(bars):
            return np.ones(len(bars))
        now, today = self.clock.now(), str(self.today("stocks"))
        names = self.source.instruments.related(bars.tickers[0]) if len(bars.tickers) == 1 else [None]
        listed = {
            (split.ticker, split.execution_date): split
            for name in names
            for split in self.source.splits(name, now)
            if split.execution_date <= today
        }
        return ratios(bars, listed.values(), self.source.instruments, later=True)

    def asset(self, ticker: str) -> str | None:
        """The ticker's asset class; what a replay lists without a known form counts as a stock."""
        return asset_of(ticker) or ("stocks" if self.config.replay and self.source.find(ticker) else None)
