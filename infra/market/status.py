"""Whether the market is open, and the holidays and half days ahead."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from infra.market import wire
from infra.market.hours import NEW_YORK, exchange, hours
from infra.market.market import Ask, Market
from infra.market.wire import Payload


def upcoming(market: Market, ask: Ask) -> Payload:
    """``/v1/marketstatus/upcoming``: holidays and half days of the next year, as a bare array."""
    today = market.today("stocks")
    names = exchange().regular_holidays.holidays(str(today), str(today + 370), return_name=True)
    rows: list[dict[str, str]] = []
    for day in np.arange(today, today + 370):
        if not np.is_busday(day):
            continue
        at = hours("stocks").position(day)
        if at is None:
            row = {"name": str(names.get(str(day), "Market holiday")), "date": str(day), "status": "closed"}
        elif hours("stocks").closes[at] < hours("stocks").market_stamps[at]:
            opens, closes = (_iso(int(times[at])) for times in (hours("stocks").opens, hours("stocks").closes))
            row = {"name": "Early close", "date": str(day), "status": "early-close", "open": opens, "close": closes}
        else:
            continue
        rows += [{"exchange": place, **row} for place in ("NYSE", "NASDAQ")]
    return Payload(raw=wire.quote(rows).encode(), rows=len(rows))


def now(market: Market, ask: Ask) -> Payload:
    """``/v1/marketstatus/now``."""
    instant = market.clock.now()
    at = hours("stocks").position(market.today("stocks"))
    minute = instant.astimezone(NEW_YORK).hour * 60 + instant.astimezone(NEW_YORK).minute
    trading = at is not None and hours("stocks").opens[at] <= instant.timestamp() * 1000 < hours("stocks").closes[at]
    early = at is not None and 240 <= minute < 570
    after = at is not None and not trading and 570 <= minute < 1200
    state = "open" if trading else "extended-hours" if early or after else "closed"
    weekday = instant.weekday() < 5
    body = {
        "afterHours": after,
        "currencies": {"crypto": "open", "fx": "open" if weekday else "closed"},
        "earlyHours": early,
        "exchanges": dict.fromkeys(("nasdaq", "nyse", "otc"), state),
        "market": state,
        "serverTime": instant.astimezone(NEW_YORK).isoformat(timespec="seconds"),
    }
    return Payload(raw=wire.quote(body).encode(), rows=1)


def _iso(instant_ms: int) -> str:
    return datetime.fromtimestamp(instant_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
