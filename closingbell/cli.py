"""The command ``closingbell``. The commands that only read stand here; the others are found by entry point.

``closingbell`` imports neither Prefect nor the parts that start servers, so that ``--help`` answers at once and
the arrows keep pointing one way. Commands that need them register in the entry point group
``closingbell.commands``; what stands in for an unset DATABASE_URL, and what brings a schema up to date, in
``closingbell.provider``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import date
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

import click

from closingbell.errors import ClosingbellError, ConfigurationError, RetryableError

if TYPE_CHECKING:
    from closingbell.settings import Settings
    from closingbell.store import Reconciliation, Store

#: How many cells of a kind ``doctor`` names.
_SHOWN: Final = 10

#: Exit codes that scripts can rely on.
OK: Final = 0
CELLS_FAILED: Final = 1
CANNOT_RUN: Final = 2


class Commands(click.Group):
    """The commands, those of entry points loaded when they are called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name."""
        return sorted(
            [*super().list_commands(ctx), *(entry.name for entry in entry_points(group="closingbell.commands"))]
        )

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name."""
        here = super().get_command(ctx, name)
        if here:
            return here
        for entry in entry_points(group="closingbell.commands", name=name):
            command: click.Command = entry.load()
            return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in ``--help``, without loading what the other commands need."""
        rows = [(name, HELP.get(name, "")) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


#: A line for each command, so that ``--help`` need not import any.
HELP: Final = {
    "backfill": "Fetch a long history of several timeframes as one plan.",
    "facts": "Look up all splits again, dividends and changes of ticker.",
    "derive-events": "Find events, such as triangles, in stored bars.",
    "doctor": "Check settings, database and ledger; say what to mend.",
    "ingest": "Fetch what is missing and store it.",
    "market": "Serve the stand-in for Polygon.",
    "plan": "Show which calls an ingest would make, and make none.",
    "reconcile": "Hold stored bars against what the vendor says now.",
    "retry": "Make calls for exactly the cells that failed.",
    "status": "Show what is stored, or what is known of one ticker.",
    "universe": "List the tickers of a universe, now or on a past date.",
    "up": "Serve the whole stack: UI, nightly schedule, worker.",
}


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="closingbell")
def cli() -> None:
    """Market bars, complete and correct, with the fewest API calls that can do it."""


#: As closingbell.bars has them, which brings numpy.
TIMEFRAME: Final = click.Choice(["1d", "1h", "30m", "15m", "5m", "1m"])

timeframe_option = click.option(
    "--timeframe",
    "timeframes",
    type=TIMEFRAME,
    multiple=True,
    help="Of the bars; give it again for more than one.",
)


source_option = click.option(
    "--source", type=click.Choice(["polygon", "databento"]), help="Whose bars. Default: polygon, or its stand-in."
)


def asking(command: Any) -> Any:
    """The options that say which cells: the same for ``plan``, ``ingest`` and ``backfill``."""
    for option in (
        click.argument("names", nargs=-1, metavar="[TICKER]..."),
        click.option(
            "--universe", "-u", help="sp500+etfs (the default), sp500, etfs; or as of a date: sp500@2015-06-30."
        ),
        click.option("--tickers", "-t", help="AAPL,BRK.B or @file, as the vendor writes them."),
        click.option("--start", type=Day(), help="First date. Default: two years back."),
        click.option("--end", type=Day(), help="Last date. Default: the last session that should be published."),
        timeframe_option,
        click.option(
            "--extended-hours/--regular-hours",
            default=None,
            help="Stocks' intraday bars from before the open and after the close too, or not. Default: as set.",
        ),
        click.option(
            "--derive/--no-derive",
            default=False,
            help="Make bars of several minutes of stored ones, without a call, instead of fetching them.",
        ),
        click.option(
            "--recheck-sessions",
            type=click.IntRange(0, 250),
            default=0,
            show_default=True,
            help="Fetch this many of the last sessions again.",
        ),
        click.option(
            "--ask-again", is_flag=True, help="Ask again also for cells known to be empty, not ours, or in quarantine."
        ),
        click.option("--former-tickers", is_flag=True, help="Also what the companies were called before, if known."),
        source_option,
        click.option(
            "--uncertain", is_flag=True, help="Look for discontinuities of futures too: their origin is uncertain."
        ),
    ):
        command = option(command)
    return command


def tickers_of(asked: Mapping[str, Any]) -> str | None:
    """The tickers that a command names, with ``--tickers`` or without; None: none.

    Raises:
        ConfigurationError: Databento has no such bars, or not of these dates. It is said before a database is opened.
    """
    from closingbell import universe as universes

    tickers: str | None = ",".join(asked["names"]) or None
    if asked["tickers"] is not None:
        tickers = ",".join([*asked["names"], asked["tickers"]])
    if asked["source"] == "databento":
        from closingbell import request
        from closingbell.clock import Clock
        from closingbell.settings import read
        from closingbell.sources.databento.symbols import schema, symbol

        names, now = universes.resolve(asked["universe"], tickers), Clock(read().closingbell_now).now()
        of = {"timeframes": asked["timeframes"] or ("1d",), "derive": asked["derive"]}
        wanted = request.build(names, asked["start"], asked["end"], now, **of)
        for timeframe in wanted.timeframes:
            schema(timeframe)
        for ticker in names:
            symbol(ticker)
    return tickers


class Day(click.ParamType[date]):
    """A date, written 2026-01-31."""

    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Read it, or say how it is written."""
        if isinstance(value, date):
            return value
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a date; write it as 2026-01-31.", param, ctx)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else.")


def show(value: Mapping[str, Any], lines: list[str], as_json: bool) -> None:
    """Print a result for a person, or for a program."""
    if as_json:
        click.echo(json.dumps(value, indent=2, default=str))
    else:
        click.echo("\n".join(lines))


@contextmanager
def opened() -> Iterator[tuple[Settings, Store]]:
    """The settings, and the database they name or the one that stands in for it, at the newest migration.

    Raises:
        ConfigurationError: DATABASE_URL is unset, and nothing that could stand in for it is installed.
    """
    from closingbell.settings import load
    from closingbell.store import open_store

    settings = load(_completed)
    with ExitStack() as stack:
        if settings.database_url:
            url = settings.database_url.get_secret_value()
        else:
            url = stack.enter_context(_from_entry_point("database")(settings, []))
        store = open_store(url, connections=1, retries=0, patience=0)
        stack.callback(store.close)
        _from_entry_point("schema")(store.engine)
        yield settings, store


def _completed(settings: Settings) -> Settings:
    """The settings with the secrets that Prefect's blocks hold, where a server is named and is needed for them."""
    if not settings.prefect_api_url or (settings.database_url and settings.polygon_api_key):
        return settings
    try:
        for entry in entry_points(group="closingbell.provider", name="secrets"):
            completed: Settings = entry.load()(settings)
            return completed
    except RetryableError as error:
        click.echo(f"warning: {error}", err=True)  # what is stored can be looked at without it
    return settings


def _from_entry_point(name: str) -> Any:
    for entry in entry_points(group="closingbell.provider", name=name):
        return entry.load()
    raise ConfigurationError(
        "DATABASE_URL is not set, and no embedded database is installed",
        fix="Set it to postgresql://user:password@host/database or oracle://user:password@host/service.",
    )


@cli.command()
@asking
@json_option
def plan(as_json: bool, **asked: Any) -> None:
    """Show which calls an ingest would make, and make none. The bars are daily ones unless --timeframe says.

    Example: closingbell plan --tickers AAPL,MSFT --start 2024-01-02
    """
    from closingbell import report, request
    from closingbell import universe as universes
    from closingbell.clock import Clock
    from closingbell.night import with_former, work_out
    from closingbell.settings import DATABENTO
    from closingbell.sources.offers import priced, reaching

    names = universes.resolve(asked["universe"], tickers_of(asked))
    with opened() as (settings, store):
        source = settings.source_of(asked["source"])
        now = Clock(settings.closingbell_now).now()
        wanted = request.build(
            names,
            asked["start"],
            asked["end"],
            now,
            recheck_sessions=asked["recheck_sessions"],
            ask_again=asked["ask_again"],
            timeframes=asked["timeframes"] or ("1d",),
            extended_hours=settings.extended_hours if asked["extended_hours"] is None else asked["extended_hours"],
            derive=asked["derive"],
            source=source,
            uncertain=asked["uncertain"],
        )
        vendor = settings.databento(None) if source == DATABENTO else None  # to ask what it costs
        wanted = reaching(wanted, vendor)
        if asked["former_tickers"]:
            wanted = with_former(store, wanted)
        quotas = settings.quotas_of(source)
        night = work_out(store, wanted, quotas, settings.market_day_rows, now)
        night = replace(night, plan=priced(night.plan, vendor))
    calls = [str(call) for call in night.plan.calls]
    show({**night.plan.summary(), "calls": calls}, report.night_lines(night, str(quotas)), as_json)


@cli.command()
@click.argument("ticker", required=False)
@json_option
def status(ticker: str | None, as_json: bool) -> None:
    """Show what is stored, or what is known of one ticker.

    Example: closingbell status AAPL
    """
    from closingbell.universe import check_ticker

    if ticker is not None:
        check_ticker(ticker)
    with opened() as (_, store):
        if ticker is not None:
            known = store.records.of_ticker(ticker)
            return show(known, list(_ticker_lines(known)), as_json)
        whole, runs = store.records.overview(), store.records.runs()
    return show({**whole, "runs": runs}, list(_overview_lines(whole, runs)), as_json)


@cli.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check settings, database and ledger; say what to mend. Exits with 1 when a cell is not accounted for.

    Every bar is held against the ledger, to the cell; the next run over the tickers mends what is found.

    Example: closingbell doctor
    """
    with opened() as (settings, store):
        found = store.records.audit()
        sources = {settings.source, *(source for source, _ in found)}
        splits = {source: n for source in sorted(sources) if (n := store.facts.splits_lost(source))}
    market = "the stand-in market" if settings.uses_stand_in else settings.polygon_base_url
    lines = [
        f"settings  ok: {settings.quotas}, {market}",
        "database  ok: reachable, at the newest migration",
        *(f"warning   {warning}" for warning in settings.warnings),
        *(f"ledger    {source} {timeframe}: {sums}" for (source, timeframe), sums in found.items()),
    ]
    lines += _damage_lines(found)
    lines += [f"mend      {source}: {abs(n):,} splits {'lost' if n > 0 else 'added'} since the last look; "
              "the next run looks at all of them again" for source, n in splits.items()]  # fmt: skip
    damage = {key: sums.damage for key, sums in found.items() if sums.damage}
    value = {
        "ok": not damage and not splits,
        "splits_lost": splits,
        "unexplained": {ticker: n for sums in found.values() for ticker, n in sums.unexplained.items()},
        "cells": sum(sums.expected for sums in found.values()),
        "damage": [
            {"source": source, "timeframe": timeframe, **asdict(wrong)} for (source, timeframe), wrong in damage.items()
        ],
    }
    show(value, lines, as_json)
    if damage or splits:
        sys.exit(CELLS_FAILED)


def _damage_lines(found: Mapping[tuple[str, str], Reconciliation]) -> Iterator[str]:
    """What is wrong in each ledger, with the first cells by name, and what to do about it."""
    for (source, timeframe), sums in found.items():
        wrong = sums.damage
        if not wrong:
            continue
        yield f"mend      {source} {timeframe}: {wrong}"
        for what, cells in (("neither", wrong.lost), ("both", wrong.contradicted), ("no proof", wrong.unproven)):
            yield from (f"          {what:<8} {ticker} {session}" for ticker, session in cells[:_SHOWN])
            if len(cells) > _SHOWN:
                yield f"          {what:<8} and {len(cells) - _SHOWN:,} more: closingbell doctor --json"
        if wrong.orphans:
            names = list(wrong.orphans)
            more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
            yield f"          no watermark  {', '.join(names[:_SHOWN])}{more}"
        yield "next      closingbell retry all: mends the ledger and asks again for exactly these cells"


@cli.command()
@click.argument("name", default="sp500+etfs")
@json_option
def universe(name: str, as_json: bool) -> None:
    """List the tickers of a universe, now or on a past date.

    Example: closingbell universe sp500@2015-06-30
    """
    from closingbell import universe as universes

    tickers = universes.load(name)
    show({"universe": name, "tickers": tickers}, list(tickers), as_json)


def _ticker_lines(known: Mapping[str, Any]) -> Iterator[str]:
    from closingbell.store.records import described

    yield known["ticker"]
    if not known["watermarks"]:
        yield "  nothing is known of it"
    for mark in known["watermarks"]:
        bars = next((row["bars"] for row in known["bars"] if row["timeframe"] == mark["timeframe"]), 0)
        yield (
            f"  {mark['source']} {mark['timeframe']}  {mark['first_session']} to {mark['last_session']}"
            f" accounted for, {bars:,} bars"
        )
    for found in known["events"]:
        of = f" made of {found['from_timeframe']}" if found["from_timeframe"] != found["timeframe"] else ""
        what = f"{found['events']:,} {found['detector']} ({found['version']})"
        span = f"{found['first_session']} to {found['last_session']}"
        yield f"  {what} on {found['source']} {found['timeframe']}{of}  {span}"
    for held in known["held_by"]:
        until = f"until {held['end_day']}" if held["end_day"] else "on"
        yield f"  held by     {held['name'] or held['instrument_id']} from {held['first_day']} {until}"
    told: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
        "gaps": ("gap", lambda row: f"{row['session']}  {row['reason']}  {row['last_error'] or ''}".rstrip()),
        "quarantine": ("quarantine", lambda row: f"{row['session']}  {row['rule']}  {row['message'] or ''}".rstrip()),
        "revisions": ("revision", lambda row: f"{described(row).partition(' ')[2]}  seen {row['seen_at']:%Y-%m-%d}"),
        "splits": ("split", lambda row: f"{row['execution_date']}  {row['split_to']:g}-for-{row['split_from']:g}"),
        "split_revisions": ("split was", _split_was),
        "dividends": ("dividend", lambda row: f"{row['ex_date']}  {row['cash_amount']:g} {row['currency']}"),
    }
    for row in known["rolls"]:
        before = f"from {row['from_id']} to" if row["from_id"] else "begins with"
        yield f"  roll        {row['session']}  {before} contract {row['instrument_id']}"
    for name, (word, line) in told.items():
        yield from (f"  {word:<10}  {line(row)}" for row in known[name])
        if more := known["counts"][name] - len(known[name]):
            yield f"  {word:<10}  and {more:,} before"


def _split_was(row: Mapping[str, Any]) -> str:
    """What was known of a split, and since when no longer."""
    new = f"{row['new_split_to']:g}-for-{row['new_split_from']:g}" if row["new_split_to"] else "taken back"
    old = f"{row['old_split_to']:g}-for-{row['old_split_from']:g}"
    return f"{row['execution_date']}  {old} until {row['seen_at']:%Y-%m-%d}, then {new}"


def _overview_lines(whole: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    span = f", {whole['first_session']} to {whole['last_session']}" if whole["bars"] else ""
    yield f"{whole['bars']:,} bars of {whole['tickers']:,} tickers{span}"
    gaps = ", ".join(f"{count:,} {reason}" for reason, count in sorted(whole["gaps"].items())) or "none"
    yield f"gaps {gaps}; quarantined {whole['quarantined']:,}; revisions {whole['revisions']:,}"
    for run in runs:
        yield (
            f"  {run['started_at']:%Y-%m-%d %H:%M}  {run['run_id']}  {run['flow']:<12}  {run['state']:<18}"
            f"  {run['actual_calls']:,} of {run['planned_calls']:,} calls, {run['inserted']:,} bars"
        )


def main() -> None:
    """The entry point: errors of ours become one readable line and an exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(CANNOT_RUN)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except ClosingbellError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(CANNOT_RUN)


if __name__ == "__main__":
    main()
