"""``closingbell market``: serve the stand-in market."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from closingbell.errors import ClosingbellError
from closingbell.quota import Quota

if TYPE_CHECKING:
    from infra.market.config import Config


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
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Where to listen. Default: 127.0.0.1.")
@click.option(
    "--port", default=8787, type=click.IntRange(0, 65535), metavar="N", help="8787 if not set; 0: a free one."
)
@click.option("--replay", type=click.Path(path_type=Path), help="Serve the bars of this file, or folder.")
@click.option("--size", default=11_000, type=click.IntRange(1, 200_000), metavar="N", help="Generated tickers: 11000.")
@click.option(
    "--seed", default=1792, type=click.IntRange(0, 2**63 - 1), metavar="N", help="Of the generated bars: 1792."
)
@click.option("--now", type=_Instant(), help="Freeze the clock: 2026-03-02T21:30:00+00:00.")
@click.option("--quota", default="none", type=_Rate(), help="Of each key: 5/min, 100/s, 5/6s or none.")
@click.option("--window", default="rolling", type=click.Choice(["rolling", "fixed"]), help="Of the quota: rolling.")
@click.option("--count-429/--no-count-429", default=True, help="Refused calls use up quota, or not.")
@click.option("--retry-after/--no-retry-after", default=True, help="A 429 says how long to wait, or not.")
@click.option("--key", "keys", multiple=True, help="Accepted; repeatable. Default: any is.")
@click.option("--entitled", default="stocks,crypto,fx", metavar="LIST", help="Asset classes: stocks,crypto,fx.")
@click.option(
    "--history-years", type=click.FloatRange(0, min_open=True), metavar="N", help="How far back the plan reaches."
)
@click.option("--publish-delay", default=900.0, metavar="SECONDS", help="From a close until its bars are out: 900.")
@click.option(
    "--ranges",
    default="clip",
    type=click.Choice(["clip", "refuse"]),
    help="Those beyond the plan: cut them, or refuse.",
)
@click.option("--status", default="OK", type=click.Choice(["OK", "DELAYED"]), help="Of good answers: OK.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when ready.")
@click.option("--parent", type=int, hidden=True, help="Stop when this process is no longer our parent.")
def market(host: str, port: int, as_json: bool, parent: int | None, entitled: str, **settings: Any) -> None:
    """Serve a stand-in for Polygon's API, with generated bars or real ones from a file.

    \b
    Examples:
      closingbell market --quota 5/min
      closingbell market --replay bars.parquet --port 0
    """
    from infra.market.config import Config
    from infra.market.server import listen, serve

    config = Config(entitled=tuple(part.strip() for part in entitled.split(",") if part.strip()), **settings)
    listener = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listener.getsockname()[1]}"
    serve(config, listener, lambda: _announce(url, config, as_json), parent)


def _announce(url: str, config: Config, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"url": url, **config.summary()}))  # on one line, for who starts it reads one
        return
    bars = f"bars of {config.replay}" if config.replay else f"{config.size:,} generated tickers, seed {config.seed}"
    click.echo(f"The market is open at {url}: {bars}.")
    click.echo(f"Quota: {config.quota or 'none'}. Log of calls: {url}/_market/calls. Ctrl-C closes it.")
