"""The command ``closingbell``. The commands that only read stand here; the others are found by entry point.

``closingbell`` imports neither Prefect nor the parts that start servers, so that ``--help`` answers at once and
the arrows keep pointing one way. Commands that need them register in the entry point group
``closingbell.commands``; what stands in for an unset DATABASE_URL, and what brings a schema up to date, in
``closingbell.provider``.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

import click

from closingbell import exits
from closingbell.errors import ClosingbellError, ConfigurationError
from closingbell.help import CELLS, HOW, SectionedCommand, SectionedOption

if TYPE_CHECKING:
    from closingbell.settings import Settings
    from closingbell.store import Store

#: Exit codes that scripts can rely on; :mod:`closingbell.exits` says what each means.
OK: Final = exits.OK
CELLS_FAILED: Final = exits.CELLS_FAILED
CANNOT_RUN: Final = exits.CANNOT_RUN

#: Objects from which on garbage is looked for, and how many times more of it the older ones are. By default a tenth of
#: the time in which a command loads Prefect goes into looking through what was loaded before.
_GARBAGE: Final = (10_000, 20, 50)


class Commands(exits.Commands):
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
    "doctor": "Check what a run needs and what is stored; say what to mend.",
    "ingest": "Fetch what is missing and store it.",
    "market": "Serve the stand-in for Polygon.",
    "picture": "Draw coverage, candlesticks, the last nights, or a page of all.",
    "plan": "Show which calls an ingest would make, and make none.",
    "reconcile": "Hold stored bars against what the vendor says now.",
    "retry": "Make calls for exactly the cells that failed.",
    "status": "Show what is stored, or what is known of one ticker.",
    "universe": "List the tickers of a universe, now or on a past date.",
    "up": "Serve the whole stack: UI, nightly schedule, worker.",
}


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
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
    metavar="TIMEFRAME",
    cls=SectionedOption,
    section=CELLS,
    help="1d, 1h, 30m, 15m, 5m or 1m; may be given again.",
)


source_option = click.option(
    "--source",
    type=click.Choice(["polygon", "databento"]),
    metavar="VENDOR",
    cls=SectionedOption,
    section=CELLS,
    help="polygon (or its stand-in; the default) or databento.",
)


def asking(command: Any) -> Any:
    """The options that say which cells: the same for ``plan``, ``ingest`` and ``backfill``."""
    which: dict[str, Any] = {"cls": SectionedOption, "section": CELLS}
    how: dict[str, Any] = {"cls": SectionedOption, "section": HOW}
    for option in reversed(
        (
            click.argument("names", nargs=-1, metavar="[TICKER]..."),
            click.option("--tickers", "-t", metavar="LIST", help="AAPL,BRK.B or @file, as the vendor writes.", **which),
            click.option(
                "--universe",
                "-u",
                metavar="NAME",
                help="sp500+etfs (the default), sp500, etfs, or sp500@2015-06-30.",
                **which,
            ),
            click.option("--start", type=Day(), help="First date. Default: two years back.", **which),
            click.option("--end", type=Day(), help="Last date. Default: the last published session.", **which),
            timeframe_option,
            source_option,
            click.option(
                "--recheck-sessions",
                type=click.IntRange(0, 250),
                metavar="N",
                default=0,
                help="The last N sessions again.",
                **how,
            ),
            click.option("--ask-again", is_flag=True, help="What is known as empty or not ours, too.", **how),
            click.option("--former-tickers", is_flag=True, help="Also what companies were called before.", **how),
            click.option(
                "--derive/--no-derive",
                default=False,
                help="Coarser bars from stored ones, no call.",
                **how,
            ),
            click.option(
                "--extended-hours/--regular-hours",
                default=None,
                help="Of stocks. Default: as EXTENDED_HOURS.",
                **how,
            ),
            click.option("--uncertain", is_flag=True, help="Futures of unknown origin: look closer.", **how),
        )
    ):
        command = option(command)
    return command


def either(universe: str | None, tickers: object) -> None:
    """Refuse a command that names both: one of them would be left out in silence.

    Raises:
        click.UsageError: both are given.
    """
    if universe is not None and tickers:
        raise click.UsageError(
            "Give tickers or --universe, not both; a file (--tickers @file) can hold the tickers of both."
        )


def tickers_of(asked: Mapping[str, Any]) -> str | None:
    """The tickers that a command names, with ``--tickers`` or without; None: none.

    Raises:
        click.UsageError: a universe is named as well.
        ConfigurationError: Databento has no such bars, or not of these dates. It is said before a database is opened.
    """
    from closingbell import universe as universes

    either(asked["universe"], asked["names"] or asked["tickers"] is not None)
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


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")


def show(value: Mapping[str, Any], lines: list[str], as_json: bool) -> None:
    """Print a result for a person, or for a program."""
    if as_json:
        click.echo(json.dumps(value, indent=2, default=str))
    else:
        click.echo("\n".join(lines))


@contextmanager
def opened(settings: Settings | None = None) -> Iterator[tuple[Settings, Store]]:
    """The settings, and the database they name or the one that stands in for it, at the newest migration.

    Args:
        settings: those to use; None: they are read.

    Raises:
        ConfigurationError: DATABASE_URL is unset, and nothing that could stand in for it is installed.
    """
    from closingbell.settings import load
    from closingbell.store import open_store

    settings = settings or load(_completed)
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
    from closingbell.provided import with_secrets

    return with_secrets(settings, key=True, warn=lambda text: click.echo(f"warning: {text}", err=True))


def _from_entry_point(name: str) -> Any:
    from closingbell.provided import provider

    if found := provider(name):
        return found
    raise ConfigurationError(
        "DATABASE_URL is not set, and no embedded database is installed",
        fix="Set it to postgresql://user:password@host/database or oracle://user:password@host/service.",
    )


@cli.command(cls=SectionedCommand)
@asking
@json_option
def plan(as_json: bool, **asked: Any) -> None:
    """Show which calls an ingest would make, and make none.

    Daily bars, unless --timeframe says otherwise.

    \b
    Examples:
      closingbell plan
      closingbell plan --tickers AAPL,MSFT --start 2024-01-02
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
    """Show what is stored and the last runs, or what is known of one ticker.

    Of a ticker: how far it is accounted for, its gaps with their reasons, bars in
    quarantine, revisions, splits, dividends, and who held it.

    \b
    Examples:
      closingbell status
      closingbell status AAPL
    """
    from closingbell.told import overview_lines, ticker_lines
    from closingbell.universe import check_ticker

    if ticker is not None:
        check_ticker(ticker)
    with opened() as (_, store):
        if ticker is not None:
            known = store.records.of_ticker(ticker)
            return show(known, list(ticker_lines(known)), as_json)
        whole, runs = store.records.overview(), store.records.runs()
    return show({**whole, "runs": runs}, list(overview_lines(whole, runs)), as_json)


@cli.command()
@click.option("--call", is_flag=True, help="Also make one call, to see that the key is accepted.")
@json_option
def doctor(call: bool, as_json: bool) -> None:
    """Check everything a run needs and what is stored, and say what to mend.

    Settings, home, key, database; the Prefect server with pool, worker,
    deployments and the quota's limit, where one is named or runs here; and every
    bar against the ledger, to the cell, which the next run mends.

    Exits with 1 when a cell is not accounted for, with 2 when no run could go on.

    \b
    Examples:
      closingbell doctor
      closingbell doctor --call
    """
    from closingbell import doctors
    from closingbell.clock import Clock
    from closingbell.settings import load

    findings, found, splits = [], {}, {}
    try:
        settings = load(_completed)
    except ClosingbellError as error:
        findings.append(doctors.failed("settings", error))
    else:
        findings += doctors.of_settings(settings)
        try:
            with opened(settings) as (_, store):
                found = store.records.audit()
                sources = {settings.source, *(source for source, _ in found)}
                splits = {source: n for source in sorted(sources) if (n := store.facts.splits_lost(source))}
                partitions = doctors.of_partitions(
                    store.records.prepared_until(), Clock(settings.closingbell_now).now().date()
                )
            findings.append(doctors.Finding("database", "reachable, at the newest migration"))
            findings += partitions
        except ClosingbellError as error:
            findings.append(doctors.failed("database", error))
        for entry in entry_points(group="closingbell.provider", name="checks"):
            findings += entry.load()(settings, call=call)
        findings += doctors.of_ledger(found, splits)
    show(doctors.as_json(findings, found, splits), [line for one in findings for line in one.lines()], as_json)
    if code := doctors.exit_code(findings):
        sys.exit(code)


@cli.command()
@click.argument("name", default="sp500+etfs", metavar="[NAME]")
@json_option
def universe(name: str, as_json: bool) -> None:
    """List the tickers of a universe, now or on a past date.

    \b
    NAME is one of
      sp500+etfs          the default: the S&P 500 and 20 large ETFs
      sp500, etfs         one of the two
      sp500@2015-06-30    the index on that day, under the tickers of that day

    \b
    Examples:
      closingbell universe
      closingbell universe sp500@2015-06-30
    """
    from closingbell import universe as universes

    tickers = universes.load(name)
    show({"universe": name, "tickers": tickers}, list(tickers), as_json)


def main() -> None:
    """The entry point: errors of ours become one readable line, or one JSON object, and an exit code."""
    gc.set_threshold(*_GARBAGE)
    sys.exit(cli.run())


if __name__ == "__main__":
    main()
