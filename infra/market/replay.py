"""Real bars from a parquet or CSV file, served as they are, defects included."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from closingbell.bars import BAR, NO_TRADES, Bars
from closingbell.errors import ConfigurationError
from infra.market.hours import FIRST_DAY, LAST_DAY, NEW_YORK
from infra.market.listing import asset_of
from infra.market.source import Dividend, Listed, Split

_PRICES: Final = ("open", "high", "low", "close", "volume")
_INSTANTS: Final = ("ts", "timestamp", "timestamp_utc", "datetime")

Rows = np.ndarray[tuple[int], np.dtype[np.void]]


class Replay:
    """The bars of a file, daily (columns date or session, open, high, low, close, volume, ticker) or by the minute; or
    of all the files of a folder.

    A minute file has ``ts``, ``timestamp``, ``timestamp_utc`` or ``datetime`` (UTC unless it says otherwise) in
    place of the date; its daily bars are put together from its minutes. Without a ``ticker`` column the file's
    name, up to the first underscore, is the ticker (``X:BTCUSD_1m.csv``). ``vwap`` and ``trades`` are served where
    present. There are no splits: adjusted and raw are alike.

    Raises:
        ConfigurationError: a file is missing or unreadable, lacks a column, or has a value that is no number or no
            date (the message has it, and its row); a ticker is in files of both kinds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        read = [_bars(file, _read(file)) for file in _files(path)]
        self.tickers: tuple[str, ...] = tuple(sorted({ticker for bars in read for ticker in bars.tickers}))
        both = {t for b in read for t in b.tickers if b.timeframe == "1m"}
        both &= {t for b in read for t in b.tickers if b.timeframe == "1d"}
        if both:
            raise ConfigurationError(
                "a ticker has a file of daily bars and one of minutes",
                value=f"{path}: {', '.join(sorted(both)[:3])}",
                fix="Leave out the daily file: daily bars are put together from the minutes.",
            )
        self._minutes = _table(self.tickers, [bars for bars in read if bars.timeframe == "1m"], "ts")
        days = [bars for bars in read if bars.timeframe == "1d"]
        self._days = _table(self.tickers, [*days, Bars(self.tickers, _daily(self._minutes))], "session")

    @property
    def name(self) -> str:
        return f"replay of {self.path.name}, {len(self.tickers):,} tickers, {len(self._days):,} daily bars"

    def days(self, ticker: str, first: np.datetime64, last: np.datetime64) -> Bars:
        return Bars((ticker,), self._of(self._days, ticker, first, last))

    def minutes(self, ticker: str, first: np.datetime64, last: np.datetime64) -> Bars:
        return Bars((ticker,), self._of(self._minutes, ticker, first, last), "1m")

    def market_day(self, asset: str, session: np.datetime64) -> Bars:
        order, sessions = self._by_session
        low, high = np.searchsorted(sessions, [session, session + 1])
        rows = self._days[np.sort(order[low:high])]
        mine = np.array([asset_of(t) == asset or (asset == "stocks" and asset_of(t) is None) for t in self.tickers])
        return Bars(self.tickers, rows[mine[rows["ticker"]]])

    def splits(self, ticker: str | None = None) -> Sequence[Split]:
        return ()

    def dividends(self, ticker: str | None, first: np.datetime64, last: np.datetime64) -> Sequence[Dividend]:
        return ()

    def listed(self, asset: str) -> Sequence[Listed]:
        return [Listed(t, asset) for t in self.tickers if (asset_of(t) or "stocks") == asset]

    def find(self, ticker: str) -> Listed | None:
        return Listed(ticker, asset_of(ticker) or "stocks") if ticker in self._positions else None

    def series_of(self, figi: str, tickers: Sequence[str]) -> str:
        return next((ticker for ticker in tickers if ticker in self._positions), tickers[0])

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {ticker: position for position, ticker in enumerate(self.tickers)}

    @cached_property
    def _by_session(self) -> tuple[Any, Any]:
        order = np.argsort(self._days["session"], kind="stable")
        return order, self._days["session"][order]

    def _of(self, table: Rows, ticker: str, first: np.datetime64, last: np.datetime64) -> Rows:
        position = self._positions.get(ticker)
        if position is None:
            return table[:0]
        low, high = np.searchsorted(table["ticker"], [position, position + 1])
        mine = table[low:high]
        start, stop = np.searchsorted(mine["session"], [first, last + np.timedelta64(1, "D")])
        rows = mine[start:stop].copy()
        rows["ticker"] = 0
        return rows


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.name.endswith((".csv", ".csv.gz", ".parquet")))
    if not found:
        raise ConfigurationError("the replay folder has no files", value=path, fix="Put parquet or CSV files there.")
    return found


def _bars(path: Path, frame: pd.DataFrame) -> Bars:
    """A file's bars, in its order."""
    if "ticker" not in frame:
        frame["ticker"] = path.name.split("_")[0].split(".")[0]
    missing = [name for name in _PRICES if name not in frame]
    instant = next((name for name in _INSTANTS if name in frame), None)
    day = next((name for name in ("session", "date") if name in frame), None)
    if missing or not (instant or day):
        raise ConfigurationError(
            "the replay file lacks columns",
            value=f"{path}: {', '.join(missing) or 'date'}",
            fix="It needs date (or session, or ts), open, high, low, close, volume, ticker.",
        )
    codes, names = pd.factorize(frame["ticker"].astype(str), sort=True)
    tickers = tuple(str(name) for name in names)
    rows = _rows(path, frame, codes)
    if instant:
        instants = _dates(path, frame, instant, utc=True)
        rows["ts"] = instants.dt.tz_localize(None).to_numpy().astype("M8[us]")
        rows["session"] = _sessions(instants, rows["ticker"], tickers)
        return Bars(tickers, rows, "1m")
    rows["session"] = _dates(path, frame, str(day)).to_numpy().astype("M8[D]")
    inside = (rows["session"] >= FIRST_DAY) & (rows["session"] <= LAST_DAY)
    return Bars(tickers, rows[inside])


def _table(tickers: tuple[str, ...], blocks: Sequence[Bars], order: str) -> Rows:
    """The rows of blocks of one timeframe by ticker, in the order of ``tickers``, and by ``order``."""
    joined = Bars.concat([Bars(tickers, timeframe=blocks[0].timeframe), *blocks]).rows if blocks else np.empty(0, BAR)
    return joined[np.lexsort((joined[order], joined["ticker"]))]


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ConfigurationError("the replay file does not exist", value=path, fix="Check the path given to --replay.")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, float_precision="round_trip")
    except ImportError:
        raise ConfigurationError(
            "replaying a parquet file needs pyarrow",
            value=path,
            fix="Install the extra: pip install 'closingbell[replay]'.",
        ) from None
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            "the replay file cannot be read", value=f"{path}: {error}", fix="Give a parquet or CSV file."
        ) from error


def _rows(path: Path, frame: pd.DataFrame, codes: Any) -> Rows:
    rows = np.zeros(len(frame), BAR)
    rows["ticker"] = codes
    for name in _PRICES:
        rows[name] = _numbers(path, frame, name)
    rows["vwap"] = _numbers(path, frame, "vwap") if "vwap" in frame else np.nan
    trades = _numbers(path, frame, "trades") if "trades" in frame else np.full(len(frame), np.nan)
    rows["trades"] = np.where(np.isfinite(trades), trades, NO_TRADES)
    return rows


def _numbers(path: Path, frame: pd.DataFrame, column: str) -> Any:
    try:
        return frame[column].to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError):
        raise _wrong(path, frame, column, pd.to_numeric(frame[column], errors="coerce"), "a number") from None


def _dates(path: Path, frame: pd.DataFrame, column: str, *, utc: bool = False) -> pd.Series:
    try:
        dates = pd.to_datetime(frame[column], utc=utc)
    except (ValueError, TypeError, OverflowError):
        dates = pd.to_datetime(frame[column], utc=utc, errors="coerce", format="mixed")
    if dates.isna().any():
        raise _wrong(path, frame, column, dates, "a date such as 2026-03-02")
    return dates


def _wrong(path: Path, frame: pd.DataFrame, column: str, read: pd.Series, wanted: str) -> ConfigurationError:
    """The first value of a column that could not be read, and where it stands: row 1 is the first below the header."""
    missing = read.isna() if wanted != "a number" else read.isna() & frame[column].notna()
    row = int(np.argmax(missing.to_numpy()))
    return ConfigurationError(
        "the replay file has a value that cannot be read",
        value=f"{str(frame[column].iloc[row])[:40]!r} in column {column}, row {row + 1} of {path}",
        fix=f"It has to be {wanted}.",
    )


def _sessions(instants: pd.Series, codes: Any, tickers: tuple[str, ...]) -> Any:
    """Each minute's local date: New York's for stocks, UTC's for the rest."""
    stock = np.array([(asset_of(t) or "stocks") == "stocks" for t in tickers])[codes]
    local = instants.dt.tz_convert(NEW_YORK).dt.tz_localize(None).to_numpy().astype("M8[D]")
    return np.where(stock, local, instants.dt.tz_localize(None).to_numpy().astype("M8[D]"))


def _daily(minutes: Rows) -> Rows:
    """The daily bars of minute rows sorted by ticker and time."""
    if not len(minutes):
        return minutes
    new = np.flatnonzero(
        np.r_[True, (np.diff(minutes["ticker"]) != 0) | (np.diff(minutes["session"]).astype(np.int64) != 0)]
    )
    rows = minutes[new].copy()
    rows["high"] = np.fmax.reduceat(minutes["high"], new)
    rows["low"] = np.fmin.reduceat(minutes["low"], new)
    rows["close"] = minutes["close"][np.r_[new[1:], len(minutes)] - 1]
    rows["volume"] = np.add.reduceat(minutes["volume"], new)
    rows["vwap"], rows["trades"] = np.nan, NO_TRADES
    return rows
