"""Candlesticks of one ticker, with volume, events and splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from closingbell.calendar import asset_class
from closingbell.errors import ConfigurationError
from closingbell.intraday import is_intraday
from closingbell.pictures.charts import figure, finished, short
from closingbell.pictures.png import Png
from closingbell.pictures.states import CODES, STATES
from closingbell.store import pictured
from closingbell.store.origin import FLAT, MADE
from closingbell.text import visible
from closingbell.zones import CHICAGO, NEW_YORK, in_utc

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Bars that are shown where nobody says from when: about a year of daily ones, a New York session of minutes.
NEWEST: Final = {"1d": 260}
_NEWEST_INTRADAY: Final = 390

#: So many candles at most: of more bars, several make one.
_CANDLES: Final = 600

#: A candle that rose and one that fell: Okabe and Ito's blue and vermilion, which nobody takes for each other.
_UP, _DOWN = "#0072B2", "#D55E00"
_LINE: Final = "#8a6d00"

#: The clocks that exchanges go by; the others go by UTC's.
_CLOCKS: Final = {"stocks": NEW_YORK, "futures": CHICAGO}
_UTC: Final = ZoneInfo("UTC")

#: The columns of a block of candles.
_CANDLE: Final = np.dtype(
    [
        ("ts", "M8[us]"),
        ("session", "M8[D]"),
        *((name, np.float64) for name in ("open", "high", "low", "close", "volume")),
    ]
)


@dataclass(frozen=True, slots=True)
class Candles:
    """The bars of one ticker as a chart shows them.

    Attributes:
        ticker: as the vendor writes it.
        timeframe: of the bars.
        adjusted: whether prices and volumes are those of today's scale, by the splits known now.
        sources: whose bars, by their names in the tables.
        rows: shape (n,): ``ts`` (UTC), ``session``, ``open``, ``high``, ``low``, ``close``, ``volume``; by ``ts``.
        splits: date, shares before, shares after.
        events: rows of ``event``, their prices in the scale of ``rows``.
        gaps: sessions between the first bar and the last one that have none, and why.
        as_of: the instant at which the database was read, aware.
    """

    ticker: str
    timeframe: str
    adjusted: bool
    sources: tuple[str, ...]
    rows: NDArray[np.void]
    splits: tuple[tuple[date, float, float], ...]
    events: tuple[dict[str, Any], ...]
    gaps: tuple[tuple[date, str], ...]
    as_of: datetime

    @property
    def title(self) -> str:
        """Ticker, timeframe, span."""
        if not len(self.rows):
            return f"{visible(self.ticker)}, {self.timeframe}: no bar is stored"
        first, last = (self.rows["session"][i].item() for i in (0, -1))
        span = f"{first} to {last}" if first != last else f"{first}"
        return f"{visible(self.ticker)}, {self.timeframe}, {span}"

    @property
    def subtitle(self) -> str:
        """How many bars, whose, on which scale, as of when."""
        scale = "adjusted for splits" if self.adjusted else "as traded"
        said = [f"{len(self.rows):,} bar{'' if len(self.rows) == 1 else 's'} of {', '.join(self.sources)}", scale]
        if self.events:
            said.append(f"{len(self.events):,} event{'' if len(self.events) == 1 else 's'}")
        if self.splits:
            said.append(f"{len(self.splits):,} split{'' if len(self.splits) == 1 else 's'}")
        if self.gaps:
            said.append(f"{len(self.gaps):,} session{'' if len(self.gaps) == 1 else 's'} without a bar")
        return f"{', '.join(said)}; as of {self.as_of:%Y-%m-%d %H:%M} UTC"

    def as_dict(self) -> dict[str, Any]:
        """The numbers behind the picture; instants in UTC."""
        return {
            "ticker": self.ticker,
            "timeframe": self.timeframe,
            "adjusted": self.adjusted,
            "sources": list(self.sources),
            "as_of": self.as_of.isoformat(),
            "bars": [
                {
                    "ts": f"{row['ts'].item().isoformat()}+00:00",
                    "session": row["session"].item(),
                    **{name: float(row[name]) for name in ("open", "high", "low", "close", "volume")},
                }
                for row in self.rows
            ],
            "splits": [
                {"execution_date": day, "split_from": before, "split_to": after} for day, before, after in self.splits
            ],
            "events": [dict(found) for found in self.events],
            "gaps": [{"session": session, "reason": reason} for session, reason in self.gaps],
        }

    def png(self, *, scale: int = 2) -> Png:
        """The chart: a slot for each bar, none for nights and weekends; a daily session without a bar has one too."""
        places, count = self._places()
        drawn, at, per = _merged(self.rows, places, count)
        notes = [self.subtitle]
        if per > 1:
            notes.append(f"a candle is {per:,} bars")
        if is_intraday(self.timeframe):
            notes.append(f"times of {_zone(self.ticker).key}")
        with figure(self.title, "; ".join(notes), 1070, 520, scale) as (sheet, area):
            if len(self.rows):
                prices, volume = sheet.subplots(
                    2, 1, sharex=True, height_ratios=(4, 1), gridspec_kw={"hspace": 0.05, **area}
                )
                _draw(prices, volume, drawn, at)
                self._draw_splits(prices, places, per)
                self._draw_events(prices, places, per)
                self._draw_gaps(volume, places, per)
                self._label(volume, drawn, at)
                slots = -(-count // per)
                edge = max(0.6, slots * 0.01)
                prices.set_xlim(-edge, slots - 1 + edge)
            return finished(sheet, 1070, 520, scale, f"Candlesticks of {self.title}. {self.subtitle}.")

    def _places(self) -> tuple[NDArray[np.int64], int]:
        """The slot of each bar, and how many slots there are."""
        if is_intraday(self.timeframe) or not self.gaps:
            return np.arange(len(self.rows)), len(self.rows)
        slots = np.union1d(self.rows["session"], np.array([session for session, _ in self.gaps], "M8[D]"))
        return np.searchsorted(slots, self.rows["session"]), len(slots)

    def _place_of(self, places: NDArray[np.int64], session: date) -> float:
        """Where a session begins: half a slot before its first bar, or before the next one."""
        i = int(np.searchsorted(self.rows["session"], np.datetime64(session)))
        return float(places[min(i, len(places) - 1)]) - 0.5

    def _draw_splits(self, prices: Axes, places: NDArray[np.int64], per: int) -> None:
        for day, before, after in self.splits:
            x = self._place_of(places, day) / per
            prices.axvline(x, color="#555555", linestyle=(0, (4, 3)), linewidth=0.9)
            prices.annotate(
                f"{after:g}-for-{before:g}",
                (x, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -11),
                textcoords="offset points",
                fontsize=8,
                color="#333333",
            )

    def _draw_events(self, prices: Axes, places: NDArray[np.int64], per: int) -> None:
        instants = self.rows["ts"]
        for found in self.events:
            end = int(np.searchsorted(instants, np.datetime64(in_utc(found["ts"]))))
            if end >= len(instants):
                continue
            back = min(found["bars"] - 1, end)
            x = [places[end - back] / per, places[end] / per]
            for name in ("upper", "lower"):
                if found[name] is not None:
                    slope = found[f"{name}_slope"] or 0.0
                    prices.plot(x, [found[name] - slope * back, found[name]], color=_LINE, linewidth=1.1)
            level = found["lower"] if found["lower"] is not None else float(self.rows["low"][end])
            prices.plot([x[1]], [level], marker=_MARKS.get(found["kind"], "D"), color=_LINE, markersize=5)

    def _draw_gaps(self, volume: Axes, places: NDArray[np.int64], per: int) -> None:
        """A mark below each session without a bar, in its state's colour."""
        for session, reason in self.gaps:
            colour = "#{:02x}{:02x}{:02x}".format(*STATES[CODES[reason]].colour)
            x = (self._place_of(places, session) - (0.5 if not is_intraday(self.timeframe) else 0)) / per
            volume.plot([x], [0], marker="s", color=colour, markersize=4, clip_on=False, zorder=5)

    def _label(self, volume: Axes, drawn: NDArray[np.void], at: NDArray[np.int64]) -> None:
        """Dates below the chart; of few sessions of intraday bars the clock as well."""
        zone = _zone(self.ticker)
        sessions = drawn["session"]
        starts = [0, *(np.flatnonzero(sessions[1:] != sessions[:-1]) + 1).tolist()]
        if is_intraday(self.timeframe) and len(starts) <= 3:
            step = max(1, len(drawn) // 8)
            shown = list(range(0, len(drawn), step))
            local = [drawn["ts"][i].item().replace(tzinfo=UTC).astimezone(zone) for i in shown]
            texts = [
                f"{when:%H:%M}\n{when:%Y-%m-%d}" if not i or when.date() != local[i - 1].date() else f"{when:%H:%M}"
                for i, when in enumerate(local)
            ]
        else:
            step = -(-len(starts) // 9)
            shown = starts[::step]
            texts = [f"{sessions[i].item():%Y-%m-%d}" for i in shown]
        volume.set_xticks([float(at[i]) for i in shown], texts)


#: How the bar that confirms an event is marked.
_MARKS: Final = {"ascending": "^", "descending": "v", "symmetrical": ">"}


def read(
    engine: sa.Engine,
    ticker: str,
    timeframe: str,
    as_of: datetime,
    first: date | None = None,
    last: date | None = None,
    *,
    adjusted: bool = True,
) -> Candles:
    """The bars of one ticker, its events and its splits.

    Args:
        engine: of a store.
        ticker: as the vendor writes it.
        timeframe: of the bars, whoever's they are: of each instant one is stored.
        as_of: the present instant, aware; it only says when the picture was made.
        first: the first session; None: as many bars as there is room for.
        last: the last session; None: the last that is stored.
        adjusted: bring prices and volumes to today's scale, by the splits known now.

    Raises:
        ConfigurationError: ``last`` is before ``first``.
    """
    if first is not None and last is not None and last < first:
        fix = "Give a start on or before the end."
        raise ConfigurationError("there is no session to show", value=f"{first}..{last}", fix=fix)
    newest = None if first is not None else NEWEST.get(timeframe, _NEWEST_INTRADAY)
    found = pictured.chart(engine, ticker, timeframe, first, last, newest)
    rows = np.zeros(len(found.bars), _CANDLE)
    for row, each in zip(rows, found.bars, strict=True):
        row["ts"], row["session"] = np.datetime64(in_utc(each.ts)), each.session
        row["open"], row["high"], row["low"], row["close"], row["volume"] = each[2:7]
    vendors = [_vendor(each.source) for each in found.bars]
    factors = np.ones(len(rows))
    if adjusted:
        for span in found.factors:
            of = [vendor == span.source for vendor in vendors]
            begin, end = np.datetime64(span.first_session), np.datetime64(span.before_session)
            factors[np.array(of) & (rows["session"] >= begin) & (rows["session"] < end)] = span.factor
        for name in ("open", "high", "low", "close"):
            rows[name] *= factors
        rows["volume"] /= factors
    known = set(vendors)
    stored = set(rows["session"].tolist())
    return Candles(
        ticker,
        timeframe,
        adjusted,
        tuple(sorted({each.source for each in found.bars})),
        rows,
        tuple(
            dict.fromkeys(
                (row.execution_date, row.split_from, row.split_to) for row in found.splits if row.source in known
            )
        ),
        tuple(_events(found.events, rows, factors)),
        tuple(
            (row.session, row.reason)
            for row in found.gaps
            if _vendor(row.source) in known and row.session not in stored
        ),
        as_of,
    )


def _vendor(source: str) -> str:
    return source.removesuffix(FLAT).removesuffix(MADE)


def _events(found: Sequence[Any], rows: NDArray[np.void], factors: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Events in the scale of the bars that confirm them, each once whatever version found it."""
    names = (
        *("ts", "session", "kind", "detector", "version", "source", "from_timeframe"),
        *("first_ts", "bars", "upper", "upper_slope", "lower", "lower_slope", "apex_bars"),
    )
    told = []
    for each in found:
        at = int(np.searchsorted(rows["ts"], np.datetime64(in_utc(each.ts))))
        factor = float(factors[min(at, len(rows) - 1)])
        row = {name: getattr(each, name) for name in names}
        for name in ("upper", "upper_slope", "lower", "lower_slope"):
            row[name] = None if row[name] is None else row[name] * factor
        told.append(row)
    return told


def _zone(ticker: str) -> ZoneInfo:
    """The clock that a ticker's exchange goes by."""
    try:
        return _CLOCKS.get(asset_class(ticker), _UTC)
    except ConfigurationError:
        return _UTC


def _merged(
    rows: NDArray[np.void], places: NDArray[np.int64], slots: int
) -> tuple[NDArray[np.void], NDArray[np.int64], int]:
    """Candles, their places, and how many slots each takes: of more bars than there is room for, several make one."""
    per = max(1, -(-slots // _CANDLES))
    if per == 1:
        return rows, places, 1
    at, first = np.unique(places // per, return_index=True)
    drawn = rows[first].copy()
    drawn["high"], drawn["low"] = np.maximum.reduceat(rows["high"], first), np.minimum.reduceat(rows["low"], first)
    drawn["volume"] = np.add.reduceat(rows["volume"], first)
    drawn["close"] = rows["close"][np.append(first[1:], len(rows)) - 1]
    return drawn, at, per


def _draw(prices: Axes, volume: Axes, rows: NDArray[np.void], at: NDArray[np.int64]) -> None:
    up = rows["close"] >= rows["open"]
    least = max(float(np.ptp(rows["high"]) + np.ptp(rows["low"])) * 0.0015, 1e-9)  # a bar that did not move is seen too
    for which, colour in ((up, _UP), (~up, _DOWN)):
        x, some = at[which], rows[which]
        prices.vlines(x, some["low"], some["high"], color=colour, linewidth=0.9)
        body = np.maximum(np.abs(some["close"] - some["open"]), least)
        face = "white" if colour == _UP else colour
        prices.bar(
            x,
            body,
            0.72,
            np.minimum(some["open"], some["close"]),
            color=face,
            edgecolor=colour,
            linewidth=0.8,
            zorder=3,
        )
        volume.bar(x, some["volume"], 0.72, color=colour, alpha=0.75, linewidth=0)
    prices.set_ylabel("price", fontsize=9)
    volume.set_ylabel("volume", fontsize=9)
    volume.yaxis.set_major_formatter(short)
    prices.tick_params(labelbottom=False, length=0)
