"""One HTML page of all pictures and the numbers behind them. It holds everything it shows and asks no network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any, Final

from closingbell.pictures import nights as nightly
from closingbell.pictures.candles import Candles
from closingbell.pictures.coverage import Coverage
from closingbell.pictures.nights import Night
from closingbell.pictures.png import Png
from closingbell.pictures.states import CELLS, STATES, State
from closingbell.report import duration
from closingbell.store.pictured import Cause
from closingbell.text import visible

#: Characters of an error that a table shows.
_LONGEST: Final = 300

#: So many tickers with open cells are listed.
_LISTED: Final = 25

_STATES: Final = {state.name: state for state in STATES}

# Nothing may be loaded, run, framed or sent, whatever a vendor's text says; styles and pictures stand in the page.
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5a5a5a; --line: #d8d8d8; --paper: #fbfbfa; --card: #fff;
  --code: #f0efec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e3; --soft: #aaa59e; --line: #3c3c40; --paper: #17181a;
  --card: #202124; --code: #2b2c30; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  overflow-wrap: anywhere; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .3rem 0 .8rem; } .soft { color: var(--soft); }
figure { margin: .8rem 0; padding: .4rem; background: #fff; border: 1px solid var(--line); border-radius: 6px;
  overflow-x: auto; }
figure img { display: block; max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .4rem 0 1rem; font-size: .9rem; background: var(--card); }
caption { text-align: left; color: var(--soft); padding: .2rem 0; }
th, td { text-align: left; vertical-align: top; padding: .28rem .7rem; border: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { font-weight: 600; } th, .nowrap, td code { white-space: nowrap; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { background: var(--code); padding: .08rem .3rem; border-radius: 3px; font-size: .88em; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border: 1px solid #8a8a8a; }
nav a { color: inherit; margin-right: 1rem; }
@media print { body { max-width: none; } figure { break-inside: avoid; } }
"""


@dataclass(frozen=True, slots=True)
class Covered:
    """A coverage with the causes behind it.

    Attributes:
        coverage: the cells.
        causes: why cells have no bar, the most first.
        more_causes: how many there are beyond these.
        more_cells: with how many cells.
    """

    coverage: Coverage
    causes: Sequence[Cause]
    more_causes: int = 0
    more_cells: int = 0


def page(
    covered: Sequence[Covered],
    nights: Sequence[Night],
    candles: Sequence[Candles],
    totals: Mapping[str, Any],
    as_of: datetime,
    *,
    scale: int = 2,
) -> str:
    """The page.

    Args:
        covered: what is stored, of each source and timeframe.
        nights: the last nights, the oldest first.
        candles: charts of tickers.
        totals: as :func:`closingbell.store.pictured.totals` counts them.
        as_of: the instant at which all was read, aware.
        scale: pixels for each point of the pictures.
    """
    links = [(f"coverage-{i}", _of(each.coverage)) for i, each in enumerate(covered)]
    links += [("nights", "nights")] + [(f"candles-{i}", chart.ticker) for i, chart in enumerate(candles)]
    body = [
        "<h1>closingbell</h1>",
        f'<p class="soft">As of {as_of:%Y-%m-%d %H:%M} UTC.</p>',
        "<nav>" + "".join(f'<a href="#{name}">{_text(text)}</a>' for name, text in links) + "</nav>",
        _totals(totals),
    ]
    if not covered:
        body.append("<h2>Coverage</h2><p>Nothing is stored yet. Next: <code>closingbell ingest</code></p>")
    for i, each in enumerate(covered):
        body += [f'<section id="coverage-{i}">', *_coverage(each, scale), "</section>"]
    body += ['<section id="nights">', *_nights(nights, scale), "</section>"]
    for i, chart in enumerate(candles):
        body += [f'<section id="candles-{i}">', *_candles(chart, scale), "</section>"]
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>closingbell, {as_of:%Y-%m-%d %H:%M} UTC</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n"
    )
    return head + "\n".join(body) + "\n</body>\n</html>\n"


def _text(value: object) -> str:
    """A text of anybody's as it can be shown: what could act in it, in a page or on the eye, is written out.

    An address reads as it is, but nothing that looks for addresses in the page takes it for one.
    """
    return escape(visible(str(value))).replace("//", "&#47;&#47;")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _picture(png: Png) -> str:
    source = f"data:image/png;base64,{b64encode(png.data).decode()}"
    size = f'width="{png.width}" height="{png.height}"'
    return f'<figure><img src="{source}" {size} alt="{_text(png.alt)}"></figure>'


def _table(caption: str, columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]], identity: str = "") -> str:
    """A table; of each column its name and whether it holds numbers. Cells are HTML already."""
    head = "".join(f'<th scope="col"{_number(is_number)}>{escape(name)}</th>' for name, is_number in columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td{_number(is_number)}>{cell}</td>" for cell, (_, is_number) in zip(row, columns, strict=True))
        + "</tr>\n"
        for row in rows
    )
    name = f' id="{identity}"' if identity else ""
    return (
        f'<div class="scroll"><table{name}><caption>{_text(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def _number(is_number: bool) -> str:
    return ' class="n"' if is_number else ""


def _command(text: str) -> str:
    return f"<code>{_text(text)}</code>"


def _next_step(state: State) -> str:
    return " ".join(part for part in (_command(state.do) if state.do else "", escape(state.note)) if part)


def _totals(totals: Mapping[str, Any]) -> str:
    rows = [[f"bars of {_text(source)}, {_text(timeframe)}", f"{n:,}"] for source, timeframe, n in totals["bars"]]
    words = {
        "gap": "gaps",
        "quarantine": "bars in quarantine",
        "revision": "revisions",
        "split": "splits",
        "dividend": "dividends",
        "event": "events",
        "run": "runs",
    }
    rows += [[word, f"{totals[name]:,}"] for name, word in words.items()]
    return _table("What the database holds, rows", [("what", False), ("rows", True)], rows, "totals")


def _of(coverage: Coverage) -> str:
    return f"{coverage.source} {coverage.timeframe}"


def _coverage(covered: Covered, scale: int) -> list[str]:
    coverage = covered.coverage
    counts = coverage.counts
    states = [
        [
            f'<span class="swatch" style="background: rgb{state.colour}"></span>{state.name}',
            f"{counts[state.name]:,}",
            _share(counts[state.name], coverage.cells),
            escape(state.means),
            _next_step(state) if counts[state.name] else "",
        ]
        for state in CELLS
    ]
    states.append(["all cells", f"{coverage.cells:,}", "", "", ""])
    told = [
        f"<h2>Coverage of {_text(_of(coverage))}</h2>",
        _picture(coverage.png(scale=scale)),
        _table(
            f"{coverage.title}: cells by state",
            [("state", False), ("cells", True), ("share", True), ("it means", False), ("next", False)],
            states,
        ),
    ]
    if covered.causes:
        told += ["<h3>Cells without a bar, by cause</h3>", _causes(covered)]
    several = coverage.open()
    if several:
        trouble = [state for state in reversed(CELLS) if any(state.name in row for row in several.values())]
        rows = [
            [_text(ticker), *(f"{row.get(state.name, 0):,}" for state in trouble), _command(_next(ticker))]
            for ticker, row in list(several.items())[:_LISTED]
        ]
        columns = [("ticker", False), *((state.name, True) for state in trouble), ("more of it", False)]
        more = len(several) - _LISTED
        caption = f"Tickers with open cells, most first{f'; {more:,} more are not listed' if more > 0 else ''}"
        told.append(_table(caption, columns, rows))
    return told


def _next(ticker: str) -> str:
    return f"closingbell status {ticker}"


def _share(count: int, whole: int) -> str:
    """A share that is never rounded to all or to nothing."""
    if not whole or not count:
        return ""
    share = 100 * count / whole
    if count < whole and share > 99.95:
        return "under 100 %"
    return "under 0.1 %" if share < 0.1 else f"{share:.1f} %"


def _causes(covered: Covered) -> str:
    rows = []
    for cause in covered.causes:
        names = ", ".join(_text(name) for name in cause.named)
        more = cause.tickers - len(cause.named)
        span = f"{cause.first}" if cause.first == cause.last else f"{cause.first} to {cause.last}"
        rows.append(
            [
                f'<span class="nowrap">{_text(cause.reason)}</span>',
                f"{cause.cells:,}",
                names + (f" and {more:,} more" if more > 0 else ""),
                f'<span class="nowrap">{span}</span>',
                _error(cause),
                _next_step(_STATES[cause.reason]),
            ]
        )
    if covered.more_causes:
        rows.append(["others", f"{covered.more_cells:,}", "", "", f"{covered.more_causes:,} more causes", ""])
    columns = [
        *(("reason", False), ("cells", True), ("tickers", False)),
        *(("sessions", False), ("cause, with an example", False), ("next", False)),
    ]
    return _table("The ledger's gaps, grouped by reason and cause, most cells first", columns, rows)


def _error(cause: Cause) -> str:
    """What failed; an example of it, where it says more."""
    if not cause.what:
        return '<span class="soft">no error is kept</span>'
    more = cause.example != cause.what
    return _text(_cut(cause.what)) + (f'<br><span class="soft">{_text(_cut(cause.example))}</span>' if more else "")


def _nights(nights: Sequence[Night], scale: int) -> list[str]:
    if not nights:
        return ["<h2>The last nights</h2>", "<p>No run yet. Next: <code>closingbell ingest</code></p>"]
    rows = []
    for night in reversed(nights):
        causes = "; ".join(f"{group['cells']:,} {_text(_cut(cause))}" for cause, group in night.failures.items())
        rows.append(
            [
                f'<span class="nowrap">{night.day}</span>',
                f"{night.runs:,}",
                ", ".join(map(_text, night.states)) or "no run",
                f"{night.inserted:,}",
                f"{night.rewritten:,}",
                f"{night.failed_cells:,}",
                f"{night.actual_calls:,}",
                f"{night.planned_calls:,}",
                duration(night.seconds) if night.runs else "",
                causes,
                "<br>".join(_command(command) for command in night.next_commands),
            ]
        )
    columns = [
        *(("night", False), ("runs", True), ("ended", False), ("inserted", True), ("rewritten", True)),
        *(("cells failed", True), ("calls", True), ("planned", True), ("time", True), ("causes", False)),
        ("next", False),
    ]
    caption = "Each night's runs together, the newest first; a night is a date in New York"
    return [
        f"<h2>{escape(nightly.title(nights))}</h2>",
        _picture(nightly.png(nights, scale=scale)),
        _table(caption, columns, rows, "night-table"),
    ]


def _candles(chart: Candles, scale: int) -> list[str]:
    told = [f"<h2>{_text(chart.ticker)}</h2>", _picture(chart.png(scale=scale))]
    if chart.splits:
        rows = [[str(day), f"{after:g}-for-{before:g}"] for day, before, after in chart.splits]
        told.append(_table("Splits", [("date", False), ("split", False)], rows))
    if chart.events:
        rows = [
            [
                f"{found['ts']:%Y-%m-%d %H:%M}",
                _text(found["kind"]),
                _price(found["upper"]),
                _price(found["lower"]),
                f"{found['bars']:,}",
                _text(f"{found['detector']} {found['version']}"),
            ]
            for found in chart.events
        ]
        columns = [
            *(("confirmed, UTC", False), ("kind", False), ("upper line", True), ("lower line", True)),
            *(("bars", True), ("found by", False)),
        ]
        told.append(_table("Events", columns, rows))
    if chart.gaps:
        rows = [[str(session), reason] for session, reason in chart.gaps[:_LISTED]]
        more = len(chart.gaps) - _LISTED
        caption = f"Sessions without a bar{f'; {more:,} more are not listed' if more > 0 else ''}"
        told.append(_table(caption, [("session", False), ("reason", False)], rows))
    return told


def _price(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}" if abs(value) < 1 else f"{value:,.2f}"
