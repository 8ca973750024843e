"""``closingbell market``: serve the stand-in market."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from closingbell.errors import ClosingbellError
from closingbell.quota import Quota
from infra.market.config import Config
from infra.market.server import listen, serve


class _Instant(click.ParamType[datetime]):
    name = "instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not an instant such as 2026-03-02T21:30:00+00:00", param, ctx)
        if instant.tzinfo is None:
            self.fail(f"{value!r} has no offset from UTC; write 2026-03-02T21:30:00+00:00", param, ctx)
        return instant


class _Rate(click.ParamType[Quota | None]):
    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Quota | None:
        if value == "none":
            return None
        try:
            return Quota.parse(value)
        except ClosingbellError:
            self.fail(f"{value!r} is not a rate such as 5/min, 100/s, 5/6s, or none", param, ctx)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8787, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free port.")
@click.option(
    "--size", default=11_000, show_default=True, type=click.IntRange(1, 200_000), help="Tickers on a market day."
)
@click.option(
    "--seed", default=1792, show_default=True, type=click.IntRange(0, 2**63 - 1), help="Another seed, another market."
)
@click.option("--replay", type=click.Path(path_type=Path), help="Serve the bars of this file, or folder, instead.")
@click.option("--now", type=_Instant(), help="Freeze the clock at this instant (ISO 8601 with offset).")
@click.option(
    "--quota", default="none", show_default=True, type=_Rate(), help="Calls a key may make: 5/min, 100/s, 5/6s."
)
@click.option(
    "--window", default="rolling", show_default=True, type=click.Choice(["rolling", "fixed"]), help="Of the quota."
)
@click.option("--count-429/--no-count-429", default=True, show_default=True, help="Whether refused calls use up quota.")
@click.option(
    "--retry-after/--no-retry-after", default=True, show_default=True, help="Whether a 429 says how long to wait."
)
@click.option("--key", "keys", multiple=True, help="An accepted key; repeatable. Without any, every key is.")
@click.option("--entitled", default="stocks,crypto,fx", show_default=True, help="Asset classes of the plan.")
@click.option("--history-years", type=click.FloatRange(0, min_open=True), help="How far back the plan reaches.")
@click.option("--publish-delay", default=900.0, show_default=True, help="Seconds from a close until its bars are out.")
@click.option(
    "--ranges",
    default="clip",
    show_default=True,
    type=click.Choice(["clip", "refuse"]),
    help="A range that reaches past the history or the last published session: cut it, or refuse it whole.",
)
@click.option(
    "--status", default="OK", show_default=True, type=click.Choice(["OK", "DELAYED"]), help="Of good answers."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready.")
@click.option("--parent", type=int, hidden=True, help="Stop when this process is no longer our parent.")
def market(host: str, port: int, as_json: bool, parent: int | None, entitled: str, **settings: Any) -> None:
    """Serve a stand-in for Polygon's API, with generated bars or real ones from a file."""
    config = Config(entitled=tuple(part.strip() for part in entitled.split(",") if part.strip()), **settings)
    try:
        listener = listen(host, port)
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        serve(config, listener, lambda: _announce(url, config, as_json), parent)
    except ClosingbellError as error:
        raise click.ClickException(str(error)) from error


def _announce(url: str, config: Config, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode({"url": url, **config.summary()}).decode())
        return
    bars = f"bars of {config.replay}" if config.replay else f"{config.size:,} generated tickers, seed {config.seed}"
    click.echo(f"The market is open at {url}: {bars}.")
    click.echo(f"Quota: {config.quota or 'none'}. Log of calls: {url}/_market/calls. Ctrl-C closes it.")
