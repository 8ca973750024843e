"""``closingbell picture``: coverage, candlesticks, the last nights, and one page of all, made from the database alone.

Nothing that draws is imported here: ``--help`` answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from closingbell.cli import TIMEFRAME, Day, either, json_option, opened, show
from closingbell.errors import ConfigurationError

if TYPE_CHECKING:
    from closingbell.pictures.png import Png
    from closingbell.settings import Settings
    from closingbell.store import Store

#: So many tickers are charted in one page at most.
_CHARTS: Final = 20

out_option = click.option(
    "--out",
    "-o",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it there; - is standard output. Default: in this folder.",
)
start_option = click.option("--start", type=Day(), help="First session. Default: the first stored.")
end_option = click.option("--end", type=Day(), help="Last session. Default: the last stored.")
tickers_option = click.option(
    "--tickers", "-t", metavar="LIST", help="AAPL,BRK.B or @file. Default: all that are stored."
)
universe_option = click.option("--universe", "-u", metavar="NAME", help="sp500+etfs, sp500, etfs; or sp500@2015-06-30.")
timeframe_option = click.option(
    "--timeframe",
    type=TIMEFRAME,
    metavar="TIMEFRAME",
    default="1d",
    show_default=True,
    help="1d, 1h, 30m, 15m, 5m, 1m.",
)


@click.group()
def picture() -> None:
    """Draw what is stored: coverage, candlesticks, the last nights, a page of all.

    Made from the database alone: no call, and no Prefect server. With --json the
    numbers behind a picture are printed instead.

    \b
    Example:
      closingbell picture report
    """


@picture.command()
@tickers_option
@universe_option
@start_option
@end_option
@timeframe_option
@click.option("--source", metavar="NAME", help="polygon, stand-in, databento, polygon:1m. Default: as set.")
@out_option
@json_option
def coverage(
    tickers: str | None,
    universe: str | None,
    start: date | None,
    end: date | None,
    timeframe: str,
    source: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Draw a heat map of tickers by sessions.

    Each cell is stored, or has its reason: empty, failed, quarantined, unpublished,
    unentitled, pending. All are held against the bars.

    \b
    Example:
      closingbell picture coverage --universe sp500 --start 2026-01-02
    """
    names = _tickers(tickers, universe)
    with opened() as (settings, store):
        from closingbell.pictures import coverage as pictured

        whose = source or settings.source
        found = pictured.read(store.engine, whose, timeframe, _now(settings), names, start, end)
        if found.first is None:
            _say_what_there_is(store, whose, timeframe)
    _give(found.as_dict, found.png, out, f"coverage-{timeframe}.png", [found.title, found.subtitle], as_json)


@picture.command()
@click.argument("ticker")
@start_option
@end_option
@timeframe_option
@click.option("--adjusted/--raw", default=True, show_default=True, help="Adjusted for splits, or as traded.")
@out_option
@json_option
def candles(
    ticker: str,
    start: date | None,
    end: date | None,
    timeframe: str,
    adjusted: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Draw candlesticks of TICKER with volume, events and splits.

    Without --start the newest bars: a year of daily ones, a day of minutes.

    \b
    Examples:
      closingbell picture candles AAPL --start 2026-01-02
      closingbell picture candles AAPL --timeframe 1m --start 2026-11-20
    """
    from closingbell.universe import check_ticker

    check_ticker(ticker)
    with opened() as (settings, store):
        from closingbell.pictures import candles as pictured

        found = pictured.read(store.engine, ticker, timeframe, _now(settings), start, end, adjusted=adjusted)
    if not len(found.rows):
        raise ConfigurationError(
            "no such bar is stored", value=f"{ticker} {timeframe}", fix=f"closingbell status {ticker} says what is."
        )
    name = f"candles-{_in_a_name(ticker)}-{timeframe}.png"
    _give(found.as_dict, found.png, out, name, [found.title, found.subtitle], as_json)


@picture.command()
@click.option(
    "--last", metavar="N", type=click.IntRange(1, 365), default=30, show_default=True, help="So many nights, to 365."
)
@out_option
@json_option
def nights(last: int, out: Path | None, as_json: bool) -> None:
    """Draw the last nights: bars, failures, time, calls and plan.

    A night is a date in New York, with all of its runs.

    \b
    Example:
      closingbell picture nights
    """
    with opened() as (settings, store):
        from closingbell.pictures import nights as pictured

        found = pictured.read(store.engine, _now(settings), last)
    told = [pictured.title(found), pictured.subtitle(found)] if found else [pictured.title(found)]
    value = {"nights": [night.as_dict() for night in found]}
    _give(lambda: value, lambda: pictured.png(found), out, "nights.png", told, as_json)


@picture.command()
@tickers_option
@universe_option
@start_option
@end_option
@click.option("--timeframe", type=TIMEFRAME, metavar="TIMEFRAME", help="Only 1d, 1h, ... Default: each that is stored.")
@click.option("--source", metavar="NAME", help="Only polygon, stand-in, ... Default: each.")
@click.option("--candles", "charts", metavar="LIST", help="Charts of AAPL,BRK.B. Default: of one ticker.")
@out_option
@json_option
def report(
    tickers: str | None,
    universe: str | None,
    start: date | None,
    end: date | None,
    timeframe: str | None,
    source: str | None,
    charts: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write one HTML page of all pictures, with their numbers.

    It holds all that it shows: it can be sent, kept, and opened without a network.

    \b
    Example:
      closingbell picture report --candles AAPL,MSFT
    """
    from closingbell import universe as universes

    names = _tickers(tickers, universe)
    charted = universes.parse_tickers(charts) if charts is not None else None
    if charted and len(charted) > _CHARTS:
        raise ConfigurationError("too many charts for one page", value=len(charted), fix=f"Name up to {_CHARTS}.")
    with opened() as (settings, store):
        told = _report(settings, store, names, start, end, timeframe, source, charted)
    value, page = told
    if as_json and out is None:
        return show(value, [], as_json=True)
    _give(lambda: value, page, out, "closingbell.html", [], as_json)


def _report(
    settings: Settings,
    store: Store,
    tickers: Sequence[str] | None,
    start: date | None,
    end: date | None,
    timeframe: str | None,
    source: str | None,
    charted: Sequence[str] | None,
) -> tuple[dict[str, Any], Callable[[], bytes]]:
    """The numbers of a page, and what writes it."""
    from closingbell import universe as universes
    from closingbell.pictures import candles as charting
    from closingbell.pictures import coverage as covering
    from closingbell.pictures import nights as nightly
    from closingbell.pictures.page import Covered, page
    from closingbell.store import pictured

    engine, now = store.engine, _now(settings)
    ledgers = [
        (whose, of) for whose, of, _ in pictured.series(engine) if source in (None, whose) and timeframe in (None, of)
    ]
    covered = []
    for whose, of in ledgers:
        found = covering.read(engine, whose, of, now, tickers, start, end)
        if found.first is not None and found.last is not None:
            covered.append(Covered(found, *pictured.causes(engine, whose, of, tickers, found.first, found.last)))
    if charted is None:
        one = pictured.charted(engine, tickers or universes.load("etfs"))
        wanted = [one] if one else []
    else:
        wanted = [(ticker, timeframe or "1d") for ticker in charted]
    charts = [charting.read(engine, ticker, of, now, start, end) for ticker, of in wanted]
    nights, totals = nightly.read(engine, now), pictured.totals(engine)
    value = {
        "as_of": now.isoformat(),
        "totals": {**totals, "bars": [{"source": s, "timeframe": t, "bars": n} for s, t, n in totals["bars"]]},
        "coverage": [
            {
                **each.coverage.as_dict(),
                "causes": [
                    {"reason": cause.reason, "cause": cause.what, "example": cause.example, "cells": cause.cells,
                     "tickers": cause.tickers, "named": list(cause.named), "first_session": cause.first,
                     "last_session": cause.last}
                    for cause in each.causes
                ],
            }
            for each in covered
        ],
        "nights": [night.as_dict() for night in nights],
        "candles": [chart.as_dict() for chart in charts],
    }  # fmt: skip
    return value, lambda: page(covered, nights, charts, totals, now).encode()


def _say_what_there_is(store: Store, source: str, timeframe: str) -> None:
    """Raises: ConfigurationError: nothing of it is stored, but of others; in an empty database there is no mistake."""
    from closingbell.store.pictured import series

    known = [f"{whose} {of}" for whose, of, _ in series(store.engine)]
    if known:
        fix = f"Use --source and --timeframe. There are: {', '.join(known)}."
        raise ConfigurationError("nothing of this is stored", value=f"{source} {timeframe}", fix=fix)


def _tickers(tickers: str | None, universe: str | None) -> tuple[str, ...] | None:
    """Those that are named; None: every one that is stored."""
    from closingbell import universe as universes

    either(universe, tickers is not None)
    return universes.resolve(universe, tickers) if tickers is not None or universe else None


def _now(settings: Settings) -> Any:
    from closingbell.clock import Clock

    return Clock(settings.closingbell_now).now()


def _in_a_name(ticker: str) -> str:
    """A ticker as part of a file's name: ``X:BTCUSD`` is none everywhere."""
    return ticker.replace(":", "-")


def _give(
    numbers: Callable[[], Mapping[str, Any]],
    draw: Callable[[], Png | bytes],
    out: Path | None,
    name: str,
    told: Sequence[str],
    as_json: bool,
) -> None:
    """Write a picture and say where; or print its numbers, and write it only where a file is named."""
    if as_json and out is None:
        return show(numbers(), [], as_json=True)
    drawn = draw()
    data = drawn if isinstance(drawn, bytes) else drawn.data
    if out is not None and str(out) == "-":
        if as_json:
            raise ConfigurationError("--json and --out - both want standard output", fix="Name a file.")
        return click.echo(data, nl=False)
    path = out or Path(name)
    _write(path, data)
    value = {**numbers(), "file": str(path)} if as_json else {}
    return show(value, [*told, f"written to {path}, {len(data):,} bytes"], as_json)


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing: whoever looks at the file meanwhile sees the old one.

    Raises:
        ConfigurationError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.exists() and not path.is_file():  # a pipe, or /dev/null
            path.write_bytes(data)
            return
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        fix = "Name a file in a folder that is there and can be written: --out FILE."
        raise ConfigurationError("the picture cannot be written", value=f"{path} ({error.strerror})", fix=fix) from None
